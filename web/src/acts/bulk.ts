// What a person can do with many runs at once: those that a filter finds, or those that were chosen.
import { flag, object, reason, text, type Act, type Field, type Values } from "./act.ts";
import type { Raw } from "../json/text.ts";

/** The filters of the list of runs. All of them must hold; of several values of one, any. */
export type Many = {
  status?: string[]; function?: string[]; key?: string[]; tag?: string[]; deployment?: string[]; fingerprint?: string[]; run?: string[];
  parent?: string; schedule?: string; q?: string; started_after?: string; started_before?: string; ended_after?: string; ended_before?: string;
};

const SEVERAL = ["status", "function", "key", "tag", "deployment", "fingerprint", "run"] as const;
const ONE = ["parent", "schedule", "q", "started_after", "started_before", "ended_after", "ended_before"] as const;

/** As the API takes it; every run has to be said. */
export function filterOf(many: Many): Raw {
  const parts: Record<string, Raw | undefined> = {};
  for (const name of SEVERAL) if (many[name]?.length) parts[name] = JSON.stringify(many[name]);
  for (const name of ONE) if (many[name]) parts[name] = JSON.stringify(many[name]);
  return object(parts) ?? '{"all": true}';
}

/** The same as the query of the list, for the command line. */
function queryOf(many: Many): string[] {
  const query = new URLSearchParams();
  for (const name of SEVERAL) for (const value of many[name] ?? []) query.append(name, value);
  for (const name of ONE) if (many[name]) query.append(name, many[name]);
  return query.size ? ["-q", query.toString()] : ["--all"];
}

/** Which they are, in words: name and value of each filter. */
export const told = (many: Many): [string, string][] => [
  ...SEVERAL.flatMap((name): [string, string][] => (name === "run" && (many.run?.length ?? 0) > 3 ? [["runs", `${many.run!.length.toLocaleString("en")} that were chosen`]] : (many[name] ?? []).map((value) => [name, value]))),
  ...ONE.flatMap((name): [string, string][] => (many[name] ? [[name.replaceAll("_", " "), many[name]]] : [])),
];

type Kind = {
  action: string; label: string; doIt: string; danger?: boolean; sentence: string; fields?: Field[];
  /** What the action needs beside the filter. */
  options?: (v: Values) => Record<string, Raw | undefined>;
  cli?: (v: Values) => string[];
};

const KINDS: Kind[] = [
  { action: "retry-now", label: "Retry now…", doIt: "Retry them", sentence: "What waits for its next attempt is tried at once. Runs that wait for nothing of the kind are skipped." },
  { action: "resume", label: "Resume…", doIt: "Resume them", sentence: "Paused runs go on where they stopped. Others are skipped." },
  { action: "rewind", label: "Rewind…", doIt: "Rewind them", sentence: "Runs that have failed go on under their ids, from the step that failed. Others are skipped." },
  { action: "rerun", label: "Run again…", doIt: "Start them again", sentence: "A new run begins for each of them. They themselves stay as they are.",
    fields: [{ kind: "text", name: "from_step", label: "Run again from the step", placeholder: "the beginning" }, { kind: "flag", name: "keep_signals", label: "Send them the signals too that no copied step took" }],
    options: (v) => ({ from_step: text(v.from_step), keep_signals: v.keep_signals === "true" ? "true" : undefined }),
    cli: (v) => [...flag("--from-step", v.from_step), ...(v.keep_signals === "true" ? ["--keep-signals"] : [])] },
  { action: "cancel", label: "Cancel…", doIt: "Cancel them", danger: true, sentence: "They are asked to end; their handlers may compensate first. Runs that have ended are skipped.",
    fields: [{ kind: "text", name: "grace", label: "Time to compensate", placeholder: "as it is set, such as 30s" }],
    options: (v) => ({ grace: text(v.grace) }), cli: (v) => flag("--grace", v.grace) },
  { action: "signal", label: "Signal…", doIt: "Send the signals", sentence: "Each gets the signal, and goes on if it waits for one of this name. Runs that have ended are skipped.",
    fields: [{ kind: "text", name: "name", label: "Name", required: true }, { kind: "json", name: "payload", label: "Payload", initial: "null" }],
    options: (v) => ({ signal: object({ name: text(v.name) ?? '""', payload: v.payload }) }), cli: (v) => [v.name?.trim() ?? "", "--input", v.payload ?? "null"] },
  { action: "pause", label: "Pause…", doIt: "Pause them", sentence: "They are invoked no more until they are resumed. Runs that have ended are skipped." },
  { action: "terminate", label: "Terminate…", doIt: "Terminate them", danger: true, sentence: "They end at once, and nothing compensates. Runs that have ended are skipped." },
  { action: "erase", label: "Erase payloads…", doIt: "Erase them for good", danger: true, sentence: "What was said to the runs that have ended and by them is erased and cannot be had back; what happened and when stays. Live runs are skipped." },
  { action: "delete", label: "Delete…", doIt: "Delete them for good", danger: true, sentence: "Runs that have ended are deleted, with their history and logs. It cannot be taken back. Live runs are skipped." },
];

