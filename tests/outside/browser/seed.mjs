// Runs in every state that the pages have to show, and what else there is to be shown.
import { eventually } from "./gateway.mjs";
import { EVIL, EXACT, manifest } from "./handler.mjs";

const urlOf = (handler) => `http://127.0.0.1:${handler.address().port}/`;

export async function seed(gw, handler) {
  const url = urlOf(handler);
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

/** Events, tasks, calls, generations, a deployment that is still in use, keys and secrets. */
export async function seedMore(gw, handler, names) {
  const url = urlOf(handler);
  await gw.post("/v1/endpoints", { name: "shop", url, discover: false, functions: names.map((name) => ({ name })) });
  await gw.post("/v1/endpoints", { name: "mail", url: `${url}mail` });
  const more = {
    album: await gw.start("album"), bills: await gw.start("bills", { input: { url } }), counter: await gw.start("counter"),
    paid: await gw.start("paid", { input: { order: 42 }, key: "invoice-7" }), pinned: await gw.start("welcome", { input: { wait: true } }),
    taken: await gw.post("/v1/events?wait=30", { name: "user.signed-up", source: EVIL, data: { plan: "pro", note: EVIL } }),
    untaken: await gw.post("/v1/events?wait=30", { name: "nobody.cares", data: [1.0, EVIL] }),
    key: await gw.post("/v1/keys", { name: "ci", scopes: ["runs:read", "admin"] }),
  };
  await gw.post("/v1/secrets", { name: "stripe", value: "sk_test_of_nobody" });
  const becomes = (name, word) => eventually(`${name} is ${word}`, async () => (await gw.get(`/v1/runs/${more[name].id}`)).status === word, 60_000);
  await Promise.all([becomes("pinned", "waiting"), becomes("counter", "waiting"), becomes("bills", "waiting"), becomes("album", "retrying")]);
  manifest.version = "8d2f";
  await gw.post("/v1/endpoints/mail/sync");
  return more;
}
