// What a person can do with limits: pause a function, or one value of a limit's key, and let it go on.
import type { Limit } from "../api/types.ts";
import { valueOf } from "../run/limits.ts";
import { flag, object, reason, segment, text, type Act, type Values } from "./act.ts";

const option = (name: string, value: string) => (value.startsWith("-") ? [`${name}=${value}`] : [name, value]);
const why = { ...reason, label: "Reason, for who meets it" };

/** A limit of concurrency of a function, at one value of its key if it has one. */
export type Which = { function: string; key: string | null; value: string | null };
export const whichOf = (l: Limit): Which | null =>
  l.kind === "concurrency" && l.function ? { function: l.function, key: l.key ?? null, value: l.key ? (valueOf(l) ?? "") : null } : null;

const told = (w: Which) => (w.key === null ? `\`${w.function}\`` : `\`${w.function}\` whose \`${w.key}\` is \`${w.value || "(nothing)"}\``);
const named = (w: Which) => ({ function: JSON.stringify(w.function), key: w.key === null ? undefined : JSON.stringify(w.key), value: w.value === null ? undefined : JSON.stringify(w.value) });
const words = (w: Which) => [w.function, ...(w.key === null ? [] : option("--key", w.key)), ...(w.value === null ? [] : option("--value", w.value))];

export const pauseLimit = (w: Which): Act => ({
  id: "pause-limit", label: "Pause…", doIt: "Let nobody through", danger: true, done: "It is paused.",
  sentence: `Runs of ${told(w)} wait, also those that are started from now on. Who is on the way goes on.`,
  fields: [why],
  call: (v) => ({ method: "POST", path: "/v1/limits/pause", body: object({ ...named(w), reason: text(v.reason) })! }),
  cli: (v) => ["limit", "pause", ...words(w), ...flag("--reason", v.reason)],
});

export const resumeLimit = (w: Which): Act => ({
  id: "resume-limit", label: "Resume", doIt: "Let them through", done: "It goes on.",
  sentence: `Runs of ${told(w)} are let through again, as many as the limit allows.`,
  fields: [],
  call: () => ({ method: "POST", path: "/v1/limits/resume", body: object(named(w))! }),
  cli: () => ["limit", "resume", ...words(w)],
});

/** One value of a key that need not be in use yet. */
export function pauseKey(functions: string[]): Act {
  const which = (v: Values): Which => ({ function: v.function ?? "", key: v.key?.trim() || null, value: v.key?.trim() ? (v.value ?? "") : null });
  return {
    ...pauseLimit({ function: "", key: null, value: null }), id: "pause-key", label: "Pause a key…",
    sentence: "Runs with this value of the key wait, also those that are started from now on. Who is on the way goes on.",
    fields: [
      { kind: "select", name: "function", label: "Function", options: functions.map((name) => ({ value: name, label: name })), initial: functions[0] ?? "" },
      { kind: "text", name: "key", label: "Key of its concurrency", placeholder: "input.tenant", hint: "Left empty: the limit without a key." },
      { kind: "text", name: "value", label: "Value", placeholder: "as it is in the input: acme" }, why,
    ],
    call: (v) => pauseLimit(which(v)).call(v), cli: (v) => pauseLimit(which(v)).cli(v),
  };
}

export const pauseFunction = (name: string): Act => ({
  id: "pause-function", label: "Pause…", doIt: "Pause the function", danger: true, done: "The function is paused.",
  sentence: `No run of \`${name}\` is invoked until it is resumed. Starts are taken, and what is under way goes on to the end of its exchange.`,
  fields: [why],
  call: (v) => ({ method: "POST", path: `/v1/functions/${segment(name)}/pause`, body: object({ reason: text(v.reason) }) ?? "{}" }),
  cli: (v) => ["function", "pause", name, ...flag("--reason", v.reason)],
});

export const resumeFunction = (name: string): Act => ({
  id: "resume-function", label: "Resume", doIt: "Resume the function", done: "The function goes on.",
  sentence: `The runs of \`${name}\` that were kept back go on.`,
  fields: [],
  call: () => ({ method: "POST", path: `/v1/functions/${segment(name)}/resume`, body: "{}" }),
  cli: () => ["function", "resume", name],
});
