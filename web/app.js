// The last runs, and the journal of one of them, live. Payloads are only ever shown as text.

const STATUSES = ["scheduled", "queued", "running", "waiting", "retrying", "parked", "paused",
  "completed", "failed", "cancelled", "timed_out", "terminated"];
const REFRESH_MS = 5000;

const $ = (id) => document.getElementById(id);
const key = { get: () => sessionStorage.getItem("key"), set: (k) => sessionStorage.setItem("key", k) };

/** An element with attributes and children; strings become text, never markup. */
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

function notice(text) {
  $("notice").textContent = text ?? "";
  $("notice").hidden = !text;
}

async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("authorization", `Bearer ${key.get()}`);
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) $("key-form").hidden = false;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail ?? `The server answered ${response.status}.`);
  }
  return response;
}

const when = (time) => time
  ? el("time", { datetime: time, title: time }, new Date(time).toLocaleString())
  : "";
const status = (word) => el("span", { class: `status ${STATUSES.includes(word) ? word : ""}` }, word);

/**
 * The members of a JSON object as [name, text], each text exactly as the server wrote it:
 * JSON.parse would turn 3544790567247868102 into another number.
 */
function members(json) {
  const out = new Map();
  let i = 0;
  const space = () => { while (" \t\r\n".includes(json[i]) && i < json.length) i++; };
  const string = () => { const from = i++; while (json[i] !== '"') i += json[i] === "\\" ? 2 : 1; i++; return json.slice(from, i); };
  const value = () => {
    const from = i;
    if (json[i] === '"') return string();
    if (json[i] === "{" || json[i] === "[") {
      let depth = 0;
      do {
        if (json[i] === '"') { string(); continue; }
        if ("{[".includes(json[i])) depth++;
        if ("}]".includes(json[i])) depth--;
        i++;
      } while (depth > 0);
      return json.slice(from, i);
    }
    while (i < json.length && !",]} \t\r\n".includes(json[i])) i++;
    return json.slice(from, i);
  };
  space(); i++; space();
  while (i < json.length && json[i] !== "}") {
    const name = JSON.parse(string());
    space(); i++; space();
    out.set(name, value());
    space();
    if (json[i] === ",") { i++; space(); }
  }
  return out;
}

const payload = (label, text) => text === undefined || text === "null" ? null
  : el("div", {}, el("h3", {}, label), el("pre", { tabindex: "0" }, text));

// ---- the list ----

let selected = null;
let listing = null;

async function list() {
  listing?.abort();
  listing = new AbortController();
  const query = new URLSearchParams({ limit: "50" });
  if ($("status").value) query.set("status", $("status").value);
  if ($("q").value.trim()) query.set("q", $("q").value.trim());
  try {
    const page = await (await call(`/v1/runs?${query}`, { signal: listing.signal })).json();
    $("runs").tBodies[0].replaceChildren(...page.data.map(row));
    $("no-runs").hidden = page.data.length > 0;
    notice(null);
  } catch (error) {
    if (error.name !== "AbortError") notice(error.message);
  }
}

function row(run) {
  const open = () => { location.hash = run.id; };
  return el("tr", { "aria-selected": String(run.id === selected) },
    el("td", {}, el("button", { class: "link mono", type: "button", onclick: open },
      run.key ?? `…${run.id.slice(-8)}`)),
    el("td", {}, run.function),
    el("td", {}, status(run.status)),
    el("td", {}, when(run.created_at)));
}

// ---- one run ----

let following = null;

async function follow(id) {
  following?.abort();
  const abort = following = new AbortController();
  const view = { run: null, steps: new Map(), pending: [], history: [], log: [] };
  let last = null;
  // Reconnects by itself until the run has ended or another one is chosen.
  while (!abort.signal.aborted) {
    try {
      const headers = { accept: "application/x-ndjson" };
      if (last) headers["last-event-id"] = last;
      const response = await call(`/v1/runs/${id}/stream`, { headers, signal: abort.signal });
      if (response.status === 204) return;
      for await (const line of lines(response.body)) {
        const event = members(line);
        last = JSON.parse(event.get("id"));
        const kind = JSON.parse(event.get("event"));
        take(view, kind, event.get("data"));
        draw(view);
        if (kind === "end") { list(); return; }
      }
    } catch (error) {
      if (abort.signal.aborted) return;
      notice(error.message);
      if (!view.run) { $("run").replaceChildren(el("p", { class: "bad" }, error.message)); return; }
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line) yield line;
  }
}

