// A durable function in JavaScript, on Node 20 without any package.
//
//     PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… node order.mjs
//
// An order is charged, packed (the machine jams twice), approved by somebody, left to cool off and
// shipped. The gateway calls this program again and again with the steps that are recorded so far;
// each time it does the first one that is missing, and answers. What is recorded never runs again.

import { createHmac, timingSafeEqual } from "node:crypto";
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

async function order(call) {
  const { input: order, steps, run } = call;
  const done = (id) => Object.hasOwn(steps, id); // `in` would find a step named "constructor"

  if (call.cancel) return { error: { type: "Cancelled", message: "the order was cancelled" } };
  for (const [id, step] of Object.entries(steps)) {
    if (step.pending) return {}; // asked for and not settled yet: nothing to do until it is
    // Its retries are used up, or nobody approved in time.
    if (step.error) return { error: { type: step.error.type, message: `${id}: ${step.error.message}` } };
  }

  if (!done("charge")) return work(call, "charge", () => charge(order, run.idempotency_prefix + "charge"));
  if (!done("pack")) return work(call, "pack", () => pack(order, run.id));
  if (!done("approved")) return { ops: [{ op: "signal", id: "approved", name: "approved", timeout: "1h" }] };
  if (!done("cool-off")) return { ops: [{ op: "sleep", id: "cool-off", for: order.cool_off ?? "2s" }] };
  if (!done("ship")) return work(call, "ship", () => ship(order, run.idempotency_prefix + "ship"));

  return {
    result: {
      order: order.order,
      charged: steps.charge.value.amount,
      packed: steps.pack.value.parcel,
      approved_by: steps.approved.value?.by ?? null,
      shipped: steps.ship.value.tracking,
    },
  };
}

// The work itself. A step that is cut off by a crash before its answer is recorded runs again, so
// what it does to the outside world is given a key that is the same each time.

async function charge(order, key) {
  return { id: `ch_${order.order}`, amount: order.amount };
}

const jams = new Map(); // by run: how often the packing machine has jammed

async function pack(order, run) {
  const jam = (jams.get(run) ?? 0) + 1;
  jams.set(run, jam);
  if (jam <= 2) throw new Error("the packing machine is jammed");
  jams.delete(run);
  return { parcel: `pa_${order.order}` };
}

async function ship(order, key) {
  return { tracking: `tr_${order.order}` };
}

/** Does a step and reports how it ended. A failure is tried again by the gateway, later. */
async function work(call, id, body) {
  const op = { op: "run", id };
  if (call.invocation.reason === "replay") return { ops: [op] }; // only asks what we would do: do nothing
  log(`${call.run.id} ${id}`);
  try {
    op.value = await body();
  } catch (error) {
    op.error = { type: error.name, message: error.message, stack: error.stack };
  }
  return { ops: [op] };
}

function log(line) {
  console.log(line);
  if (process.env.ORDER_LOG) appendFileSync(process.env.ORDER_LOG, line + "\n");
}

// Serving it.

const functions = new Map([["order", order]]);

/** The HTTP status and the JSON that answer a call. */
async function answer(call) {
  if (call.type === "discover") {
    const names = [...functions.keys()].map((name) => ({ name }));
    return [200, { protocol: [1, 1], transports: ["respond"], functions: names }];
  }
  const run = call.type === "run" && functions.get(call.function);
  return run ? [200, await run(call)] : [404, { message: `no ${call.type} of ${call.function} here` }];
}

/** Whether the call is the gateway's: Standard Webhooks, HMAC-SHA256 over the body as it came. */
function isSigned(headers, body, secret) {
  const id = headers["webhook-id"] ?? "";
  const at = headers["webhook-timestamp"] ?? "";
  if (!/^\d+$/.test(at) || Math.abs(Date.now() / 1000 - Number(at)) > 300) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const mac = createHmac("sha256", key).update(`${id}.${at}.`).update(body).digest("base64");
  const ours = Buffer.from(`v1,${mac}`);
  return (headers["webhook-signature"] ?? "").split(" ").some((text) => {
    const theirs = Buffer.from(text);
    return theirs.length === ours.length && timingSafeEqual(theirs, ours);
  });
}

const server = createServer(async (request, response) => {
  let [status, reply] = [500, { message: "this handler has a bug" }];
  try {
    const body = Buffer.concat(await request.toArray());
    const secret = process.env.STEPWELL_SIGNING_SECRET;
    if (secret && !isSigned(request.headers, body, secret)) {
      [status, reply] = [401, { message: "the signature is not right" }];
    } else {
      [status, reply] = await answer(JSON.parse(body));
    }
  } catch (error) {
    console.error(error);
  }
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(reply));
});
server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1");
