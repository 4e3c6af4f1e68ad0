// A shop whose runs look like those of real ones.
import http from "node:http";

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const settled = (steps, id) => steps[id] && ("value" in steps[id] || "error" in steps[id]);

/** One step of work: it takes its time, and says so. */
async function work(id, ms, value) {
  await pause(ms);
  return { ops: [{ op: "run", id, ms, value }] };
}

const FUNCTIONS = {
  async checkout({ steps, input }) {
    if (!settled(steps, "validate-cart")) return work("validate-cart", 35, { items: 3, total: input.amount });
    if (!settled(steps, "reserve-stock")) return work("reserve-stock", 160, { warehouse: "PRG-2", until: "18:00" });
    if (!settled(steps, "fraud-window")) return { ops: [{ op: "sleep", id: "fraud-window", for: "1500ms" }], await: "fraud-window" };
    if (!settled(steps, "charge-card")) {
      await pause(240);
      if (input.trouble) return { ops: [{ op: "log", level: "warn", message: "the card processor is not well" }, { op: "run", id: "charge-card", ms: 240, error: { type: "ProcessorError", message: "503 Service Unavailable", stack: "ProcessorError: 503 Service Unavailable\n    at chargeCard (shop/payment.ts:48:11)\n    at checkout (shop/checkout.ts:21:5)" } }] };
      return work("charge-card", 90, { charge: `ch_${input.order}`, amount: input.amount });
    }
    if (!settled(steps, "approval")) return { ops: [{ op: "log", level: "info", message: `charged order ${input.order}` }, { op: "signal", id: "approval", name: "approved", timeout: "2d" }], await: "approval" };
    if (!settled(steps, "ship-parcel")) return work("ship-parcel", 120, { tracking: `tr_${input.order}` });
    return { result: { order: input.order, tracking: steps["ship-parcel"].value.tracking } };
  },
  refund: async ({ steps }) => (settled(steps, "look-up-order") ? { ops: [{ op: "sleep", id: "look-up-order", for: "1s" }] } : work("look-up-order", 60, { order: 4699, amount: 5400 })),
  // Begun by an event, waits for another.
  async onboard({ steps, input }) {
    if (!settled(steps, "send-welcome")) return work("send-welcome", 45, { mail: "queued" });
    if (!settled(steps, "verified")) return { ops: [{ op: "event", id: "verified", event: "customer.verified", match: { "data.id": input.data?.id ?? input.id }, timeout: "14d" }], await: "verified" };
    if (!settled(steps, "open-account")) return work("open-account", 80, { account: "acc_918" });
    return { result: { account: "acc_918" } };
  },
  // A fan-out of tasks.
  gallery: ({ steps, input }) => {
    const ids = input.pictures.map((p) => `thumbnail/${p}`);
    return ids.every((id) => settled(steps, id)) ? { result: ids.length }
      : { ops: ids.map((id) => ({ op: "task", id, task: "thumbnail", input: { picture: id.slice(10), width: 320 }, heartbeat: "10m", retry: { initial: "1s", max_attempts: 1000 } })), await: { all: ids } };
  },
  // Calls that the gateway makes itself.
  payout: ({ steps, input }) => settled(steps, "post-ledger") && settled(steps, "notify-bank") ? { result: "paid out" }
    : { ops: [
      { op: "call", id: "post-ledger", request: { url: `${input.url}ledger`, body: { account: "acc_918", amount: 129_00 }, headers: { "x-tenant": "acme" } } },
      { op: "call", id: "notify-bank", request: { url: `${input.url}bank`, body: { iban: "CZ65 0800 0000 1920 0014 5399" } }, retry: { initial: "2s", max_attempts: 1000 } },
    ], await: { all: ["post-ledger", "notify-bank"] } },
  // Goes on for ever, in generations.
  async digest({ steps, input }) {
    const day = input?.day ?? 1;
    if (!settled(steps, "collect")) return work("collect", 70, { articles: 14 + day });
    if (!settled(steps, "send")) return work("send", 110, { sent: 2318 });
    if (day < 4) return { continue: { input: { day: day + 1 } } };
    return { ops: [{ op: "sleep", id: "until-tomorrow", for: "9h" }], await: "until-tomorrow" };
  },
  // Takes its time, as far as anybody has waited.
  "render-report": () => new Promise(() => {}),
  remind: () => ({ result: null }),
  // Goes wrong in more than one way, and each of them many times.
  async "import-orders"({ steps, input }) {
    const { file, row } = input;
    if (!settled(steps, "fetch-file")) return row % 7 === 3 ? { ops: [{ op: "run", id: "fetch-file", error: { type: "NotFound", message: `The file "${file}" is not in the bucket.`, retry: "never" } }] } : work("fetch-file", 40, { file, bytes: 18_220 });
    if (steps["fetch-file"].error) return { error: steps["fetch-file"].error };
    return { ops: [{ op: "run", id: "read-rows", error: { type: "InvalidRow", message: `Row ${row} of ${file}: the price “12,90” is no number.`, retry: "never" } }], error: { type: "InvalidRow", message: `Row ${row} of "${file}": the price is no number.` } };
  },
  newsletter: () => ({ error: { type: "NoRecipients", message: "The list “nobody” has no members." } }),
};

/** What the shop says of itself; a later version is another deployment. */
export const manifest = {
  protocol: [1, 1], sdk: "stepwell-ts/0.1.0", version: "2026.11.1",
  functions: [
    { name: "checkout" }, { name: "refund" }, { name: "newsletter", timeouts: { run: "1h" } }, { name: "gallery", tasks: ["thumbnail"] }, { name: "payout" }, { name: "digest" }, { name: "import-orders" },
    { name: "render-report", concurrency: [{ limit: 2, key: "input.tenant" }, { limit: 8 }] }, { name: "remind", throttle: { limit: 20, period: "1m" } },
    { name: "onboard", versioning: "pinned", retry: { max_attempts: 5 }, triggers: [{ event: "customer.created", match: { "data.plan": "pro" } }], input_schema: {
      type: "object", required: ["id", "plan"], properties: {
        id: { type: "string", title: "Customer", description: "As it is in the shop, such as cus_20417." }, plan: { enum: ["free", "pro"], title: "Plan", default: "pro" },
        seats: { type: "integer", title: "Seats", minimum: 1, default: 3 }, trial: { type: "boolean", title: "On trial" }, address: { type: "object", title: "Address" } } } },
  ],
};

const TASKS = {
  // Accepted; it says how far it is, and settles later.
  "panorama.tif": ({ links }) => {
    void fetch(links.heartbeat, { method: "POST", headers: { "content-type": "application/json" }, body: '{"tiles": 212, "of": 640}' });
    return 202;
  },
  "scan-0007.png": () => ({ error: { type: "DecodeError", message: "unexpected end of file at byte 40960" } }),
};

async function answerOf(url, call) {
  if (url === "/ledger") return { entry: "led_77120" };
  if (url !== "/") return 503;
  if (call.type === "discover") return manifest;
  if (call.type === "task") { await pause(120); return TASKS[call.input.picture]?.(call) ?? { value: { bytes: 18_220 } }; }
  return (await FUNCTIONS[call.function]?.(call)) ?? 503;
}

export async function shop() {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const answer = await answerOf(request.url, body ? JSON.parse(body) : {});
    response.writeHead(typeof answer === "number" ? answer : 200, { "content-type": "application/json" });
    response.end(JSON.stringify(typeof answer === "number" ? { error: "it is being deployed" } : answer));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}
