import fc from "fast-check";
import { expect, test } from "vitest";
import { absolute, bytes, duration, relative, inWhole } from "./time.ts";

test("durations in words", () => {
  for (const [ms, words] of [[0, "0 ms"], [-5, "0 ms"], [999, "999 ms"], [1400, "1.4 s"], [59_940, "60 s"], [59_990, "1m 00s"], [125_000, "2m 05s"], [3_840_000, "1h 04m"], [266_400_000, "3d 2h"], [Number.NaN, "0 ms"]] as const) expect(duration(ms)).toBe(words);
  fc.assert(fc.property(fc.integer({ min: 0, max: 1e13 }), (ms) => { expect(duration(ms)).not.toMatch(/NaN|undefined/); }));
});

test("moments in words", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  expect([relative(now, now), relative(now - 12_000, now), relative(now + 200_000, now), relative(now - 7_300_000, now), relative(now + 259_200_000, now)]).toEqual(["now", "12 s ago", "in 3 min", "2 h ago", "in 3 d"]);
  expect(absolute("2026-01-01T00:00:00.120Z", true)).toBe("2026-01-01 00:00:00.120 UTC");
  expect(absolute("nonsense", false)).toBe("nonsense");
  expect([bytes(12), bytes(2048), bytes(3 << 20)]).toEqual(["12 bytes", "2.0 KiB", "3.0 MiB"]);
});

test.each([["86400s", "1 d"], ["900s", "15 min"], ["90s", "90 s"], ["7200s", "2 h"], ["0s", "0s"], ["500ms", "500ms"]])("%s is %s", (text, whole) => expect(inWhole(text)).toBe(whole));