/** A word of ours for an action. */
export const actionWord = (action: string) => KINDS.find((k) => k.action === action)?.label.replace("…", "") ?? action.replaceAll("-", " ");

/** All actions, first those that fit runs that stand so. */
export function fitting(statuses: Iterable<string>): string[] {
  const there = new Set(statuses);
  const some = (...of: string[]) => of.some((status) => there.has(status));
  const live = some("scheduled", "queued", "running", "waiting", "retrying", "parked", "paused");
  const first = [
    ...(some("retrying", "parked") ? ["retry-now"] : []), ...(some("paused") ? ["resume"] : []), ...(some("failed", "timed_out") ? ["rewind"] : []), "rerun",
    ...(live ? ["cancel"] : []), ...(some("waiting") ? ["signal"] : []), ...(there.size && !live ? ["delete"] : []),
  ];
  return [...first, ...KINDS.map((k) => k.action).filter((action) => !first.includes(action))];
}

const rate: Field = { kind: "text", name: "rate", label: "Runs a second, at most", placeholder: "100" };
const number = (value: string | undefined): Raw | undefined => (/^\d{1,6}$/.test(value?.trim() ?? "") ? String(Number(value)) : text(value));

/** What can be done with these. The first ones are what is wanted most where something has failed. */
export const bulkActs = (many: Many, only?: string[]): Act[] => KINDS.filter((k) => !only || only.includes(k.action)).sort((a, b) => (only ? only.indexOf(a.action) - only.indexOf(b.action) : 0)).map((k) => {
  const body = (v: Values, more: Record<string, Raw | undefined>) => object({ filter: filterOf(many), action: JSON.stringify(k.action), ...k.options?.(v), ...more })!;
  return {
    id: `bulk-${k.action}`, label: k.label, doIt: k.doIt, ...(k.danger ? { danger: true } : {}), sentence: k.sentence, done: "It is under way.", leads: "/bulk/$id",
    fields: [...(k.fields ?? []), reason, rate],
    // A reason and a pace touch no other runs.
    dry: (v) => ({ method: "POST", path: "/v1/bulk", body: body(v, { dry_run: "true" }) }),
    call: (v) => ({ method: "POST", path: "/v1/bulk", body: body(v, { reason: text(v.reason), rate: number(v.rate) }) }),
    cli: (v) => ["bulk", k.action, ...(k.cli?.(v) ?? []), ...queryOf(many), ...flag("--rate", v.rate), ...flag("--reason", v.reason), "--yes"],
  };
});

/** Stops one: runs that it has not come to are left alone. */
export const abort = (id: string): Act => ({
  id: "abort", label: "Abort…", doIt: "Abort it", danger: true, done: "It is aborted.", fields: [reason],
  sentence: "Runs that it has not come to are left alone. What is done is not taken back.",
  call: (v) => ({ method: "POST", path: `/v1/bulk/${id}/abort`, body: object({ reason: text(v.reason) }) ?? "{}" }),
  cli: (v) => ["bulk", "abort", id, ...flag("--reason", v.reason)],
});

/** How many, in words. */
export const howMany = (count: { count: number; exact: boolean }, what = "run") => `${count.exact ? "" : "at least "}${count.count.toLocaleString("en")} ${what}${count.count === 1 && count.exact ? "" : "s"}`;
