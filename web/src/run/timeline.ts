// Where the timeline puts what: pure, in milliseconds and in parts of the width.
import { told, type RunLog } from "./log.ts";
import { beginning, generationStart, isAttempted, type StepLine } from "./steps.ts";

export type Kind = "queue" | "execute" | "fail" | "wait" | "backoff";
export type Segment = { kind: Kind; from: number; to: number; attempt?: number };
/** A row has its segments in the order of time; they do not overlap. */
export type TimeRow = { id: string | null; segments: Segment[]; from: number; to: number; open: boolean };

/** Leaves nothing that ends before it begins, or begins before what is before it has ended. */
function tidy(segments: Segment[]): Segment[] {
  const out: Segment[] = [];
  for (const s of segments) {
    const from = Math.max(s.from, out.at(-1)?.to ?? s.from);
    if (s.to >= from) out.push({ ...s, from });
  }
  return out;
}

/** Whether the gateway or the world settles it, while the handler is away. */
const isWait = (op: string) => !["run", "start"].includes(op) && !isAttempted(op);

/** One step: queued, executed, failed, waited for its next attempt, or waited for the world. */
export function stepRow(step: StepLine, now: number): TimeRow {
  const segments: Segment[] = [];
  const end = step.settled ?? now;
  if (isWait(step.op)) {
    const from = Math.min(step.asked ?? step.before, end);
    segments.push({ kind: step.state === "failed" ? "fail" : "wait", from, to: end });
  } else {
    // A task or a call begins when it is asked for; work in the handler, when what was before had happened.
    let free = Math.min(isAttempted(step.op) ? (step.asked ?? step.before) : step.before, end);
    const attempt = (at: number, ms: number, kind: Kind, number: number) => {
      // A handler that does not say how long it took: all since it could begin.
      const from = ms > 0 ? Math.max(at - ms, free) : free;
      if (from > free) segments.push({ kind: "queue", from: free, to: from });
      segments.push({ kind, from, to: Math.max(at, from), attempt: number });
      free = Math.max(at, from);
    };
    for (const [i, failure] of step.failures.entries()) {
      if (step.settled !== null && failure.at > step.settled) break;
      attempt(failure.at, failure.ms, "fail", failure.attempt);
      const follower = step.failures[i + 1]?.at ?? step.settled;
      const until = Math.min(failure.next ?? failure.at, follower ?? now);
      if (until > free) {
        segments.push({ kind: "backoff", from: free, to: until });
        free = until;
      }
    }
    if (step.settled !== null) attempt(step.settled, step.ms, step.state === "failed" ? "fail" : "execute", step.failures.length + 1);
    else if (now > free) segments.push({ kind: step.state === "running" ? "execute" : "queue", from: free, to: now });
  }
  const tidied = tidy(segments);
  const from = tidied[0]?.from ?? end;
  return { id: step.id, segments: tidied, from, to: Math.max(end, from), open: step.settled === null };
}

/** How long the work took that an invocation ended with, as far as the handler says. */
function longest(log: RunLog, ended: number): number {
  let most = 0;
  for (let i = ended + 1; log.history[i]?.at === log.history[ended]!.at; i++) most = Math.max(most, told(log.history[i]!).ms ?? 0);
  return most;
}

/** The run itself: queued, its failed invocations and the back-off after them, and what it waited. */
export function runRow(log: RunLog, now: number): TimeRow {
  const run = log.run!;
  const created = Date.parse(run.created_at);
  const end = run.ended_at ? Date.parse(run.ended_at) : Math.max(now, created);
  const started = Math.min(run.started_at ? beginning(log) : end, end);
  const segments: Segment[] = [{ kind: "queue", from: created, to: started }];
  let free = started;
  let resting: "wait" | "backoff" | "queue" | null = run.started_at ? null : "queue";
  // When what it waits for was due: the handler is called then, and not before.
  let due: number | null = null;
  let failed = -1;
  const until = (at: number) => {
    if (at > free) segments.push({ kind: resting ?? "execute", from: free, to: at });
    free = Math.max(free, at);
  };
  for (const [i, entry] of log.history.entries()) {
    const at = Math.min(Date.parse(entry.at), end);
    const data = told(entry);
    const rest = (kind: "wait" | "backoff", wakes: string | undefined) => {
      until(at);
      resting = kind;
      due = wakes ? Date.parse(wakes) : null;
    };
    /** The handler was at work up to this moment, for as long as that is known. */
    const worked = (ms: number | null | undefined) => {
      if (resting) until(ms ? at - ms : due !== null && due < at ? due : at);
      resting = null;
      until(at);
    };
    switch (entry.type) {
      // An attempt of a task or a call is none of the handler's turns.
      case "attempt.failed": if (entry.by === "handler") { failed = at; worked(data.ms); } break;
      case "run.waiting": rest(failed === at ? "backoff" : "wait", data.until); break;
      case "run.paused": case "run.parked": rest("wait", undefined); break;
      case "run.retrying": rest("backoff", data.next_attempt_at); break;
      case "invocation.failed": {
        until(Math.max(free, at - (data.duration_ms ?? 0)));
        if (at > free) segments.push({ kind: "fail", from: free, to: at });
        free = Math.max(free, at);
        rest("backoff", undefined);
        break;
      }
      // What the gateway settles ends a wait; what the handler tells, it has worked for.
      case "signal.taken": case "step.settled": case "step.failed": case "run.resumed": case "run.hurried": case "run.cancelling":
        if (entry.by === "handler") worked(data.ms);
        else { until(at); resting = null; }
        break;
      case "invocation.ended": worked(data.duration_ms ?? longest(log, i)); break;
      default:
    }
  }
  if (!run.ended_at && ["waiting", "paused", "scheduled"].includes(run.status)) resting = "wait";
  else if (!run.ended_at && ["retrying", "parked"].includes(run.status)) resting = "backoff";
  else if (!run.ended_at && run.status === "queued") resting = "queue";
  else if (!run.ended_at && run.status === "running") resting = null;
  until(end);
  // Of a run that has continued as new, what is shown is what the generation did.
  const from = generationStart(log) ?? created;
  return { id: null, segments: tidy(segments.filter((s) => s.to >= from).map((s) => ({ ...s, from: Math.max(s.from, from) }))), from, to: end, open: !run.ended_at };
}

