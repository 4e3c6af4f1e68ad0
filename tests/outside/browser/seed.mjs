// Runs in every state that the pages have to show.
import { eventually } from "./gateway.mjs";
import { EVIL, EXACT } from "./handler.mjs";

export async function seed(gw, handler, names) {
  const url = `http://127.0.0.1:${handler.address().port}/`;
  await gw.post("/v1/endpoints", { name: "shop", url, discover: false, functions: names.map((name) => ({ name })) });
  await gw.post("/v1/endpoints", { name: "gone", url, discover: false, functions: [{ name: "nobody" }] });
  const runs = {
    completed: await gw.start("exact", `{"input": ${EXACT}, "tags": {"customer": ${JSON.stringify(EVIL)}}}`),
    waiting: await gw.start("approval", { key: "order-42", input: { amount: 42 } }),
    retrying: await gw.start("flaky"),
    paused: await gw.start("changed"),
    failed: await gw.start("fails"),
    running: await gw.start("slow"),
    scheduled: await gw.start("naps", { delay: "1h" }),
    parked: await gw.start("nobody"),
    cancelled: await gw.start("approval", { key: EVIL }),
    terminated: await gw.start("naps"),
    timed_out: await gw.start("naps", { timeouts: { run: "1s" } }),
    long: await gw.start("long", { key: "k".repeat(250) }),
  };
  await gw.post(`/v1/runs/${runs.cancelled.id}/cancel`, { reason: "changed my mind" });
  await gw.post(`/v1/runs/${runs.terminated.id}/terminate`);
  for (const [name, run] of Object.entries(runs)) {
    const status = name === "long" ? "completed" : name;
    await eventually(`${run.function} is ${status}`, async () => (await gw.get(`/v1/runs/${run.id}`)).status === status, 60_000);
  }
  return runs;
}
