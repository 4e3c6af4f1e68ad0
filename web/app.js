// The last runs, and the journal of one of them, live. Payloads are only ever shown as text.
import { $, el, patch, prose } from "./dom.js";
import { members, pretty } from "./json.js";

/** Each status and its icon; what is not here is shown without one. */
const STATUSES = {
  scheduled: "◷", queued: "•", running: "▶", waiting: "◔", retrying: "↻", parked: "▽", paused: "‖",
  completed: "✓", failed: "✕", cancelled: "⊘", timed_out: "⧖", terminated: "■",
};
/** How often the list is read. One run is followed by its stream. */
const REFRESH_MS = 2000;
/** How many steps and history entries are shown before they are asked for. */
const SHOWN = 500;
/** How much of a payload is shown before it is asked for, in characters. */
const HEAD = 20_000;

const key = { get: () => sessionStorage.getItem("key"), set: (k) => sessionStorage.setItem("key", k) };

function notice(text) {
  if ($("notice").textContent !== (text ?? "")) $("notice").textContent = text ?? "";
  $("notice").hidden = !text;
}

async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("authorization", `Bearer ${key.get()}`);
  const response = await fetch(path, { ...options, headers });
  $("key-form").hidden = response.status !== 401;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail ?? `The server answered ${response.status}.`);
    error.status = response.status;
    throw error;
  }
  return response;
}

// ---- times ----

/** `12 s ago`, `in 3 min`. */
function relative(time) {
  const seconds = Math.round((Date.parse(time) - Date.now()) / 1000);
  const far = Math.abs(seconds);
  const [unit, word] = far < 60 ? [1, "s"] : far < 3600 ? [60, "min"] : far < 172_800 ? [3600, "h"] : [86_400, "d"];
  const amount = `${Math.floor(far / unit)} ${word}`;
  return far < 1 ? "now" : seconds < 0 ? `${amount} ago` : `in ${amount}`;
}

const ago = (time) => el("time", { datetime: time, title: time, class: "relative" }, relative(time));
const at = (time) => el("time", { datetime: time, title: time },
  `${new Date(time).toLocaleTimeString([], { hour12: false })}.${time.slice(20, 23).padEnd(3, "0")}`);

