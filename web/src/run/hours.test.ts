import { expect, test } from "vitest";
import { busiest } from "./hours.ts";

test("hours are told in words", () => {
  expect(busiest([0, 0, 0])).toBe("No run in the last 3 hours");
  expect(busiest([0, 0, 1])).toBe("1 run in the last 3 hours, most of them in the last hour");
  expect(busiest([2, 5, 1])).toBe("8 runs in the last 3 hours, most of them 1 hour ago");
  expect(busiest([1200, 3, 3])).toBe("1,206 runs in the last 3 hours, most of them 2 hours ago");
});
