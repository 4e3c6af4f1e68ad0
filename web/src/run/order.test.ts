import { expect, test } from "vitest";
import type { ListedRun } from "../api/types.ts";
import { comesAfter, ORDERS } from "./order.ts";

const run = (id: string, ended: string | null) => ({ id, ended_at: ended }) as ListedRun;

test("runs compare as the API orders them", () => {
  const all = [run("a", "2026-01-01T00:00:03Z"), run("b", "2026-01-01T00:00:01.5Z"), run("c", "2026-01-01T00:00:01.500Z")];
  const sorted = (order: string) => [...all].sort((x, y) => (comesAfter(order)(x, y) ? 1 : -1)).map((r) => r.id).join("");
  expect(ORDERS.map(([order]) => sorted(order))).toEqual(["cba", "abc", "acb", "bca"]);
  expect(comesAfter("")(all[0]!, all[0]!)).toBe(false);
});