setInterval(() => {
  for (const node of document.querySelectorAll("time.relative")) {
    const text = relative(node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}, 1000);

// ---- pieces ----

const status = (word) => el("span", { class: `status ${Object.hasOwn(STATUSES, word) ? word : ""}` },
  el("span", { class: "icon", "aria-hidden": "true" }, STATUSES[word] ?? "•"), word.replaceAll("_", " "));

/** A payload: short ones as they came, long ones over several lines, giants by their beginning. */
function payload(text) {
  const shown = text.length > 80 ? pretty(text) : text;
  if (shown.length <= HEAD) return el("pre", { tabindex: "0" }, shown);
  const pre = el("pre", { tabindex: "0" }, shown.slice(0, HEAD), "…");
  const all = el("button", { type: "button", onclick: () => { pre.textContent = shown; all.remove(); pre.focus(); } },
    `Show all ${shown.length.toLocaleString()} characters`);
  return el("div", {}, pre, all);
}

const labelled = (label, text) => text === undefined || text === "null" ? null
  : el("div", {}, el("h2", {}, label), payload(text));

/** An error in words; what it has beside type, message and stack is shown as it came. */
function failure(text) {
  const { type, message, stack, ...rest } = JSON.parse(text) ?? {};
  const more = Object.keys(rest).filter((k) => rest[k] !== null && !["attempts", "retry"].includes(k));
  return el("div", { class: "failure" },
    el("p", {}, el("strong", {}, `${type ?? "Error"}: `), String(message ?? "")),
    stack ? el("pre", { tabindex: "0" }, String(stack)) : null,
    more.length ? payload(text) : null);
}

// ---- the list ----

let selected = null;
let listing = null;

async function list() {
  listing?.abort();
  const abort = listing = new AbortController();
  const query = new URLSearchParams({ limit: "50" });
  if ($("status").value) query.set("status", $("status").value);
  if ($("q").value.trim()) query.set("q", $("q").value.trim());
  try {
    const page = await (await call(`/v1/runs?${query}`, { signal: abort.signal })).json();
    patch($("runs"), page.data.map((run) => ({
      key: run.id, sign: `${run.status} ${run.id === selected}`, make: () => row(run),
    })));
    $("no-runs").hidden = page.data.length > 0;
    $("no-runs").replaceChildren(...(query.has("status") || query.has("q") ? ["No run is like this."]
      : ["No runs yet. ", el("code", {}, "stepwell run start FUNCTION -i '{}'"), " starts one."]));
    notice(null);
  } catch (error) {
    if (error.name !== "AbortError") notice(unreachable(error));
  }
}

/** The words for a failed call; `fetch` itself says only that it failed. */
const unreachable = (error) => error instanceof TypeError ? "The gateway does not answer. Trying again…" : error.message;

function row(run) {
  return el("li", {}, el("a", { href: `#${run.id}`, "aria-current": run.id === selected ? "true" : null },
    el("span", { class: "name mono" }, run.key ?? `…${run.id.slice(-8)}`), ago(run.created_at),
    el("span", { class: "function" }, run.function), status(run.status)));
}

// ---- one run ----

let following = null;

async function follow(id) {
  following?.abort();
  const abort = following = new AbortController();
  const view = { id, run: null, steps: new Map(), history: [], log: [], all: false };
  $("run").replaceChildren(el("p", { class: "dim" }, "Reading…"));
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
      if (error.status >= 400 && error.status < 500) {
        $("run").replaceChildren(el("p", { class: "bad" }, error.message));
        return;
      }
      notice(unreachable(error));
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parts = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const cut = value.split("\n");
    while (cut.length > 1) {
      parts.push(cut.shift());
      const line = parts.splice(0).join("");
      if (line) yield line;
    }
    parts.push(cut[0]);
  }
}

function take(view, kind, text) {
  const item = { raw: members(text), plain: JSON.parse(text), text };
  if (kind === "run" || kind === "end") view.run = item;
  if (kind === "step") view.steps.set(item.plain.seq, item);
  if (kind === "history") view.history.push(item);
  if (kind === "log") view.log.push(item);
}

let drawing = null;
function draw(view) {
  if (!drawing) requestAnimationFrame(() => { const v = drawing; drawing = null; if (v.id === selected) show(v); });
  drawing = view;
}

/** The parts of a run, one below the other; each is made anew only when what it shows has changed. */
function show(view) {
  if (!view.run) return;
  const { raw, plain: run, text } = view.run;
  document.title = `${STATUSES[run.status] ?? ""} ${run.key ?? run.function} · Stepwell`;
  const parts = [["back", "", () => el("p", { class: "back" }, el("a", { href: "#" }, "← All runs"))],
    ["head", text + (startsAt(view) ?? ""), () => head(run, startsAt(view))]];
  if (run.attention) parts.push(["attention", JSON.stringify(run.attention), () => attention(run)]);
  for (const [label, name] of [["Output", "output"], ["Error", "error"], ["Custom status", "custom_status"], ["Input", "input"]]) {
    const json = raw.get(name);
    if (json === undefined || json === "null") continue;
    parts.push([name, json, () => name === "error"
      ? el("div", {}, el("h2", {}, label), failure(json)) : labelled(label, json)]);
  }
  const steps = [...view.steps.values()];
  parts.push(section(view, "Journal", [
    ...steps.map((s) => [`step ${s.plain.seq}`, "", () => step(run.id, s)]),
    ...run.waiting_for.map((w) => [`waiting ${w.step}`, JSON.stringify(w), () => waiting(w)])],
    "Nothing is recorded yet."));
  if (view.log.length) parts.push(section(view, "Log", view.log.map((l) => [`log ${l.plain.n}`, "", () => logged(l)])));
  parts.push(section(view, "History", view.history.map((h) => [`history ${h.plain.n}`, "", () => happened(h)]), "Nothing yet."));
  patch($("run"), parts.map(([key, sign, make]) => ({ key, sign: `${run.id} ${sign}`, make })));
  for (const [name, , , fill] of parts) fill?.($("run").querySelector(`[data-key="${name}"]`));
}

/** A heading and a list that grows; only its end is shown until all is asked for. */
function section(view, title, items, empty) {
  const hidden = view.all ? 0 : Math.max(0, items.length - SHOWN);
  const more = () => el("button", { type: "button", onclick: () => { view.all = true; show(view); } },
    `Show the ${hidden.toLocaleString()} before`);
  const make = () => el("div", {}, el("h2", {}, title), el("div", {}), el("ol", { class: "entries" }));
  const fill = (node) => {
    patch(node.children[1], hidden ? [{ key: "more", sign: String(hidden), make: more }]
      : items.length || !empty ? [] : [{ key: "empty", sign: "", make: () => el("p", { class: "dim" }, empty) }]);
    patch(node.children[2], items.slice(hidden).map(([key, sign, make]) => ({ key, sign, make })));
  };
  return [title, "", make, fill];
}

/** The moment that a scheduled run waits for. */
const startsAt = ({ run, history }) => run.plain.status === "scheduled" ? history[0]?.plain.data?.start_at : null;

function head(run, start) {
  const count = (n, word) => `${n.toLocaleString()} ${word}${n === 1 ? "" : "s"}`;
  const tags = Object.entries(run.tags);
  const facts = [["Run", el("code", {}, run.id)], ["Key", run.key && el("code", {}, run.key)],
    ["Waits for", run.waiting_for.length > 0 && run.waiting_for.map((w) => el("div", {}, what(w)))],
    ["Starts", start && ago(start)],
    [run.started_at ? "Started" : "Accepted", [ago(run.created_at), `, ${count(run.invocations, "invocation")}, ${count(run.steps.settled, "step")}`,
      run.steps.pending ? ` and ${run.steps.pending} pending` : ""]],
    ["Ended", run.ended_at && [ago(run.ended_at), `, after ${span(run.created_at, run.ended_at)}`]],
    ["Tags", tags.length > 0 && tags.map(([k, v]) => el("code", { class: "tag" }, `${k}=${v}`))]];
  return el("div", {}, el("h1", {}, run.function, " ", status(run.status)),
    el("dl", {}, facts.filter(([, v]) => v).map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])));
}

