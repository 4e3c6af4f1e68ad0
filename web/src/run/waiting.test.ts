import { expect, test } from "vitest";
import type { Run } from "../api/types.ts";
import { addressOf, waits } from "./waiting.ts";

const run = (key: string | null, ...ops: [op: string, name: string | null][]) => ({ id: "run_1", key, function: "pay/out", waiting_for: ops.map(([op, name], i) => ({ step: `s${i}`, op, name })) }) as unknown as Run;

test("what waits for the world is told, by its kind and by what is looked for", () => {
  const runs = [run("order-1", ["signal", "approved"], ["sleep", null]), run(null, ["callback", null], ["event", "Paid"])];
  const found = (op: string | undefined, text: string) => waits(runs, op, text).map(({ w }) => `${w.op} ${w.step}`);
  expect(found(undefined, "")).toEqual(["signal s0", "callback s0", "event s1"]);
  expect(found("event", "")).toEqual(["event s1"]);
  expect(found(undefined, " paid ")).toEqual(["event s1"]);
  expect(found(undefined, "ORDER-1")).toEqual(["signal s0"]);
  expect(found("callback", "order-1")).toEqual([]);
});

test("a signal goes by the key where there is one, and names are no paths", () => {
  expect(addressOf("https://gw/x/", run("a/b"), "ok?")).toBe("https://gw/x/v1/functions/pay%2Fout/keys/a%2Fb/signals/ok%3F");
  expect(addressOf("https://gw/", run(null), "ok")).toBe("https://gw/v1/runs/run_1/signals/ok");
});
