import fc from "fast-check";
import { expect, test } from "vitest";
import { kindOf, nameOf, rule, searchOf, standing, taken, waiting } from "./limits.ts";

const limit = { kind: "concurrency", function: "f", endpoint: null, key: null, value: null, limit: 2, fair: null, per: "invocation", period: null, running: 1, queued: 0, paused: null } as const;

test("a limit says in words what it lets through", () => {
  expect(rule(limit)).toBe("2 runs at once");
  expect(rule({ ...limit, limit: 1, per: "run" })).toBe("1 run from start to end");
  expect(rule({ ...limit, kind: "throttle", limit: 100, per: null, period: "60s" })).toBe("100 starts every minute");
  expect(rule({ ...limit, kind: "rate_limit", limit: 1, per: null, period: "90s" })).toBe("1 start every 90 s");
  expect(rule({ ...limit, limit: null })).toBe("no more in force");
  expect(["concurrency", "rate_limit", "constructor", "weight_of_all"].map(kindOf)).toEqual(["concurrency", "rate limit", "constructor", "weight of all"]);
});

test("who is paused is paused, however full it is", () => {
  expect([limit, { ...limit, running: 2 }, { ...limit, running: 3 }, { ...limit, limit: null }].map(standing)).toEqual(["free", "full", "full", "free"]);
  expect(standing({ ...limit, running: 2, paused: { at: "", by: "ada", reason: null } })).toBe("paused");
  expect([0, 4].map((queued) => standing({ ...limit, period: "60s", queued, running: 0 }))).toEqual(["free", "paced"]);
});

test("no more than all of it is taken, and nothing is said of what has no slots", () => {
  fc.assert(fc.property(fc.nat(1e6), fc.nat(1e6), (running, most) => {
    const share = taken({ period: null, running, limit: most })!;
    expect(share).toBeGreaterThanOrEqual(0);
    expect(share).toBeLessThanOrEqual(1);
    expect(share === 1).toBe(running >= most);
  }));
  expect([taken({ ...limit, limit: null }), taken({ ...limit, period: "60s" })]).toEqual([null, null]);
  expect([0, 9_999, 10_000].map(waiting)).toEqual(["0", "9,999", "10,000+"]);
});

test("limits that differ in anything have different names, whatever stands in them", () => {
  const text = fc.option(fc.string());
  const named = fc.record({ kind: fc.constant("concurrency"), function: text, endpoint: text, key: text, value: text });
  fc.assert(fc.property(named, named, (a, b) => {
    const same = (["function", "endpoint", "key", "value"] as const).every((k) => a[k] === b[k]);
    expect(nameOf(a) === nameOf(b)).toBe(same);
  }));
  expect(searchOf({ ...limit, key: "input.t", value: '"a\\"cme"' })).toEqual({ function: "f", value: 'a"cme' });
  expect(searchOf({ ...limit, function: null, endpoint: "shop" })).toEqual({});
});