function span(from, to) {
  const ms = Date.parse(to) - Date.parse(from);
  return ms < 1000 ? `${ms} ms` : ms < 120_000 ? `${(ms / 1000).toFixed(1)} s` : ms < 7_200_000
    ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;
}

/** What a step waits for, in words. */
function what({ step, op, name, until }) {
  const [word, before] = { signal: ["signal ", " until "], callback: ["its callback", " until "], sleep: ["sleeps", " until "],
    run: ["its next attempt", ", "], start: ["the end of an attempt", ", "] }[op] ?? [op, " until "];
  const time = until && [before, el("time", { datetime: until, title: until }, new Date(until).toLocaleString()), " (", ago(until), ")"];
  return [el("code", {}, step), ": ", word, name ? el("code", {}, name) : null, time];
}

/** Why the run does not move, and who can do what about it. */
function attention(run) {
  const { code, detail, next_attempt_at: next, expected, got } = run.attention;
  const command = { paused: `stepwell run resume ${run.id}`, retrying: `stepwell run retry-now ${run.id}` }[run.status];
  return el("div", { class: "attention", role: "note" },
    el("p", {}, el("strong", {}, code.replaceAll("-", " ")), next ? [", next attempt ", ago(next)] : null),
    el("p", {}, prose(detail)),
    expected || got ? el("p", {}, "Recorded: ", el("code", {}, expected ?? ""), ", now: ", el("code", {}, got ?? "")) : null,
    command ? el("p", { class: "dim" }, run.status === "paused" ? "It waits for a person: " : "Not to wait: ", el("code", {}, command)) : null);
}

