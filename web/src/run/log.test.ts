import fc from "fast-check";
import { expect, test } from "vitest";
import type { StreamEvent } from "../api/follow.ts";
import { anew, empty, take } from "./log.ts";

const step = (seq: number): StreamEvent => ({ id: `s${seq}`, event: "step", data: { seq, id: `step-${seq}`, op: "run", error: null } });
const history = (n: number, type = "step.settled"): StreamEvent => ({ id: `h${n}`, event: "history", data: { n, type, at: "2026-01-01T00:00:00Z", by: "gateway", epoch: 1, data: "{}" } });
const log = (n: number): StreamEvent => ({ id: `l${n}`, event: "log", data: { n, level: "info", message: "m" } });
const chunk = (n: number): StreamEvent => ({ id: `c${n}`, event: "chunk", data: { n, at: "2026-01-01T00:00:00Z", stream: n % 2 ? "odd" : "even", data: `"${n}"` } });
const run: StreamEvent = { id: "r", event: "run", data: { id: "run_1", status: "running" } };

test("a stream that is taken up again, with repeats, comes to the same", () => {
  const events = [...Array.from({ length: 30 }, (_, i) => step(i + 1)), ...Array.from({ length: 30 }, (_, i) => history(i * 7)), ...Array.from({ length: 5 }, (_, i) => log(i)), ...Array.from({ length: 9 }, (_, i) => chunk(i)), run];
  const whole = take(empty(), events);
  expect([whole.steps.size, whole.history.length, whole.logs.length]).toEqual([30, 30, 5]);
  expect([...whole.outputs.values()].map((o) => [o.name, o.count, o.bytes])).toEqual([["even", 5, 15], ["odd", 4, 12]]);
  // It breaks off anywhere, and goes on from anywhere before that.
  fc.assert(fc.property(fc.nat(events.length), fc.nat(events.length), (a, b) => {
    const [from, to] = [Math.min(a, b), Math.max(a, b)];
    expect(take(take(empty(), events.slice(0, to)), events.slice(from))).toEqual(whole);
  }));
});

test("what nobody knows yet changes nothing", () => {
  const before = take(empty(), [step(1)]);
  expect(take(before, [{ id: "x", event: "weather", data: { text: "…" } }])).toEqual(before);
});

test("what was shown is not changed under the reader's hands", () => {
  const before = take(empty(), [step(1), history(1)]);
  const [steps, entries] = [before.steps, before.history];
  const after = take(before, [step(2), history(2)]);
  expect([steps.size, entries.length, after.steps.size, after.history.length]).toEqual([1, 1, 2, 2]);
  expect(take(after, [run]).steps).toBe(after.steps);
});

test("a rewind makes the log stale, but not one that lies before the first look", () => {
  expect(take(empty(), [step(1), history(1, "run.reopened"), run]).stale).toBe(false);
  expect(take(take(empty(), [step(1), run]), [history(1, "run.reopened")]).stale).toBe(true);
});

test("read again after a rewind, what was put out stands, and its steps do not", () => {
  const stale = take(take(empty(), [step(1), log(0), chunk(0), chunk(1), run]), [history(1, "run.reopened")]);
  const again = anew(stale);
  expect([again.run, again.steps.size, again.history.length, again.stale, again.caught]).toEqual([stale.run, 0, 0, false, false]);
  expect(take(again, [log(0), chunk(0), chunk(1)])).toEqual(again);
  // Read again for another reason, it may be gone: somebody has erased it.
  expect(anew({ ...stale, stale: false })).toEqual({ ...empty(), run: stale.run });
});
