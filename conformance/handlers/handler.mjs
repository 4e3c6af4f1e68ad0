// The functions of the conformance suite in Node, with its own modules alone.
//
//     PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… node handler.mjs

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

/** Ends the invocation with this answer. */
class Answer {
  constructor(answer) {
    this.answer = answer;
  }
}

/** A step has settled as an error. */
class StepError {
  constructor(error) {
    this.error = error;
  }
}

class Run {
  constructor(call) {
    this.call = call;
    this.input = call.input;
    this.steps = new Map(Object.entries(call.steps)); // a map, so that no step is `constructor`
  }

  /** The rest of the journal comes in pages. */
  async page() {
    let { upto, more } = this.call.journal;
    while (more) {
      const page = await this.fetch(`${this.call.links.journal}?after=${upto}`);
      for (const step of page.data) {
        this.steps.set(step.id, step);
        upto = Math.max(upto, step.seq ?? 0);
      }
      more = upto < page.upto;
    }
  }

  async fetch(url) {
    const reply = await fetch(url, { headers: { authorization: `bearer ${this.call.token}` } });
    if (!reply.ok) throw new Error(`${url}: ${reply.status}`);
    return reply.json();
  }

  /** The recorded value of a step; asks for it, or does it, where there is none. */
  async step(id, op, body) {
    const step = this.steps.get(id);
    if (!step) {
      const asked = { ...op, id };
      if (op.op === "run" && this.call.invocation.reason !== "replay") {
        try {
          asked.value = await body();
        } catch (error) {
          if (!(error instanceof StepError)) throw error;
          asked.error = error.error;
        }
      }
      throw new Answer({ ops: [asked] });
    }
    if (step.pending) throw new Answer({ await: id });
    if (step.error) throw new StepError(step.error);
    if (step.ref) return this.fetch(this.call.links.values + encodeURIComponent(id));
    return step.value;
  }

  run(id, body, fields) {
    return this.step(id, { op: "run", ...fields }, body);
  }

  async outcome(id, op) {
    try {
      return { value: await this.step(id, op) };
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      return { caught: error.error.type };
    }
  }
}

const tries = new Map(); // by run: how often the body ran

const functions = new Map(Object.entries({
  echo: (run) => run.input,

  facts: ({ call: { run } }) => ({ seed: run.seed, created_at: run.created_at, key: run.idempotency_prefix + "pay" }),

  async "three-steps"(run) {
    const a = await run.run("a", () => run.input.n + 1);
    const b = await run.run("b", () => a + 1);
    return [a, b, await run.run("c", () => b + 1)];
  },

  async names(run) {
    const values = [];
    for (const id of ["constructor", "__proto__", "größe/名", "a b%c?d#e", "map/3", "name#2"]) {
      values.push(await run.run(id, () => id));
    }
    return values;
  },

  refuse() {
    throw new Answer({ error: { type: "Refused", message: "as asked", data: { n: 1 } } });
  },

  tell(run) {
    if (run.steps.has("work")) return null;
    throw new Answer({ ops: [
      { op: "status", value: { at: "work" } },
      { op: "tags", value: { stage: "one" } },
      { op: "log", level: "info", message: "hello", fields: { n: 1 } },
      { op: "run", id: "work", value: 1 },
    ] });
  },

  async fail(run) {
    const { times, retry, after_ms, max_attempts = 10 } = run.input;
    const work = () => {
      const n = (tries.get(run.call.run.id) ?? 0) + 1;
      tries.set(run.call.run.id, n);
      if (n > times) return "worked";
      throw new StepError({ type: "Broken", message: "on purpose", retry, after_ms });
    };
    try {
      return { value: await run.run("work", work, { retry: { max_attempts, initial: "1s" } }) };
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      await run.run("undo", () => null);
      return { caught: error.error.type, attempts: error.error.attempts };
    }
  },

  once(run) {
    const step = run.steps.get("charge");
    if (!step) throw new Answer({ ops: [{ op: "start", id: "charge" }] });
    if (step.started) throw new Answer({ ops: [{ op: "run", id: "charge", value: "charged" }] });
    return run.outcome("charge");
  },

  async nap(run) {
    await run.step("nap", { op: "sleep", for: run.input.for });
    return "awake";
  },

  async signals(run) {
    const take = async (id, name) => {
      const got = await run.outcome(id, { op: "signal", name, timeout: run.input.timeout });
      return got.caught ?? got.value;
    };
    return [await take("a/1", "a"), await take("a/2", "a"), await take("b", "b")];
  },

  async callback(run) {
    await run.run("told", () => run.call.links.callback + "approval");
    return run.outcome("approval", { op: "callback", timeout: run.input.timeout });
  },

  parallel(run) {
    const { mode } = run.input;
    const ids = ["p/1", "p/2", "p/3"];
    const settled = ids.map((id) => [id.slice(2), run.steps.get(id)]).filter(([, step]) => step?.seq);
    const failed = settled.some(([, step]) => step.error);
    if (settled.length < 3 && !(settled.length && mode === "any") && !(failed && mode === "all")) {
      const ops = ids.filter((id) => !run.steps.has(id)).map((id) => ({ op: "callback", id }));
      throw new Answer({ ops, await: { [mode]: ids } });
    }
    return Object.fromEntries(settled.map(([n, step]) => [n, step.error ? { error: step.error.type } : step.value]));
  },

  async compensate(run) {
    await run.run("reserve", () => null);
    if (!run.call.cancel) await run.step("wait", { op: "signal", name: "never" });
    await run.run("release", () => null);
    throw new Answer({ error: { type: "Cancelled", message: "as asked" } });
  },

  async big(run) {
    const blob = await run.run("blob", () => "x".repeat(run.input.bytes));
    return run.run("size", () => blob.length);
  },

  async many(run) {
    let sum = 0;
    for (let n = 1; n <= run.input.count; n++) sum += await run.run(`s/${n}`, () => n);
    return sum;
  },

  async count(run) {
    const { left, seen } = run.input;
    seen.push(await run.run("tick", () => run.call.run.idempotency_prefix + "tick"));
    if (left) throw new Answer({ continue: { input: { left: left - 1, seen } } });
    return seen;
  },

  async chain(run) {
    let { from, to, sum } = run.input;
    for (; from <= to; from++) {
      if (!run.steps.has(`s/${from}`) && run.call.journal.continue_suggested) {
        throw new Answer({ continue: { input: { from, to, sum } } });
      }
      sum += await run.run(`s/${from}`, () => from);
    }
    return sum;
  },
}));

async function answer(call) {
  if (call.type === "discover") {
    const names = [...functions.keys()].map((name) => ({ name }));
    return [200, { protocol: [1, 1], pages: true, functions: names }];
  }
  const body = call.type === "run" && functions.get(call.function);
  if (!body) return [404, {}];
  try {
    const run = new Run(call);
    await run.page();
    return [200, { result: await body(run) }];
  } catch (error) {
    if (!(error instanceof Answer)) throw error;
    return [200, error.answer];
  }
}

/** Standard Webhooks: HMAC-SHA256 over the body as it came. */
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

createServer(async (request, response) => {
  let [status, reply] = [500, {}];
  try {
    const body = Buffer.concat(await request.toArray());
    const signed = isSigned(request.headers, body, process.env.STEPWELL_SIGNING_SECRET);
    [status, reply] = signed ? await answer(JSON.parse(body)) : [401, {}];
  } catch (error) {
    if (!request.destroyed) console.error(error);
  }
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(reply));
}).listen(Number(process.env.PORT ?? 3000), "127.0.0.1");