// ---- the axis ----

export type Span = { from: number; to: number };
/** A piece of the axis: time on it is linear. A folded piece is narrower than its time. */
export type Piece = Span & { left: number; width: number; folded: boolean };

/** How wide a folded gap is, of the whole. */
const FOLD = 0.05;
/** A gap is worth folding when it takes this part of the whole. */
const WORTH = 0.12;

/** Stretches of time in which something was done, in order, without overlaps. */
export function busy(rows: TimeRow[]): Span[] {
  const spans = rows.flatMap((row) => row.segments.filter((s) => s.kind === "execute" || s.kind === "fail").map(({ from, to }) => ({ from, to })));
  spans.sort((a, b) => a.from - b.from);
  const out: Span[] = [];
  for (const span of spans) {
    const last = out.at(-1);
    if (last && span.from <= last.to) last.to = Math.max(last.to, span.to);
    else out.push({ ...span });
  }
  return out;
}

/** The axis over `span`. With `fold`, gaps in which nothing was done shrink where they fill most of it. */
export function axis(span: Span, work: Span[], fold: boolean): Piece[] {
  const total = span.to - span.from;
  const plain = [{ ...span, left: 0, width: 1, folded: false }];
  if (!fold || total <= 0) return plain;
  const gaps: Span[] = [];
  let free = span.from;
  for (const { from, to } of [...work, { from: span.to, to: span.to }]) {
    const begin = Math.min(Math.max(from, span.from), span.to);
    // A little of the gap stays beside what is done, so that bars do not touch the fold.
    if (begin - free > total * WORTH) gaps.push({ from: free + total * 0.01, to: begin - total * 0.01 });
    free = Math.max(free, Math.min(to, span.to));
  }
  const idle = gaps.reduce((sum, gap) => sum + gap.to - gap.from, 0);
  if (idle < total * 0.6) return plain;
  const folds = FOLD * Math.min(1, 8 / gaps.length);
  const rate = (1 - folds * gaps.length) / Math.max(total - idle, 1e-9);
  const pieces: Piece[] = [];
  let at = span.from;
  let left = 0;
  const put = (to: number, width: number, folded: boolean) => {
    if (to > at) pieces.push({ from: at, to, left, width, folded });
    left += to > at ? width : 0;
    at = Math.max(at, to);
  };
  for (const gap of gaps) {
    put(gap.from, (gap.from - at) * rate, false);
    put(gap.to, folds, true);
  }
  put(span.to, Math.max(0, 1 - left), false);
  return pieces;
}

/** Where on the axis a moment is, from 0 to 1. */
export function place(pieces: Piece[], at: number): number {
  const first = pieces[0]!;
  if (at <= first.from) return 0;
  // By halves: a long run has many pieces, and every bar asks twice.
  let low = 0;
  let high = pieces.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pieces[middle]!.to < at) low = middle + 1;
    else high = middle;
  }
  const piece = pieces[low]!;
  if (at >= piece.to) return Math.min(1, piece.left + piece.width);
  return piece.left + ((at - piece.from) / (piece.to - piece.from)) * piece.width;
}

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5];

/** Round moments for the axis, about `count` of them, none in a fold and none too near another. */
export function ticks(pieces: Piece[], count: number): { at: number; left: number }[] {
  const [from, to] = [pieces[0]!.from, pieces.at(-1)!.to];
  const open = pieces.filter((p) => !p.folded);
  const shown = open.reduce((sum, p) => sum + p.to - p.from, 0);
  if (to <= from || shown <= 0) return [{ at: 0, left: 0 }];
  const step = STEPS.find((s) => s >= shown / count) ?? STEPS.at(-1)! * Math.ceil(shown / count / STEPS.at(-1)!);
  const out = [{ at: 0, left: 0 }];
  for (const piece of open) {
    for (let at = Math.ceil((piece.from - from) / step) * step; at <= piece.to - from; at += step) {
      const left = place(pieces, from + at);
      if (left - out.at(-1)!.left > 0.5 / count && left < 0.92) out.push({ at, left });
    }
  }
  return out;
}
