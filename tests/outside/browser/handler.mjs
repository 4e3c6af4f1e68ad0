// A handler whose functions bring a run into every state that the pages have to show.
import http from "node:http";

/** Text that would do harm if a page took it for markup. */
export const EVIL = `<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">`;
/** JSON that must be shown byte for byte: JSON.parse would change each number in it. */
export const EXACT = `{"huge": 3544790567247868102, "one": 1.0, "far": 1e400, "who": "Žofie 日本語 🧶 עברית", "evil": ${JSON.stringify(EVIL)}}`;

const settled = (steps, id) => steps[id] && ("value" in steps[id] || "error" in steps[id]);
const run = (id, value) => ({ op: "run", id, value });

/** Whether what is brittle breaks. */
export const broken = { now: true };

const FUNCTIONS = {
  exact: ({ steps }) => settled(steps, "copy")
    ? `{"ops": [{"op": "status", "value": "done"}, {"op": "log", "level": "warn", "message": ${JSON.stringify(EVIL)}}], "result": ${EXACT}}`
    : `{"ops": [{"op": "run", "id": "copy", "value": ${EXACT}}]}`,
  approval: ({ steps, cancel }) => {
    if (cancel) return { error: { type: "Cancelled", message: cancel.reason } };
    if (!settled(steps, "charge")) return { ops: [run("charge", { charged: 42 }), { op: "log", level: "info", message: "charged" }] };
    if (!settled(steps, "approval")) return { ops: [{ op: "signal", id: "approval", name: "approved", timeout: "3d" }], await: "approval" };
    return { result: { approved: steps.approval.value } };
  },
  flaky: ({ steps }) => settled(steps, "charge")
    ? { result: null }
    : { ops: [{ op: "run", id: "charge", error: { type: "HttpError", message: "503 Service Unavailable\n" + EVIL, stack: "at charge (shop.js:12)\nat order (shop.js:3)" } }] },
  // The second invocation reports the step as another kind of work.
  changed: ({ steps }) => settled(steps, "charge") ? { ops: [{ op: "sleep", id: "charge", for: "1s" }] } : { ops: [run("charge", 1)] },
  broken: () => null,
  fails: () => ({ error: { type: "CardDeclined", message: "The card was declined." } }),
  slow: () => new Promise(() => {}),
  naps: () => ({ ops: [{ op: "sleep", id: "nap", for: "1h" }] }),
  long: ({ steps }) => Object.keys(steps).length < 1000
    ? { ops: Array.from({ length: 1000 }, (_, i) => run(`map/${i}/resize`, { i })) }
    : { result: "x".repeat(400_000) },
  huge: ({ steps }) => {
    const done = Object.keys(steps).length;
    return done < 10_000 ? { ops: Array.from({ length: 1000 }, (_, i) => run(`item/${done + i}`, done + i)) } : { result: done };
  },
  // Fails for good, until it is rewound.
  brittle: ({ steps }) => settled(steps, "charge")
    ? steps.charge.error ? { error: { type: "Charge", message: steps.charge.error.message } } : { result: "charged" }
    : { ops: [broken.now ? { op: "run", id: "charge", error: { type: "Declined", message: "no funds", retry: false } } : run("charge", 1)] },
  // Each generation has one step; the third waits.
  counter: ({ steps, input }) => {
    const n = input?.n ?? 1;
    if (!settled(steps, `count-${n}`)) return { ops: [run(`count-${n}`, n)] };
    return n < 3 ? { continue: { input: { n: n + 1 } } } : { ops: [{ op: "signal", id: "enough", name: "enough" }], await: "enough" };
  },
  // Waits for an event of its order.
  paid: ({ steps, input }) => settled(steps, "payment")
    ? { result: { paid: steps.payment.value.data } }
    : { ops: [{ op: "event", id: "payment", event: "payment.received", match: { "data.order": input.order }, timeout: "2d" }], await: "payment" },
  // A task that is done, one whose attempts fail, and one that has been accepted and shows signs of life.
  album: ({ steps }) => ["done", "fails", "held"].every((id) => settled(steps, `resize/${id}`))
    ? { result: "all" }
    : { ops: ["done", "fails", "held"].map((how) => ({ op: "task", id: `resize/${how}`, task: "resize", input: { how }, heartbeat: "1h", retry: { initial: "300ms", max_interval: "1s", max_attempts: 1000 } })), await: { all: ["resize/done", "resize/fails", "resize/held"] } },
  // Waits for somebody who fills a form.
  form: ({ steps }) => settled(steps, "form")
    ? steps.form.error ? { error: { type: "Refused", message: steps.form.error.message } } : { result: steps.form.value }
    : { ops: [{ op: "callback", id: "form", timeout: "2d" }], await: "form" },
  // Calls that the gateway makes: one is answered, one is refused.
  bills: ({ steps, input }) => settled(steps, "bill") && settled(steps, "receipt")
    ? { ops: [{ op: "signal", id: "more", name: "more" }], await: "more" }
    : { ops: [{ op: "call", id: "bill", request: { url: `${input.url}bank/ok`, body: { amount: 42 } } }, { op: "call", id: "receipt", request: { url: `${input.url}bank/teapot` } }], await: { all: ["bill", "receipt"] } },
  // An object: each run adds an item, once it is let.
  cart: ({ steps, input, object }) => settled(steps, "go")
    ? { ops: [{ op: "set", key: "items", value: [...(object.state.items ?? []), input.item] }], result: null }
    : { ops: [{ op: "signal", id: "go", name: "go" }], await: "go" },
  // Puts out what it is told by signals: `text` and `json` as they are, `lines` so many numbered ones, `wide` one that is so wide.
  talks: ({ steps }) => {
    const heard = Object.keys(steps).filter((id) => settled(steps, id)).length;
    const say = heard ? steps[`say/${heard - 1}`].value : {};
    if (say.end) return { result: null };
    const lines = Array.from({ length: say.lines ?? 0 }, (_, i) => `line ${(say.from ?? 0) + i}\n`);
    if (say.wide) lines.push(`${"x".repeat(say.wide)}end`);
    const data = [...lines, ...(say.text === undefined ? [] : [say.text]), ...(say.json === undefined ? [] : [say.json])];
    return { ops: [...data.map((data) => ({ op: "chunk", stream: say.stream ?? "answer", data })), { op: "signal", id: `say/${heard}`, name: "say" }], await: `say/${heard}` };
  },
  hello: ({ steps, input }) => settled(steps, "greet")
    ? { result: { greeting: steps.greet.value } }
    : { ops: [run("greet", `Hello, ${input.name}`)] },
};

