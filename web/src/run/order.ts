// In which order runs are listed.
import type { ListedRun } from "../api/types.ts";

/** As it is in the address and the API, and in words. */
export const ORDERS: [string, string][] = [["", "Newest first"], ["started", "Oldest first"], ["-ended", "Last ended first"], ["ended", "First ended first"]];

export const isByEnd = (order: string | undefined) => order === "-ended" || order === "ended";

/** Whether the first of two comes after the second. The API orders by ids, whatever the moments within a millisecond say; by end it has ended runs alone. */
export function comesAfter(order: string | undefined): (a: ListedRun, b: ListedRun) => boolean {
  // Fractions of a second may be left out or have any length, so texts do not compare.
  const place = (run: ListedRun): [number, string] => [isByEnd(order) && run.ended_at ? Date.parse(run.ended_at) : 0, run.id];
  const below = (a: ListedRun, b: ListedRun) => {
    const [[at, id], [otherAt, other]] = [place(a), place(b)];
    return at === otherAt ? id < other : at < otherAt;
  };
  return order === "started" || order === "ended" ? (a, b) => below(b, a) : below;
}
