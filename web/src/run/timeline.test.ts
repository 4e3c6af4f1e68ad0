import fc from "fast-check";
import { expect, test } from "vitest";
import type { History, Run } from "../api/types.ts";
import { empty, type RunLog } from "./log.ts";
import { stepsOf, type StepLine } from "./steps.ts";
import { axis, busy, place, runRow, stepRow, ticks, type Span } from "./timeline.ts";

const T0 = Date.parse("2026-01-01T00:00:00.000Z");
const iso = (ms: number) => new Date(T0 + ms).toISOString();
let n = 0;
const told = (at: number, type: string, data: object = {}, by = "handler"): History => ({ n: n++, epoch: 1, at: iso(at), type, by, data: JSON.stringify(data) });
const runOf = (change: Partial<Run>): Run => ({ created_at: iso(0), started_at: iso(100), ended_at: null, status: "running", waiting_for: [], ...change }) as Run;

const step = fc.record({
  op: fc.constantFrom("run", "sleep", "signal", "start", "invoke", "task", "call"), before: fc.nat(5000), asked: fc.option(fc.nat(9000)), settled: fc.option(fc.nat(10_000)),
  ms: fc.nat(12_000), state: fc.constantFrom("done", "failed", "retrying", "waiting", "running"),
  failures: fc.array(fc.record({ attempt: fc.nat(9), at: fc.nat(10_000), ms: fc.nat(4000), next: fc.option(fc.nat(20_000)) }), { maxLength: 6 }),
}).map((s): StepLine => ({ ...s, id: "s", due: null, request: null, held: null, beat: null, entry: null, waiting: null, failures: [...s.failures].sort((a, b) => a.at - b.at) }) as StepLine);

test("no bar ends before it begins, and none covers another", () => {
  fc.assert(fc.property(step, fc.integer({ min: 10_000, max: 40_000 }), (s, now) => {
    const row = stepRow(s, now);
    expect(row.to).toBeGreaterThanOrEqual(row.from);
    let at = row.from;
    for (const segment of row.segments) {
      expect(segment.from).toBeGreaterThanOrEqual(at);
      expect(segment.to).toBeGreaterThanOrEqual(segment.from);
      at = segment.to;
    }
  }));
});

test("queue, failures, back-off and work of a step are told apart", () => {
  const s: StepLine = { id: "pack", op: "run", state: "done", asked: null, settled: 5000, due: null, ms: 300, request: null, held: null, beat: null, entry: null, waiting: null, before: 0,
    failures: [{ attempt: 1, at: 1000, ms: 400, next: 3000 }] };
  expect(stepRow(s, 9999).segments.map((x) => [x.kind, x.from, x.to])).toEqual([["queue", 0, 600], ["fail", 600, 1000], ["backoff", 1000, 3000], ["queue", 3000, 4700], ["execute", 4700, 5000]]);
});

test("a run's row: queued, at work, waiting, and waiting for a next attempt", () => {
  const log: RunLog = { ...empty(), caught: true, run: runOf({ status: "completed", ended_at: iso(9000) }), history: [
    told(0, "run.created", {}, "local"), told(500, "invocation.ended"), told(500, "attempt.failed", { step: "a", attempt: 1, next_attempt_at: iso(1500) }),
    told(500, "run.waiting", { until: iso(1500) }), told(2000, "invocation.ended"), told(2000, "step.settled", { step: "a", seq: 1 }),
    told(2000, "step.asked", { step: "nap", op: "sleep", due: iso(8000) }), told(2000, "run.waiting", { until: iso(8000) }),
    told(8000, "step.settled", { step: "nap", op: "sleep", seq: 2 }, "gateway"), told(9000, "invocation.ended", { duration_ms: 900 }), told(9000, "run.completed"),
  ] };
  expect(runRow(log, T0 + 99_999).segments.map((x) => [x.kind, x.from - T0, x.to - T0])).toEqual([
    ["queue", 0, 100], ["execute", 100, 500], ["backoff", 500, 1500], ["execute", 1500, 2000], ["wait", 2000, 8000], ["execute", 8000, 9000]]);
});

test("what a handler says it took is not made longer by what it waited before", () => {
  const log: RunLog = { ...empty(), caught: true, run: runOf({}), history: [
    told(500, "invocation.ended"), told(500, "attempt.failed", { step: "a", attempt: 1, ms: 300, next_attempt_at: iso(1000) }), told(500, "run.waiting", { until: iso(1000) }),
    told(9000, "invocation.ended"), told(9000, "step.settled", { step: "a", seq: 1, ms: 200 }),
  ] };
  expect(runRow(log, T0 + 9000).segments.map((x) => [x.kind, x.from - T0, x.to - T0])).toEqual([["queue", 0, 100], ["execute", 100, 500], ["backoff", 500, 8800], ["execute", 8800, 9000]]);
});

test("steps come in the order of their first appearance, pending ones too", () => {
  const log: RunLog = { ...empty(), caught: true, run: runOf({ status: "waiting", waiting_for: [{ step: "approval", op: "signal", name: "approved", since: iso(700), until: null }] }),
    steps: new Map([[1, { seq: 1, id: "b", op: "run", value: "1", error: null, attempts: 1, asked_at: null, settled_at: iso(600), ms: 10, last_error: null }]]) as RunLog["steps"],
    history: [told(500, "attempt.failed", { step: "b", attempt: 1, ms: 5 }), told(700, "step.asked", { step: "approval", op: "signal" })] };
  expect(stepsOf(log).map((s) => [s.id, s.state, s.failures.length])).toEqual([["b", "done", 1], ["approval", "waiting", 0]]);
});

