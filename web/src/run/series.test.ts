import fc from "fast-check";
import { expect, test } from "vitest";
import type { MetricsSeries } from "../api/types.ts";
import { each, merged, quantile, seconds, sum, type Line } from "./series.ts";

const times = (at: number[]) => ({ bounds: [0.1, 1], counts: at.map(() => null as number[] | null) });
const node = (at: number[], change: Partial<MetricsSeries> = {}): MetricsSeries => ({
  node: "nod_1", step: "10s", at: at.map((s) => new Date(s * 1000 + 7).toISOString()), seconds: at.map(() => 10), runs_started: at.map(() => 1),
  runs_ended: {}, invocations: {}, attempts: {}, live: {}, invocation_seconds: times(at), run_seconds: times(at), limit_wait_seconds: times(at), ...change });

test("nodes are added on one grid, and a moment that nobody counted is a gap", () => {
  const a = node([1000, 1010, 1040], { runs_ended: { completed: [1, 2, 3], constructor: [0, 1, 0] }, live: { queued: [4, null, 2] }, invocation_seconds: { bounds: [0.1, 1], counts: [[1, 0, 0], null, [0, 0, 1]] } });
  const b = node([1010, 1020], { node: "nod_2", runs_ended: { completed: [10, 20] }, invocation_seconds: { bounds: [0.1, 1], counts: [[0, 1, 0], null] } });
  const all = merged([a, b]);
  expect(all.at).toEqual([1000, 1010, 1020, 1030, 1040]);
  expect(all.started).toEqual([1, 2, 1, null, 1]);
  expect(all.ended.get("completed")).toEqual([1, 12, 20, null, 3]);
  expect(all.ended.get("constructor")).toEqual([0, 1, null, null, 0]);
  expect(all.live.get("queued")).toEqual([4, null, null, null, 2]);
  expect(all.times.invocation_seconds.counts).toEqual([[1, 0, 0], [0, 1, 0], null, null, [0, 0, 1]]);
  expect(merged([]).at).toEqual([]);
});

test("many moments are told minute by minute, and a minute that is not over is not told", () => {
  const at = Array.from({ length: 100 }, (_, i) => 6000 + i * 10);
  const all = merged([node(at)]);
  expect([all.step, all.at.length, all.at[0], all.at.at(-1)]).toEqual([60, 16, 6060, 6960]);
  expect(all.started.every((n) => n === 6)).toBe(true);
  expect([each(60), each(10), each(300)]).toEqual(["each minute", "each 10 s", "each 5 min"]);
  expect(["10s", "5m", "1h", "soon"].map(seconds)).toEqual([10, 300, 3600, 10]);
});

test("whatever nodes counted in moments that are over is there, once", () => {
  const counted = fc.uniqueArray(fc.nat(400), { minLength: 1, maxLength: 80 }).map((places) => places.sort((a, b) => a - b).map((p) => 60_000 + p * 10));
  fc.assert(fc.property(fc.array(counted, { minLength: 1, maxLength: 3 }), (nodes) => {
    const all = merged(nodes.map((at) => node(at)));
    const over = nodes.flat().filter((at) => at > (all.at[0] ?? 0) - all.step && at <= (all.at.at(-1) ?? 0)).length;
    expect(all.started.reduce<number>((n, v) => n + (v ?? 0), 0)).toBe(over);
    for (let i = 1; i < all.at.length; i++) expect(all.at[i]! - all.at[i - 1]!).toBe(all.step);
  }));
});

test("a quantile lies within its bucket and grows with the part that is asked for", () => {
  const bounds = [0.1, 1, 10];
  fc.assert(fc.property(fc.array(fc.nat(50), { minLength: 4, maxLength: 4 }), fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true }), (counts, a, b) => {
    const [low, high] = [quantile(bounds, counts, Math.min(a, b)), quantile(bounds, counts, Math.max(a, b))];
    if (counts.every((n) => n === 0)) { expect([low, high]).toEqual([null, null]); return; }
    expect(low).toBeLessThanOrEqual(high! + 1e-9);
    expect(high).toBeLessThanOrEqual(10);
    expect(low).toBeGreaterThanOrEqual(0);
  }));
  expect([quantile(bounds, [0, 4, 0, 0], 0.5), quantile(bounds, [0, 0, 0, 3], 0.5), quantile(bounds, null, 0.5)]).toEqual([0.55, 10, null]);
});

test("a sum is known where one of its lines is", () => {
  const line = fc.array(fc.option(fc.nat(9)), { minLength: 3, maxLength: 3 });
  fc.assert(fc.property(line, line, (a: Line, b: Line) => {
    expect(sum(a, b)).toEqual(a.map((n, i) => (n === null && b[i] === null ? null : (n ?? 0) + (b[i] ?? 0))));
  }));
  expect(sum(undefined, [1, null])).toEqual([1, null]);
  expect(sum(undefined)).toEqual([]);
});
