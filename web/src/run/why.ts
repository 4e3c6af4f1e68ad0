// Why a run does not move, in words, from what the API tells of it.
import type { HeldAt, Run, WaitingFor } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { askOf } from "./ask.ts";
import { told, type RunLog } from "./log.ts";

/** A moment is told as a countdown by who shows this. */
export type Part = string | { code: string } | { at: string };
export type Why = {
  title: string;
  tone: "info" | "warn" | "stop";
  lines: Part[][];
  /** The id of the act that helps most. */
  helps: string | null;
  /** For a mismatch: what is recorded, and what the handler says now. */
  diff: { expected: string; got: string } | null;
  /** Where there is more to see of what keeps it back. */
  see: { limit: HeldAt } | { function: string } | null;
  /** The last answer of the handler, where it was no good one. */
  answer: { status: number | null; body: string } | null;
};

const OP: Record<string, string> = { sleep: "the timer", signal: "the signal", callback: "a callback for", invoke: "the run that it started as", call: "the call", task: "the task", event: "the event" };

/** What parks a run until a person does something about it. */
const STOPPED: Record<string, string> = { "function-paused": "Its function is paused", "endpoint-disabled": "Its endpoint is disabled", "function-gone": "Nobody has its function any more", "deployment-gone": "Its deployment is no more" };

/** How many of the steps that a run waits for are told. */
const SHOWN = 5;

/** What one step waits for. */
function waits(w: WaitingFor, log: RunLog): Part[] {
  const asked = log.history.findLast((h) => h.type === "step.asked" && told(h).step === w.step) ?? null;
  const ask = askOf(asked);
  const name = w.name ?? ask?.about ?? w.step;
  const until: Part[] = w.until ? [w.op === "sleep" || w.op === "run" ? ", due " : ". It times out ", { at: w.until }, "."] : [w.op === "task" || w.op === "call" ? "." : ", however long it takes."];
  if (w.op === "task" || w.op === "call") {
    const held = log.history.findLast((h) => h.type === "attempt.accepted" && told(h).step === w.step);
    const beat = log.history.findLast((h) => h.type === "attempt.beat" && told(h).step === w.step);
    if (w.until) return [`It waits for the next attempt of ${OP[w.op]} `, { code: name }, ...inStep(w, name), ", due ", { at: w.until }, "."];
    if (held) return [`It waits for ${OP[w.op]} `, { code: name }, ...inStep(w, name), ": it was accepted ", { at: held.at }, ...(beat ? [", with a sign of life ", { at: beat.at }] : []), ", and settles later."];
  }
  return [
    w.op === "run" ? "It waits for the next attempt of " : `It waits for ${OP[w.op] ?? `the ${w.op}`} `, { code: name }, ...inStep(w, name),
    ...(ask?.match ?? []).flatMap(([path, value], i): Part[] => [i ? " and " : " whose ", { code: visible(path) }, " is ", { code: visible(value) }]), ...until,
  ];
}

const inStep = (w: WaitingFor, name: string): Part[] => (name !== w.step ? [" in step ", { code: w.step }] : []);

/** Text with `code` in it. */
export const parts = (text: string): Part[] => text.split("`").map((part, i) => (i % 2 ? { code: part } : part)).filter((p) => p !== "");

/** Nothing where the run moves, or has ended well. */
export function why(log: RunLog): Why | null {
  const run = log.run;
  if (!run) return null;
  const none = { lines: [] as Part[][], helps: null, diff: null, answer: null, see: null };
  const attention = run.attention;
  const next = attention?.next_attempt_at;
  const tries: Part[][] = next ? [["The next try is ", { at: next }, "."]] : [];
  switch (run.status) {
    case "retrying":
      return { ...none, title: "It failed and is tried again", tone: "warn", helps: "retry-now", answer: lastAnswer(log),
        lines: [parts(attention?.detail ?? "The last attempt failed."), ...tries] };
    case "parked":
      // What a person has stopped, or taken away, does not go on when something gets well.
      if (Object.hasOwn(STOPPED, attention?.code ?? "")) return { ...none, title: STOPPED[attention!.code]!, tone: "stop",
        lines: [parts(attention!.detail)], see: attention!.code === "function-paused" ? { function: run.function } : null };
      return { ...none, title: "Its endpoint is unhealthy", tone: "warn", helps: "retry-now", answer: lastAnswer(log),
        lines: [parts(attention?.detail ?? "The endpoint does not answer as it should."),
          next ? ["It goes on by itself when the endpoint is well; that is looked at ", { at: next }, "."] : ["It goes on by itself when the endpoint is well."]] };
    case "paused": {
      const { code, detail, expected, got } = attention ?? {};
      const diff = expected && got ? { expected, got } : null;
      return { ...none, title: code === "operator" ? "Somebody paused it" : diff ? "The code no longer fits what is recorded" : "It needs a person", tone: "stop",
        helps: "resume", diff, answer: code === "operator" || diff ? null : lastAnswer(log), lines: [parts(detail ?? "It was paused.")] };
    }
    case "waiting": {
      const lines = run.waiting_for.slice(0, SHOWN).map((w) => waits(w, log));
      const more = run.waiting_for.length - lines.length;
      if (more > 0) lines.push([`And for ${more.toLocaleString("en")} more.`]);
      return { ...none, title: "It waits", tone: "info", lines, helps: run.waiting_for.some((w) => w.op === "signal") ? "signal" : null };
    }
    case "scheduled": {
      const first = log.history.find((h) => h.type === "run.created");
      const at = first && told(first).start_at;
      return { ...none, title: "It has not begun yet", tone: "info", helps: "retry-now",
        lines: [at ? ["It begins ", { at }, "."] : ["It begins at a moment to come."]] };
    }
    case "queued":
      if (attention) return { ...none, title: attention.code === "limit-paused" ? "A limit on its way is paused" : "It waits for its turn", tone: attention.code === "limit-paused" ? "stop" : "info",
        lines: [parts(attention.detail)], see: attention.limit ? { limit: attention.limit } : null };
      return { ...none, title: "It is on its way to its handler", tone: "info" };
    default:
      return null;
  }
}

function lastAnswer(log: RunLog): Why["answer"] {
  for (let i = log.history.length - 1; i >= 0; i--) {
    const entry = log.history[i]!;
    if (entry.type === "invocation.ended") return null;
    if (entry.type !== "invocation.failed") continue;
    const { status, body } = told(entry);
    return body ? { status: status ?? null, body } : null;
  }
  return null;
}

/** The error of a run that ended without an output, or nothing. */
export const failureOf = (run: Run) => (["failed", "cancelled", "timed_out", "terminated"].includes(run.status) ? run.error : null);
