import fc from "fast-check";
import { expect, test } from "vitest";
import { fault } from "../json/text.ts";
import type { Values } from "./act.ts";
import { abort, actionWord, bulkActs, filterOf, fitting, howMany, told, type Many } from "./bulk.ts";
import { shown, TOOLS } from "./calls.ts";

const texts = fc.option(fc.array(fc.string({ minLength: 1 }), { maxLength: 3 }), { nil: undefined });
const text = fc.option(fc.string(), { nil: undefined });
const anyMany = fc.record({ status: texts, function: texts, key: texts, tag: texts, fingerprint: texts, run: texts, parent: text, schedule: text, q: text, started_after: text }) as fc.Arbitrary<Many>;
const first = (fields: { name: string }[]): Values => Object.fromEntries(fields.map((f) => [f.name, "initial" in f ? String(f.initial ?? "") : ""]));

test("a filter is what was given, and every run is never meant by accident", () => {
  fc.assert(fc.property(anyMany, (many) => {
    const sent = JSON.parse(filterOf(many)) as Record<string, unknown>;
    const given = Object.entries(many).filter(([, v]) => (Array.isArray(v) ? v.length > 0 : Boolean(v)));
    if (!given.length) expect(sent).toEqual({ all: true });
    else expect(sent).toEqual(Object.fromEntries(given));
    // What is told and what is sent are the same runs.
    expect(told(many).length === 0).toBe(given.length === 0);
  }));
});

test("each act says the same in a dry run and in earnest, but for the reason and the pace", () => {
  const many = { status: ["failed"], tag: ["customer:it's"] };
  for (const act of bulkActs(many)) {
    const values = { ...first(act.fields), name: "approved", reason: 'be"cause', rate: "50" };
    const [dry, call] = [act.dry!(values), act.call(values)];
    expect([fault(dry.body!), fault(call.body!)], act.id).toEqual([null, null]);
    const { dry_run, ...asked } = JSON.parse(dry.body!) as Record<string, unknown>;
    const { reason, rate, ...done } = JSON.parse(call.body!) as Record<string, unknown>;
    expect([dry_run, reason, rate]).toEqual([true, 'be"cause', 50]);
    expect(asked).toEqual(done);
    expect(act.sentence).toMatch(/\.$/);
    for (const tool of TOOLS) expect(shown(tool, "http://x/", call, act.cli(values), true)).not.toContain("undefined");
  }
  const signal = bulkActs({ run: ["run_1"] }).find((a) => a.id === "bulk-signal")!;
  expect(signal.call({ name: "go", payload: "3544790567247868102" }).body).toBe('{"filter": {"run": ["run_1"]}, "action": "signal", "signal": {"name": "go", "payload": 3544790567247868102}}');
  expect(signal.cli({ name: "go", payload: "1", reason: "", rate: "" })).toEqual(["bulk", "signal", "go", "--input", "1", "-q", "run=run_1", "--yes"]);
});

test("only what is wanted is offered, in that order", () => {
  expect(bulkActs({}, ["rerun", "cancel"]).map((a) => a.id)).toEqual(["bulk-rerun", "bulk-cancel"]);
  expect(bulkActs({ q: "a" }, ["pause"])[0]!.cli({})).toEqual(["bulk", "pause", "-q", "q=a", "--yes"]);
  expect(["retry-now", "constructor", "new-one"].map(actionWord)).toEqual(["Retry now", "constructor", "new one"]);
  expect(abort("blk_1").call({ reason: "" }).body).toBe("{}");
});

test("what fits the runs comes first, and nothing is missing", () => {
  const all = bulkActs({}).map((a) => a.id.slice(5)).sort();
  fc.assert(fc.property(fc.array(fc.constantFrom("queued", "waiting", "retrying", "paused", "failed", "completed", "constructor")), (statuses) => { expect([...fitting(statuses)].sort()).toEqual(all); }));
  expect(fitting(["waiting"]).slice(0, 3)).toEqual(["rerun", "cancel", "signal"]);
  expect(fitting(["failed", "paused"]).slice(0, 4)).toEqual(["resume", "rewind", "rerun", "cancel"]);
  expect(fitting(["completed"]).slice(0, 2)).toEqual(["rerun", "delete"]);
});

test("a count says whether it is all of them", () => {
  expect([[1, true], [0, true], [1204, true], [10_000, false]].map(([count, exact]) => howMany({ count: count as number, exact: exact as boolean }))).toEqual(["1 run", "0 runs", "1,204 runs", "at least 10,000 runs"]);
  expect(told({ run: ["a", "b", "c", "d"] })).toEqual([["runs", "4 that were chosen"]]);
});
