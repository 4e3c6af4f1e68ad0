// The steps of a run with all that is known of their time, in order of their first appearance.
import type { Entry, History, WaitingFor } from "../api/types.ts";
import type { Raw } from "../json/text.ts";
import { told, type RunLog } from "./log.ts";

export type Failure = { attempt: number; at: number; ms: number; next: number | null };

export type StepLine = {
  id: string;
  op: string;
  state: "done" | "failed" | "retrying" | "waiting" | "running";
  /** When it was asked for, where that is recorded. */
  asked: number | null;
  settled: number | null;
  /** When it settles, or is tried again, by itself. */
  due: number | null;
  /** What the handler says that it took; 0 where it says nothing. */
  ms: number;
  failures: Failure[];
  /** Where it was asked for. */
  request: History | null;
  /** Of a task whose handler has answered 202: since when, and until when it may be silent. */
  held: { at: number; until: number | null } | null;
  /** Its last sign of life, with what that had to say. */
  beat: { at: number; entry: History } | null;
  entry: Entry | null;
  waiting: WaitingFor | null;
  /** The moment before its first: what came before it in the run had just happened. */
  before: number;
};

const time = (text: string | null | undefined) => (text ? Date.parse(text) : null);

const WORK = /^(step|attempt|signal|invocation)\./;

/** Work in attempts that others do while the handler is away. */
export const isAttempted = (op: string) => op === "task" || op === "call";

/** When the generation began whose journal this is; null for the first. */
export function generationStart(log: RunLog): number | null {
  for (let i = log.history.length - 1; i >= 0; i--) if (log.history[i]!.type === "run.continued") return Date.parse(log.history[i]!.at);
  return null;
}

/** When the handler could begin, at the earliest. */
export function beginning(log: RunLog): number {
  const created = time(log.run?.created_at) ?? time(log.history[0]?.at) ?? 0;
  const started = time(log.run?.started_at);
  const work = time(log.history.find((h) => WORK.test(h.type))?.at);
  // Of a run that was read from the database, only the first answer is known, not when it was called.
  return started !== null && (work === null || started < work) ? Math.max(started, created) : created;
}

/** Steps that were settled or asked for, and those that the run waits for. */
export function stepsOf(log: RunLog): StepLine[] {
  const lines = new Map<string, StepLine>();
  const created = beginning(log);
  const line = (id: string, op: string, before: number) => {
    let found = lines.get(id);
    if (!found) {
      found = { id, op, state: "waiting", asked: null, settled: null, due: null, ms: 0, failures: [], request: null, held: null, beat: null, entry: null, waiting: null, before };
      lines.set(id, found);
    }
    return found;
  };
  let before = created;
  let now = created;
  let generation = created;
  for (const entry of log.history) {
    const at = Date.parse(entry.at);
    if (at > now) { before = now; now = at; }
    // A generation begins with an empty journal.
    if (entry.type === "run.continued") { lines.clear(); generation = at; }
    if (!/^(step|attempt|signal)\./.test(entry.type)) continue;
    const data = told(entry);
    if (!data.step) continue;
    const step = line(data.step, data.op ?? "run", before);
    if (entry.type === "step.asked") {
      step.op = data.op ?? step.op;
      step.asked = at;
      step.request = entry;
      step.due = time(data.due);
      if (isAttempted(step.op)) step.state = "running";
    } else if (entry.type === "step.begun") {
      step.asked ??= at;
      step.state = "running";
    } else if (entry.type === "attempt.failed") {
      step.failures.push({ attempt: data.attempt ?? step.failures.length + 1, at, ms: data.ms ?? 0, next: time(data.next_attempt_at) });
      step.due = time(data.next_attempt_at);
      step.state = "retrying";
      step.held = null;
    } else if (entry.type === "attempt.accepted") {
      Object.assign(step, { held: { at, until: time(data.until) }, due: null, state: "running" });
    } else if (entry.type === "attempt.beat") {
      step.beat = { at, entry };
    } else if (entry.type === "step.retaken") {
      lines.delete(data.step);
    }
  }
  const settled = [...log.steps.values()].sort((a, b) => (a.seq ?? 0) - (b.seq ?? 0));
  let last = generation;
  for (const entry of settled) {
    const at = time(entry.settled_at) ?? now;
    const step = line(entry.id, entry.op, Math.min(last, at));
    if (at > last) last = at;
    Object.assign(step, { op: entry.op, entry, settled: at, ms: entry.ms, due: null, state: entry.error === null ? "done" : "failed" });
    step.asked = time(entry.asked_at) ?? step.asked;
  }
  // Before its history is read, how such a step stands is not known.
  for (const waiting of log.caught ? log.run!.waiting_for : []) {
    const step = line(waiting.step, waiting.op, time(waiting.since) ?? now);
    step.waiting = waiting;
    if (step.settled !== null) continue;
    step.asked ??= time(waiting.since);
    step.due = time(waiting.until) ?? step.due;
    step.state = waiting.op === "start" ? "running" : waiting.op === "run" ? "retrying" : isAttempted(waiting.op) ? (step.failures.length && !step.held && waiting.until ? "retrying" : "running") : "waiting";
  }
  return [...lines.values()];
}

/** The error of a step or a run, in its parts. */
export type ErrorParts = { type: string; message: string; stack: string | null; rest: Raw | null };

export function errorOf(raw: Raw): ErrorParts {
  let value: unknown;
  try { value = JSON.parse(raw); } catch { value = null; }
  if (typeof value !== "object" || value === null) return { type: "Error", message: typeof value === "string" ? value : raw, stack: null, rest: null };
  const { type, message, stack, ...rest } = value as Record<string, unknown>;
  const more = Object.keys(rest).some((k) => rest[k] !== null && !["attempts", "retry"].includes(k));
  return { type: String(type ?? "Error"), message: String(message ?? ""), stack: typeof stack === "string" ? stack : null, rest: more ? raw : null };
}
