// The rows of a list that grows at its head while somebody reads it.
import type { ListedRun } from "../api/types.ts";

export type Rows = {
  shown: ListedRun[];
  /** New ones, held back because the reader is busy with what is shown. Newest first. */
  held: ListedRun[];
  /** Where the list goes on below; null at its end. */
  next: string | null;
  read: boolean;
};

export type Change =
  /** The newest page. `still`: nobody reads or points at a row, so rows may move. */
  | { type: "head"; rows: ListedRun[]; next: string | null; still: boolean }
  /** The page below. */
  | { type: "more"; rows: ListedRun[]; next: string | null }
  /** What some rows are now. */
  | { type: "update"; rows: ListedRun[] }
  /** The reader wants to see what was held back. */
  | { type: "reveal" };

export const none: Rows = { shown: [], held: [], next: null, read: false };

/** Newest first, as the API orders them. */
const older = (a: ListedRun, b: ListedRun) => a.created_at < b.created_at || (a.created_at === b.created_at && a.id < b.id);

const same = (a: ListedRun, b: ListedRun) =>
  a.status === b.status && a.ended_at === b.ended_at && a.attention?.detail === b.attention?.detail && a.attention?.next_attempt_at === b.attention?.next_attempt_at;

/** The rows with what is known anew; a row that is as it was stays the same object. */
function updated(rows: ListedRun[], fresh: ListedRun[]): ListedRun[] {
  const now = new Map(fresh.map((row) => [row.id, row]));
  let changed = false;
  const out = rows.map((row) => {
    const found = now.get(row.id);
    if (!found || same(found, row)) return row;
    changed = true;
    return found;
  });
  return changed ? out : rows;
}

export function change(rows: Rows, what: Change): Rows {
  switch (what.type) {
    case "head": {
      const last = what.rows.at(-1);
      if (!rows.read) return { shown: what.rows, held: [], next: what.next, read: true };
      const known = new Set(rows.shown.map((row) => row.id));
      const top = rows.shown[0];
      if (what.still) {
        // Below the page they stay; in its range the page says which there are.
        const below = last && what.next !== null ? rows.shown.filter((row) => older(row, last)) : [];
        const shown = [...updated(rows.shown.filter((r) => what.rows.some((n) => n.id === r.id)), what.rows)];
        const kept = new Map(shown.map((row) => [row.id, row]));
        return { ...rows, shown: [...what.rows.map((row) => kept.get(row.id) ?? row), ...below], held: [], next: below.length ? rows.next : what.next };
      }
      const fresh = what.rows.filter((row) => !known.has(row.id) && (!top || older(top, row)));
      const ids = new Set(fresh.map((row) => row.id));
      return { ...rows, shown: updated(rows.shown, what.rows), held: [...fresh, ...updated(rows.held, what.rows).filter((row) => !ids.has(row.id))] };
    }
    case "more": {
      const known = new Set(rows.shown.map((row) => row.id));
      return { ...rows, shown: [...rows.shown, ...what.rows.filter((row) => !known.has(row.id))], next: what.next };
    }
    case "update":
      return { ...rows, shown: updated(rows.shown, what.rows) };
    case "reveal":
      return { ...rows, shown: [...rows.held, ...rows.shown], held: [] };
  }
}
