import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { expect, test } from "vitest";
import { fault } from "../json/text.ts";
import type { Run } from "../api/types.ts";
import { actsOn, actsOnStep } from "./run.ts";
import { quoted, shown, TOOLS } from "./calls.ts";
import { LIVE, STATUSES } from "../run/status.ts";
import type { StepLine } from "../run/steps.ts";

const run = (status: string): Run => ({ id: "run_1", status, input: '{"n":3544790567247868102}', waiting_for: [], function: "f" }) as unknown as Run;
const line: StepLine = { id: "map/0/a b", op: "run", state: "retrying", asked: null, settled: null, due: null, ms: 0, failures: [], request: null, held: null, beat: null, entry: null, waiting: null, before: 0 };

test("whatever is typed, a word of the shell stays that word", () => {
  fc.assert(fc.property(fc.string().filter((s) => !s.includes("\0")), (text) => {
    expect(execFileSync("sh", ["-c", `printf %s ${quoted(text)}`], { encoding: "utf8" })).toBe(text);
  }), { numRuns: 40 });
});

test("every act has a sentence, a call with JSON, and words for each tool", () => {
  for (const status of STATUSES) {
    for (const act of [...actsOn(run(status), []), ...actsOnStep(run(status), line, [line])]) {
      const values = Object.fromEntries(act.fields.map((f) => [f.name, "initial" in f ? (f.initial ?? "") : ""]));
      const call = act.call({ ...values, name: values.name || "it's", reason: "be\"cause" });
      expect(fault(call.body ?? "{}"), `${status} ${act.id}`).toBeNull();
      expect(act.sentence).toMatch(/\.$/);
      for (const tool of TOOLS) expect(shown(tool, "http://127.0.0.1:8484/", call, act.cli(values), true)).not.toContain("undefined");
    }
  }
});

test("what has ended is not stopped, and what lives is not rewound", () => {
  const ids = (status: string) => actsOn(run(status), []).map((a) => a.id);
  for (const status of LIVE) expect(ids(status)).toEqual(expect.arrayContaining(["cancel", "terminate", "signal"]));
  expect(ids("completed")).toEqual(["rerun", "erase"]);
  expect(ids("failed")).toEqual(["rerun", "rewind", "erase"]);
  const erased = { ...run("failed"), erased_at: "2026-01-01T00:00:00Z" };
  expect([actsOn(erased, []), actsOnStep(erased, { ...line, settled: 1 } as unknown as StepLine, [])]).toEqual([[], []]);
  expect(ids("paused")).toContain("resume");
  expect(ids("running")).not.toContain("resume");
});

test("an input is sent only where it was changed, byte for byte", () => {
  const act = actsOn(run("completed"), []).find((a) => a.id === "rerun")!;
  expect(act.call({ input: '{"n":3544790567247868102}' }).body).toBe("{}");
  expect(act.call({ input: '{"n":3544790567247868103}', from_step: "a" }).body).toBe('{"from_step": "a", "input": {"n":3544790567247868103}}');
});

test("a step's id with slashes is one segment of the address", () => {
  const [retry] = actsOnStep(run("retrying"), line, [line]);
  expect(retry!.call({}).path).toBe("/v1/runs/run_1/steps/map%2F0%2Fa%20b/retry-now");
});

test("the key is never written out", () => {
  for (const tool of ["curl", "TypeScript", "Python"] as const) expect(shown(tool, "http://x/", { method: "POST", path: "/v1", body: "{}" }, [], true)).toContain("STEPWELL_API_KEY");
});
