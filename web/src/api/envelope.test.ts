import fc from "fast-check";
import { expect, test } from "vitest";
import { open } from "./envelope.ts";
import { lineCutter, parse } from "./follow.ts";

test("payloads are text, what is ours is parsed", () => {
  const answer = '{"id":"run_1","tags":{"input":"x"},"input": {"n":3544790567247868102} ,"output":null,"steps":{"settled":2},"links":{"self":"/v1"}}';
  expect(open(answer)).toEqual({ id: "run_1", tags: { input: "x" }, input: '{"n":3544790567247868102}', output: null, steps: { settled: 2 }, links: { self: "/v1" } });
});

test("`data` of a list is a list, of a history entry it is text", () => {
  expect(open('{"data":[{"n":1,"data":{"value":1.0}}],"next_cursor":null}')).toEqual({ data: [{ n: 1, data: '{"value":1.0}' }], next_cursor: null });
});

test("the data of an event is text, whatever it is", () => {
  for (const data of ["[1.0,2]", '{"n":3544790567247868102}', '"a"', "1e400"])
    expect(open(`{"id":"evt_1","source_id":"s","data":${data},"matches":[{"run":"run_1"}]}`)).toEqual({ id: "evt_1", source_id: "s", data, matches: [{ run: "run_1" }] });
  expect(open('{"data":[{"id":"evt_1","source_id":"s"}],"next_cursor":null}')).toEqual({ data: [{ id: "evt_1", source_id: "s" }], next_cursor: null });
});

test("the data of a chunk is text, whatever it is", () => {
  for (const data of ["[1.0,2]", '{"n":3544790567247868102}', '"a"', "1e400"])
    expect(open(`{"data":[{"n":1,"at":"2026-01-01T00:00:00Z","stream":"s","data":${data}}],"next_cursor":null}`)).toEqual({ data: [{ n: 1, at: "2026-01-01T00:00:00Z", stream: "s", data }], next_cursor: null });
});

test("any payload comes out as it went in", () => {
  fc.assert(fc.property(fc.json(), fc.json(), (input, value) => {
    const got = open<{ a: { value: string | null }[]; input: string | null }>(`{"a":[{"value":${value}},{"value":${value}}],"input":${input}}`);
    expect(got.input ?? "null").toBe(input.trim());
    expect(got.a.map((x) => x.value ?? "null")).toEqual([value.trim(), value.trim()]);
  }));
});

test("the stream is cut into lines wherever its pieces end", () => {
  const lines = ['{"event":"step","id":"1","data":{"seq":1,"value":1.0}}', '{"event":"log","id":"2","data":{"n":1}}'];
  const text = `\n${lines.join("\n")}\n\n`;
  fc.assert(fc.property(fc.array(fc.nat(text.length)), (cuts) => {
    const cut = lineCutter();
    const at = [0, ...[...cuts].sort((a, b) => a - b), text.length];
    expect(at.slice(1).flatMap((end, i) => cut(text.slice(at[i], end)))).toEqual(lines);
  }));
  expect(parse(lines[0]!)).toEqual({ event: "step", id: "1", data: { seq: 1, value: "1.0" } });
});

test("what is counted of attempts by their outcome stays numbers, also under `value`", () => {
  expect(open('{"attempts": {"value": [0, 4], "failed": [1, 2]}}')).toEqual({ attempts: { value: [0, 4], failed: [1, 2] } });
});
