// The rows of a list that grows at its head while somebody reads it.
import type { ListedRun } from "../api/types.ts";
import { comesAfter } from "./order.ts";

export type Rows = {
  shown: ListedRun[];
  /** New ones, held back because the reader is busy with what is shown. In the order of the list. */
  held: ListedRun[];
  /** Where what is held goes on, if there are rows between it and what is shown that nobody has read. */
  gap: string | null;
  /** Where the list goes on below; null at its end. */
  next: string | null;
  read: boolean;
};

export type Change =
  /** The first page, in this order. `still`: nobody reads or points at a row, so rows may move. */
  | { type: "head"; rows: ListedRun[]; next: string | null; still: boolean; order?: string }
  /** The page below. */
  | { type: "more"; rows: ListedRun[]; next: string | null }
  /** What some rows are now. */
  | { type: "update"; rows: ListedRun[] }
  /** The reader wants to see what was held back. */
  | { type: "reveal" };

export const none: Rows = { shown: [], held: [], gap: null, next: null, read: false };

/** More are not held back: who comes back after an hour reads on from the newest page. */
const MOST = 500;

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
      const after = comesAfter(what.order);
      const last = what.rows.at(-1);
      // A search that has found nothing new so far says nothing of what is shown.
      if (rows.read && !last && what.next !== null) return rows;
      const begun = { shown: what.rows, held: [], gap: null, next: what.next, read: true };
      if (!rows.read || !rows.shown.length) return begun;
      /** Whether the page ends before it comes to this row: then there are others in between. */
      const apart = (row: ListedRun) => last !== undefined && what.next !== null && after(row, last);
      const known = new Set(rows.shown.map((row) => row.id));
      const top = rows.shown[0]!;
      if (what.still && apart(top)) return begun;
      if (what.still) {
        // Below the page they stay; in its range the page says which there are.
        const below = last && what.next !== null ? rows.shown.filter((row) => after(row, last)) : [];
        const shown = [...updated(rows.shown.filter((r) => what.rows.some((n) => n.id === r.id)), what.rows)];
        const kept = new Map(shown.map((row) => [row.id, row]));
        return { ...rows, shown: [...what.rows.map((row) => kept.get(row.id) ?? row), ...below], held: [], gap: null, next: below.length ? rows.next : what.next };
      }
      const shown = updated(rows.shown, what.rows);
      const fresh = what.rows.filter((row) => !known.has(row.id) && after(top, row));
      const ids = new Set(fresh.map((row) => row.id));
      const held = [...fresh, ...updated(rows.held, what.rows).filter((row) => !ids.has(row.id))];
      // A page of nothing but new ones goes on where it says, not with what is known.
      const broken = apart(rows.held[0] ?? top) || (held.length > MOST && apart(top));
      return broken ? { ...rows, shown, held: fresh, gap: what.next } : { ...rows, shown, held };
    }
    case "more": {
      const known = new Set(rows.shown.map((row) => row.id));
      return { ...rows, shown: [...rows.shown, ...what.rows.filter((row) => !known.has(row.id))], next: what.next };
    }
    case "update":
      return { ...rows, shown: updated(rows.shown, what.rows) };
    case "reveal":
      if (rows.gap !== null) return { ...rows, shown: rows.held, held: [], gap: null, next: rows.gap };
      return { ...rows, shown: [...rows.held, ...rows.shown], held: [] };
  }
}
