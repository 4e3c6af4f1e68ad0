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
  // Fails for good, until it is rewound.
  brittle: ({ steps }) => settled(steps, "charge")
    ? steps.charge.error ? { error: { type: "Charge", message: steps.charge.error.message } } : { result: "charged" }
    : { ops: [broken.now ? { op: "run", id: "charge", error: { type: "Declined", message: "no funds", retry: false } } : run("charge", 1)] },
  hello: ({ steps, input }) => settled(steps, "greet")
    ? { result: { greeting: steps.greet.value } }
    : { ops: [run("greet", `Hello, ${input.name}`)] },
};

/** Serves them; gives the server. */
export async function serve() {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const call = JSON.parse(body);
    const answer = await FUNCTIONS[call.function]?.(call);
    response.writeHead(answer ? 200 : answer === null ? 500 : 404, { "content-type": "application/json" });
    response.end(typeof answer === "string" ? answer : JSON.stringify(answer ?? { message: "out of order" }));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}

/** The names of the functions, for the registration. */
export const names = [...Object.keys(FUNCTIONS)];