const TASKS = {
  done: () => ({ value: { width: 640 } }),
  fails: () => ({ error: { type: "OutOfMemory", message: "the picture is too large" } }),
  // Accepted; then a sign of life that says how far it is.
  held: ({ links }) => {
    void fetch(links.heartbeat, { method: "POST", headers: { "content-type": "application/json" }, body: '{"percent": 40.0}' });
    return 202;
  },
};

/** What `mail` says of itself. */
export const manifest = {
  protocol: [1, 1], sdk: "by-hand/1", version: "7c1e",
  functions: [
    { name: "welcome", versioning: "pinned", triggers: [{ event: "user.signed-up", match: { "data.plan": "pro" } }], input_schema: {
      type: "object", required: ["name", "plan"], properties: {
        name: { type: "string", title: "Name", description: "As it is on the letter." }, plan: { enum: ["free", "pro"] }, seats: { type: "integer", minimum: 1, default: 3 },
        trial: { type: "boolean" }, extra: { type: "object" } } } },
  ],
};

/** The bank that is called, and the mail: another endpoint that can be discovered. */
function beside(url, call) {
  if (url === "/bank/ok") return { charged: 42 };
  if (url === "/bank/teapot") return 418;
  if (call.type === "discover") return manifest;
  return call.input?.wait ? { ops: [{ op: "signal", id: "go", name: "go" }], await: "go" } : { result: { written: call.input } };
}

/** Serves them; gives the server. */
export async function serve() {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const call = body ? JSON.parse(body) : {};
    const answer = request.url !== "/" ? beside(request.url, call) : call.type === "task" ? TASKS[call.input.how](call) : await FUNCTIONS[call.function]?.(call);
    response.writeHead(typeof answer === "number" ? answer : answer ? 200 : answer === null ? 500 : 404, { "content-type": "application/json" });
    response.end(typeof answer === "string" ? answer : JSON.stringify(answer ?? { message: "out of order" }));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}

/** The names of the functions, for the registration. */
export const names = [...Object.keys(FUNCTIONS)];
