import fc from "fast-check";
import { expect, test } from "vitest";
import type { ListedRun } from "../api/types.ts";
import { change, none, type Rows } from "./rows.ts";

const run = (n: number, status = "completed"): ListedRun => ({ id: `run_${String(n).padStart(8, "0")}`, created_at: new Date(n * 1000).toISOString(), status, ended_at: null, attention: null, tags: {} }) as unknown as ListedRun;
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

test("a page that is all new is no neighbour of what is shown: the list goes on below the page", () => {
  const still = change(first(10), head(page(100), true, "below 96"));
  expect([ids(still.shown), still.next]).toEqual([[100, 99, 98, 97, 96], "below 96"]);
  const held = change(change(first(10), head(page(100), false, "below 96")), head(page(102), false, "below 98"));
  expect(ids(held.shown)).toEqual([10, 9, 8, 7, 6]);
  const revealed = change(held, { type: "reveal" });
  expect([ids(revealed.shown), revealed.next]).toEqual([[102, 101, 100, 99, 98, 97, 96], "below 96"]);
});

test("however fast it grows and whatever the reader does, no row is missing between two that are shown", () => {
  const steps = fc.array(fc.record({ grown: fc.integer({ min: 0, max: 900 }), still: fc.boolean(), then: fc.constantFrom("nothing", "reveal", "more") }), { maxLength: 30 });
  fc.assert(fc.property(steps, (all) => {
    let newest = 1000;
    let rows = change(none, head(page(newest, 50), true, String(newest - 49)));
    for (const { grown, still, then } of all) {
      newest += grown;
      const top = rows.shown[0]!;
      rows = change(rows, head(page(newest, 50), still, String(newest - 49)));
      if (!still) expect(rows.shown[0]!.id).toBe(top.id);
      if (then === "reveal") rows = change(rows, { type: "reveal" });
      if (then === "more") rows = change(rows, { type: "more", rows: page(Number(rows.next) - 1, 50), next: String(Number(rows.next) - 50) });
      const [shown, held] = [ids(rows.shown), ids(rows.held)];
      const whole = (list: number[]) => list.every((n, i) => n === list[0]! - i);
      expect(whole(shown) && whole(held)).toBe(true);
      expect(Number(rows.next)).toBe(shown.at(-1));
      if (held.length) expect(rows.gap === null ? shown[0] : Number(rows.gap)).toBe(rows.gap === null ? held.at(-1)! - 1 : held.at(-1));
      expect(held.length).toBeLessThan(600);
    }
  }));
});
