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
  newsletter: () => ({ error: { type: "NoRecipients", message: "The list “nobody” has no members." } }),
};

export async function shop() {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const call = request.url === "/" ? JSON.parse(body) : null;
    const answer = call ? await FUNCTIONS[call.function]?.(call) : null;
    response.writeHead(answer ? 200 : 503, { "content-type": "application/json" });
    response.end(JSON.stringify(answer ?? { error: "billing is being deployed" }));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}
