// How the runs of a function went lately: how many came through, and how long they took.
import type { ListedRun } from "../api/types.ts";

export type Lately = {
  /** Runs that ended by themselves: cancelled ones say nothing of the code. */
  count: number;
  /** The part of them that completed. */
  completed: number;
  /** So long took half of those that completed, and 95 % of them at most, in milliseconds. */
  half: number | null;
  most: number | null;
  /** The last of all that ended, the oldest first. */
  bars: { id: string; status: string; ms: number }[];
};

/** So many are drawn. */
export const BARS = 60;

/** The time within which a part `q` of all fell: one that was measured. */
function within(sorted: number[], q: number): number | null {
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? null;
}

const took = (run: ListedRun) => Math.max(0, Date.parse(run.ended_at ?? run.created_at) - Date.parse(run.created_at));

/** `ended`: the last that ended first. */
export function lately(ended: ListedRun[]): Lately {
  const own = ended.filter((run) => run.status !== "cancelled");
  const good = own.filter((run) => run.status === "completed");
  const times = good.map(took).sort((a, b) => a - b);
  return {
    count: own.length, completed: good.length, half: within(times, 0.5), most: within(times, 0.95),
    bars: ended.slice(0, BARS).reverse().map((run) => ({ id: run.id, status: run.status, ms: took(run) })),
  };
}

/** `97.5 %`; never 100 where one failed, and never 0 where one came through. */
export function percent(part: number, all: number): string {
  if (part === all) return "100 %";
  if (part === 0) return "0 %";
  return `${Math.min(99.9, Math.max(0.1, (part / all) * 100)).toFixed(1)} %`;
}
