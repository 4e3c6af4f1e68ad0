import fc from "fast-check";
import { expect, test } from "vitest";
import type { ListedRun } from "../api/types.ts";
import { BARS, lately, percent } from "./lately.ts";

const run = (status: string, ms: number, n = 0) => ({ id: `run_${n}`, status, created_at: new Date(1e12).toISOString(), ended_at: new Date(1e12 + ms).toISOString() }) as ListedRun;

test("what was cancelled says nothing of the code, and what failed nothing of how long it takes", () => {
  const found = lately([run("completed", 10), run("cancelled", 99_000), run("failed", 5), run("completed", 30), run("terminated", 1), run("completed", 20)]);
  expect([found.count, found.completed, found.half, found.most]).toEqual([5, 3, 20, 30]);
  expect(found.bars.map((bar) => bar.ms)).toEqual([20, 1, 30, 5, 99_000, 10]);
  expect(lately([])).toEqual({ count: 0, completed: 0, half: null, most: null, bars: [] });
});

test("half took no longer than the middle one, and nearly all no longer than the other", () => {
  fc.assert(fc.property(fc.array(fc.nat(1e6), { minLength: 1, maxLength: 200 }), (all) => {
    const { half, most, bars } = lately(all.map((ms, n) => run("completed", ms, n)));
    expect(all.filter((ms) => ms <= half!).length).toBeGreaterThanOrEqual(all.length / 2);
    expect(all.filter((ms) => ms <= most!).length).toBeGreaterThanOrEqual(all.length * 0.95);
    expect(half!).toBeLessThanOrEqual(most!);
    expect(bars.length).toBe(Math.min(all.length, BARS));
  }));
});

test("a part is not all", () => {
  expect([percent(1999, 2000), percent(2000, 2000), percent(1, 5000), percent(0, 3), percent(39, 40)]).toEqual(["99.9 %", "100 %", "0.1 %", "0 %", "97.5 %"]);
});