function step(run, { raw, plain }) {
  const value = raw.get("value");
  const facts = [plain.op, plain.ms === null ? null : `${plain.ms.toLocaleString()} ms`, plain.attempts > 1 ? `${plain.attempts} attempts` : null];
  return el("li", {}, el("details", {}, el("summary", {},
    el("span", { class: plain.error ? "icon bad" : "icon good", role: "img", "aria-label": plain.error ? "failed" : "done" },
      plain.error ? STATUSES.failed : STATUSES.completed), el("code", { class: "id" }, plain.id),
    el("span", { class: "dim" }, facts.filter(Boolean).join(", ")),
    el("span", { class: "peek mono dim" }, plain.error ? plain.error.message : value && value !== "null" ? value.slice(0, 120) : "")),
    plain.error ? failure(raw.get("error")) : plain.ref ? byReference(run, plain) : payload(value ?? "null")));
}

function byReference(run, { id, ref }) {
  const load = el("button", { type: "button", onclick: async () => {
    try {
      const text = await (await call(`/v1/runs/${run}/values/${encodeURIComponent(id)}`)).text();
      load.replaceWith(payload(text));
    } catch (error) { notice(unreachable(error)); }
  } }, `Load ${ref.bytes.toLocaleString()} bytes`);
  return load;
}

const waiting = (w) => el("li", { class: w.op === "run" ? "pending warn" : "pending" },
  el("span", { class: "icon", "aria-hidden": "true" }, w.op === "run" ? STATUSES.retrying : STATUSES.waiting), what(w));

function happened({ raw, plain }) {
  const data = raw.get("data");
  const by = el("span", { class: "dim" }, `by ${plain.by}, epoch ${plain.epoch}`);
  const line = [at(plain.at), el("code", { class: "id" }, plain.type), by];
  if (!data || data === "null" || data === "{}") return el("li", { class: "plain" }, line);
  return el("li", {}, el("details", {}, el("summary", {}, line), payload(data)));
}

function logged({ raw, plain }) {
  const fields = raw.get("fields");
  return el("li", { class: "plain" }, at(plain.at), el("code", { class: `level ${plain.level === "error" ? "bad" : plain.level === "warn" ? "warn" : ""}` }, plain.level),
    el("span", { class: "message" }, plain.message, fields && fields !== "null" ? el("code", { class: "dim" }, ` ${fields}`) : null));
}

// ---- together ----

function choose() {
  const id = location.hash.slice(1);
  const before = selected;
  selected = /^run_[0-9a-z]{26}$/.test(id) ? id : null;
  document.body.classList.toggle("one", selected !== null);
  list();
  if (selected) {
    follow(selected);
    $("run").scrollTop = 0;
    // On a narrow screen the list has just gone.
    if ($("list").offsetParent === null) { scrollTo(0, 0); $("run").focus({ preventScroll: true }); }
  } else {
    following?.abort();
    document.title = "Runs · Stepwell";
    $("run").replaceChildren(el("p", { class: "dim" }, "Choose a run to see its journal, live."));
    if (before) document.querySelector(`a[href="#${before}"]`)?.focus();
  }
}

$("status").append(el("option", { value: "" }, "all"),
  ...Object.keys(STATUSES).map((s) => el("option", { value: s }, s.replaceAll("_", " "))));
$("filter").addEventListener("submit", (e) => { e.preventDefault(); list(); });
$("status").addEventListener("change", list);
$("q").addEventListener("input", list);
$("skip").addEventListener("click", (e) => { e.preventDefault(); $("run").focus(); });
$("key-form").addEventListener("submit", (e) => { e.preventDefault(); key.set($("key").value.trim()); $("key").value = ""; choose(); });
$("runs").addEventListener("keydown", (e) => {
  const to = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[e.key];
  const next = to && e.target.closest("li")?.[to]?.querySelector("a");
  if (next) { e.preventDefault(); next.focus(); }
});
addEventListener("hashchange", choose);
document.addEventListener("visibilitychange", () => { if (!document.hidden) list(); });
setInterval(() => { if (!document.hidden) list(); }, REFRESH_MS);
choose();