function take(view, kind, data) {
  const raw = members(data);
  const plain = JSON.parse(data);
  if (kind === "run" || kind === "end") view.run = { raw, plain };
  if (kind === "step") view.steps.set(plain.seq, { raw, plain });
  if (kind === "history") view.history.push({ raw, plain });
  if (kind === "log") view.log.push({ raw, plain });
}

let drawing = false;
function draw(view) {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; show(view); });
}

function show(view) {
  if (!view.run) return;
  const { raw, plain: run } = view.run;
  const open = new Set([...$("run").querySelectorAll("details[open]")].map((d) => d.dataset.id));
  const facts = [["Run", el("code", {}, run.id)], ["Key", run.key], ["Status", status(run.status)],
    ["Waiting for", run.waiting_for.map((w) => `${w.op} ${w.step}${w.until ? ` until ${w.until}` : ""}`).join(", ")],
    ["Created", when(run.created_at)], ["Ended", run.ended_at && when(run.ended_at)],
    ["Invocations", String(run.invocations)],
    ["Steps", `${run.steps.settled} settled, ${run.steps.pending} pending`],
    ["Tags", Object.entries(run.tags).map(([k, v]) => `${k}=${v}`).join(", ")]];
  const attention = run.attention && el("p", { class: "bad" },
    el("strong", {}, run.attention.code), " ", run.attention.detail);
  const details = (id, summary, ...body) => el("details", { "data-id": id, open: open.has(id) },
    el("summary", {}, ...summary), ...body);
  const steps = [...view.steps.values()].sort((a, b) => a.plain.seq - b.plain.seq).map((s) => el("li", {},
    details(`step ${s.plain.seq}`,
      [el("span", { class: s.plain.error ? "bad" : "" }, s.plain.error ? "✕ " : "✓ "),
        el("code", {}, s.plain.id), el("span", { class: "dim" }, ` ${s.plain.op}, ${s.plain.ms} ms`,
          s.plain.attempts > 1 ? `, ${s.plain.attempts} attempts` : "")],
      payload("Value", s.raw.get("value")), payload("Error", s.raw.get("error")),
      s.plain.ref ? el("p", {}, `${s.plain.ref.bytes} bytes: `, el("code", {}, `/v1/runs/${run.id}/values/${s.plain.id}`)) : null)));
  const waiting = run.waiting_for.map((w) => el("li", { class: "dim" }, "… ", el("code", {}, w.step), ` ${w.op}`));
  const history = view.history.map((h) => el("li", {}, details(`history ${h.plain.n}`,
    [el("code", {}, h.plain.type), el("span", { class: "dim" }, ` ${h.plain.at} by ${h.plain.by}, epoch ${h.plain.epoch}`)],
    payload("Data", h.raw.get("data")))));
  const log = view.log.map((l) => el("li", {}, el("code", {}, `${l.plain.at} ${l.plain.level} `), l.plain.message));
  $("run").replaceChildren(
    el("h1", {}, run.function),
    el("dl", {}, ...facts.filter(([, v]) => v).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
    ...[attention, payload("Input", raw.get("input")), payload("Output", raw.get("output")),
      payload("Error", raw.get("error")), payload("Custom status", raw.get("custom_status"))].filter(Boolean),
    el("h2", {}, "Journal"), el("ol", { class: "steps" }, ...steps, ...waiting),
    el("h2", {}, "History"), el("ol", { class: "steps" }, ...history),
    ...(log.length ? [el("h2", {}, "Log"), el("ol", { class: "steps" }, ...log)] : []));
}

// ---- together ----

function choose() {
  const id = location.hash.slice(1);
  selected = /^run_[0-9a-z]{26}$/.test(id) ? id : null;
  list();
  if (selected) follow(selected);
}

$("status").append(el("option", { value: "" }, "all"), ...STATUSES.map((s) => el("option", { value: s }, s)));
$("filter").addEventListener("submit", (e) => { e.preventDefault(); list(); });
$("status").addEventListener("change", list);
$("q").addEventListener("input", list);
$("key-form").addEventListener("submit", (e) => { e.preventDefault(); key.set($("key").value.trim()); $("key").value = ""; choose(); });
addEventListener("hashchange", choose);
document.addEventListener("visibilitychange", () => { if (!document.hidden) list(); });
setInterval(() => { if (!document.hidden) list(); }, REFRESH_MS);
choose();
