// A run as its stream has told it so far.
import type { StreamEvent } from "../api/follow.ts";
import type { Chunk, Entry, History, LogLine, Run } from "../api/types.ts";
import { withChunk, type Outputs } from "./output.ts";

export type RunLog = {
  run: Run | null;
  /** Settled steps by their `seq`. */
  steps: Map<number, Entry>;
  history: History[];
  logs: LogLine[];
  /** Output streams by their names, in the order in which they began. */
  outputs: Outputs;
  /** All is told that there was when the stream began; until then the journal and the history are read. */
  caught: boolean;
  /** What was told is no longer so as a whole: steps were taken back. Read it anew. */
  stale: boolean;
};

export const empty = (): RunLog => ({ run: null, steps: new Map(), history: [], logs: [], outputs: new Map(), caught: false, stale: false });

/** What is known while the run is read again. Where it is stale alone, what was logged and put out still stands: it is not taken from under a reader. */
export const anew = (log: RunLog): RunLog => ({ ...empty(), run: log.run, ...(log.stale ? { logs: log.logs, outputs: log.outputs } : {}) });

/** History after which steps that had settled have not. */
const TAKES_BACK = new Set(["run.reopened", "step.retaken", "run.compacted", "run.continued"]);

/** Takes in what the stream says. What was told before changes nothing; what is unknown is left. */
export function take(log: RunLog, events: StreamEvent[]): RunLog {
  const next = { ...log };
  for (const { event, data } of events) {
    if (event === "run" || event === "end") Object.assign(next, { run: data as Run, caught: true });
    else if (event === "step") {
      const entry = data as Entry;
      if (entry.seq === null || entry.seq === undefined || next.steps.has(entry.seq)) continue;
      if (next.steps === log.steps) next.steps = new Map(log.steps);
      next.steps.set(entry.seq, entry);
    } else if (event === "history") {
      const entry = data as History;
      if (entry.n <= (next.history.at(-1)?.n ?? -1)) continue;
      if (next.history === log.history) next.history = [...log.history];
      next.history.push(entry);
      // Before that, the journal was read as it is now.
      if (log.caught && TAKES_BACK.has(entry.type)) next.stale = true;
    } else if (event === "log") {
      const line = data as LogLine;
      if (line.n <= (next.logs.at(-1)?.n ?? -1)) continue;
      if (next.logs === log.logs) next.logs = [...log.logs];
      next.logs.push(line);
    } else if (event === "chunk") next.outputs = withChunk(next.outputs, data as Chunk);
  }
  return next;
}

/** What a history entry tells, as far as it is ours. The payloads in it are not looked at. */
export type Told = {
  step?: string; op?: string; seq?: number; ms?: number; attempt?: number; due?: string; until?: string;
  next_attempt_at?: string; duration_ms?: number; status?: number; detail?: string; body?: string;
  generation?: number; reason?: string; start_at?: string; name?: string; kind?: string; outcome?: string; error?: unknown;
  attention?: { code: string; detail: string; expected: string | null; got: string | null };
};

const read = new WeakMap<History, Told>();
export function told(entry: History): Told {
  let data = read.get(entry);
  if (!data) {
    data = entry.data ? (JSON.parse(entry.data) as Told) : {};
    read.set(entry, data);
  }
  return data;
}
