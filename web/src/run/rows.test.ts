import { expect, test } from "vitest";
import type { ListedRun } from "../api/types.ts";
import { change, none, type Rows } from "./rows.ts";

const run = (n: number, status = "completed"): ListedRun => ({ id: `run_${String(n).padStart(4, "0")}`, created_at: new Date(n * 1000).toISOString(), status, ended_at: null, attention: null, tags: {} }) as unknown as ListedRun;
const page = (newest: number, count = 5, status?: string) => Array.from({ length: count }, (_, i) => run(newest - i, status));
const ids = (rows: ListedRun[]) => rows.map((r) => Number(r.id.slice(4)));
const head = (rows: ListedRun[], still: boolean, next: string | null = "next") => ({ type: "head", rows, next, still }) as const;
const first = (newest: number): Rows => change(none, head(page(newest), true));

test("while nobody reads, the list grows at once", () => {
  const rows = change(first(10), head(page(12), true));
  expect(ids(rows.shown)).toEqual([12, 11, 10, 9, 8, 7, 6]);
  expect(rows.held).toEqual([]);
});

test("while somebody reads, new ones are held back and shown ones stay where they are", () => {
  let rows = first(10);
  for (let n = 11; n <= 500; n++) rows = change(rows, head(page(n), false));
  expect(ids(rows.shown)).toEqual([10, 9, 8, 7, 6]);
  expect(rows.held).toHaveLength(490);
  const revealed = change(rows, { type: "reveal" });
  expect(ids(revealed.shown)).toEqual([...Array.from({ length: 500 - 5 }, (_, i) => 500 - i)]);
});

test("statuses change in place, and what did not change stays the same object", () => {
  const before = first(10);
  const fresh = [run(10, "failed"), ...page(9, 4)];
  const after = change(before, head(fresh, false));
  expect(after.shown.map((r) => r.status)[0]).toBe("failed");
  expect(after.shown[1]).toBe(before.shown[1]);
  expect(change(after, { type: "update", rows: [run(7, "failed")] }).shown[3]!.status).toBe("failed");
});

test("pages below are put on once, and stay when the head changes", () => {
  let rows = change(first(10), { type: "more", rows: page(6, 5), next: null });
  expect(ids(rows.shown)).toEqual([10, 9, 8, 7, 6, 5, 4, 3, 2]);
  rows = change(rows, head(page(11), true));
  expect(ids(rows.shown)).toEqual([11, 10, 9, 8, 7, 6, 5, 4, 3, 2]);
  expect(rows.next).toBeNull();
});

test("what no longer fits the filter leaves when the list is still", () => {
  const rows = change(first(10), head([run(10), run(8)], true, null));
  expect(ids(rows.shown)).toEqual([10, 8]);
});
