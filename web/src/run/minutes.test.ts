import { describe, expect, test } from "vitest";
import { byMinute, MINUTES, percent } from "./minutes.ts";

const now = Date.parse("2026-11-26T10:30:20Z");
const ago = (minutes: number) => new Date(now - minutes * 60_000).toISOString();

describe("minutes", () => {
  test("each count is in its minute, and what is older than an hour is in none", () => {
    const counts = byMinute([{ at: ago(59), count: 2 }, { at: ago(60), count: 7 }, { at: ago(1), count: 3 }, { at: ago(0), count: 4 }], now);
    expect(counts.length).toBe(MINUTES);
    expect([counts[0], counts[58], counts[59]]).toEqual([2, 3, 4]);
    expect(counts.reduce((a, b) => a + b)).toBe(9);
  });
  test("a minute that this clock has not come to is the last", () => {
    expect(byMinute([{ at: ago(-2), count: 5 }], now)[59]).toBe(5);
  });
});

test("parts of a whole", () => {
  expect([percent(0, 9), percent(0, 0), percent(1, 100_000), percent(3, 1204), percent(12, 100), percent(5, 5)])
    .toEqual(["0 %", "0 %", "under 0.1 %", "0.2 %", "12 %", "100 %"]);
});
