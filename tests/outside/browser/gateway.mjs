// `stepwell dev` with a throw-away database, on a free port.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import net from "node:net";

const BINARY = process.env.STEPWELL ?? new URL("../../../target/debug/stepwell", import.meta.url).pathname;

async function freePort() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  return port;
}

/** Waits until `holds` gives something true, and gives it. */
export async function eventually(what, holds, ms = 90_000) {
  for (const until = Date.now() + ms; Date.now() < until;) {
    const got = await holds();
    if (got) return got;
    await new Promise((done) => setTimeout(done, 25));
  }
  throw new Error(`never: ${what}`);
}

/**
 * A running gateway: its URL, calls of its API, and ways to end it. With a data directory it can be
 * killed and started again.
 */
export async function gateway({ dataDir } = {}) {
  if (!existsSync(BINARY)) throw new Error(`${BINARY} is not there: cargo build, or set STEPWELL`);
  const url = `http://127.0.0.1:${await freePort()}`;
  const where = dataDir ? ["--data-dir", dataDir] : ["--ephemeral"];
  let child;
  const run = async () => {
    child = spawn(BINARY, ["dev", ...where, "--port", new URL(url).port], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    child.stderr.on("data", (text) => { log += text; });
    await eventually("the gateway is ready", async () => {
      if (child.exitCode !== null) throw new Error(`the gateway ended:\n${log}`);
      return (await fetch(`${url}/readyz`).catch(() => null))?.ok;
    }, 90_000);
  };
  const end = async (signal) => { child.kill(signal); if (child.exitCode === null && child.signalCode === null) await once(child, "exit"); };
  await run();
  const post = async (path, body) => {
    const text = typeof body === "string" ? body : JSON.stringify(body ?? {});
    const response = await fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: text });
    const answer = await response.text();
    if (!response.ok) throw new Error(`POST ${path}: ${response.status} ${answer}`);
    return answer ? JSON.parse(answer) : null;
  };
  return {
    url, post,
    get: async (path) => (await fetch(url + path)).json(),
    start: (name, body) => post(`/v1/functions/${name}/runs`, body),
    kill: () => end("SIGKILL"), again: run,
    stop: () => end("SIGTERM"),
  };
}