const spans = fc.array(fc.tuple(fc.nat(100_000), fc.nat(3000)).map(([from, length]): Span => ({ from, to: from + length })), { maxLength: 30 });
const work = (of: Span[]) => busy([{ id: null, from: 0, to: 0, open: false, segments: of.map((s) => ({ kind: "execute", ...s })) }]);

test("the axis covers all of the time and all of the width, in order, folded or not", () => {
  fc.assert(fc.property(spans, fc.boolean(), (of, fold) => {
    const whole = { from: 0, to: 120_000 };
    const pieces = axis(whole, work(of), fold);
    expect(pieces[0]).toMatchObject({ from: 0, left: 0 });
    expect(pieces.at(-1)!.to).toBe(whole.to);
    expect(pieces.at(-1)!.left + pieces.at(-1)!.width).toBeCloseTo(1, 6);
    for (const [i, piece] of pieces.entries()) {
      expect(piece.to).toBeGreaterThan(piece.from);
      expect(piece.width).toBeGreaterThanOrEqual(0);
      if (i) expect([piece.from, piece.left]).toEqual([pieces[i - 1]!.to, expect.closeTo(pieces[i - 1]!.left + pieces[i - 1]!.width, 9)]);
    }
  }));
});

test("what is later is never further left, and a fold never hides work", () => {
  fc.assert(fc.property(spans, fc.array(fc.nat(120_000), { minLength: 2 }), (of, moments) => {
    const done = work(of);
    const pieces = axis({ from: 0, to: 120_000 }, done, true);
    const lefts = [...moments].sort((a, b) => a - b).map((at) => place(pieces, at));
    for (const [i, left] of lefts.entries()) {
      expect(left).toBeGreaterThanOrEqual(i ? lefts[i - 1]! : 0);
      expect(left).toBeLessThanOrEqual(1);
    }
    for (const fold of pieces.filter((p) => p.folded)) expect(done.some((d) => d.from < fold.to && d.to > fold.from)).toBe(false);
  }));
});

test("an hour of sleep between two seconds of work is folded, and work gets the room", () => {
  const hour = 3_600_000;
  const pieces = axis({ from: 0, to: hour + 2000 }, [{ from: 0, to: 1000 }, { from: hour + 1000, to: hour + 2000 }], true);
  expect(pieces.filter((p) => p.folded)).toHaveLength(1);
  expect(pieces.find((p) => p.folded)!.width).toBeLessThan(0.1);
});

test("ticks are in order, on the axis and not in a fold", () => {
  fc.assert(fc.property(spans, fc.integer({ min: 2, max: 10 }), (of, count) => {
    const pieces = axis({ from: 0, to: 120_000 }, work(of), true);
    const got = ticks(pieces, count);
    for (const [i, tick] of got.entries()) if (i) expect(tick.left).toBeGreaterThan(got[i - 1]!.left);
    expect(got.length).toBeLessThanOrEqual(count * 2 + 2);
  }));
});

test("a task: its attempts and what comes between them, and one that was accepted is at work", () => {
  const log: RunLog = { ...empty(), caught: true, run: runOf({ status: "retrying", waiting_for: [{ step: "a", op: "task", until: iso(4000) }, { step: "b", op: "task", until: null }] } as unknown as Partial<Run>), history: [
    told(500, "step.asked", { step: "a", op: "task" }), told(500, "step.asked", { step: "b", op: "task" }), told(500, "run.waiting", {}),
    told(900, "attempt.failed", { step: "a", attempt: 1, ms: 300, next_attempt_at: iso(2000) }, "gateway"), told(1000, "attempt.accepted", { step: "b", ms: 20, until: iso(90_000) }, "gateway"),
    told(1500, "attempt.beat", { step: "b", details: { percent: 40 } }, "gateway"), told(2100, "attempt.failed", { step: "a", attempt: 2, ms: 50, next_attempt_at: iso(4000) }, "gateway"),
  ] };
  const [a, b] = stepsOf(log) as [StepLine, StepLine];
  expect([a.state, a.due, b.state, b.held, b.beat?.at]).toEqual(["retrying", T0 + 4000, "running", { at: T0 + 1000, until: T0 + 90_000 }, T0 + 1500]);
  expect(stepRow(a, T0 + 3000).segments.map((x) => [x.kind, x.from - T0, x.to - T0])).toEqual([
    ["queue", 500, 600], ["fail", 600, 900], ["backoff", 900, 2000], ["queue", 2000, 2050], ["fail", 2050, 2100], ["backoff", 2100, 3000]]);
  expect(stepRow(b, T0 + 3000).segments.map((x) => [x.kind, x.from - T0, x.to - T0])).toEqual([["execute", 500, 3000]]);
  // Meanwhile the handler is away.
  expect(runRow({ ...log, run: runOf({ status: "waiting" }) }, T0 + 3000).segments.at(-1)).toMatchObject({ kind: "wait", from: T0 + 500, to: T0 + 3000 });
});

test("of a run that has continued as new, its generation is shown", () => {
  const log: RunLog = { ...empty(), caught: true, run: runOf({ generation: 2 }), history: [
    told(200, "step.asked", { step: "old", op: "sleep", due: iso(99_999) }), told(400, "invocation.ended"), told(400, "run.continued", { generation: 2 }),
    told(700, "step.asked", { step: "new", op: "sleep", due: iso(9000) }), told(700, "run.waiting", {}),
  ] };
  expect(stepsOf(log).map((s) => s.id)).toEqual(["new"]);
  const row = runRow(log, T0 + 1000);
  expect([row.from - T0, row.segments.every((s) => s.from >= row.from)]).toEqual([400, true]);
});
