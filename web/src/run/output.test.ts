import fc from "fast-check";
import { expect, test } from "vitest";
import { layout, whole, WIDE, withChunk, type Output, type Outputs, type Row } from "./output.ts";

const of = (...data: (string | null)[]): Output => {
  let outputs: Outputs = new Map();
  data.forEach((data, n) => { outputs = withChunk(outputs, { n, at: "2026-01-01T00:00:00Z", stream: "s", data }); });
  return outputs.get("s") ?? { name: "s", chunks: [], count: 0, bytes: 0 };
};
const said = (...texts: string[]) => of(...texts.map((text) => JSON.stringify(text)));
const text = (rows: Row[]) => rows.map((r) => r.text + (r.ends ? "\n" : "")).join("");
const texts = (rows: Row[]) => rows.map((r) => r.text);

test("strings run on, and their line ends end lines", () => {
  expect(texts(layout("text")(said("Hel", "lo\nthe", "re\n", "\n", "end")))).toEqual(["Hello", "there", "", "end"]);
  expect(texts(layout("text")(said("a\r\nb", "")))).toEqual(["a", "b"]);
  expect(texts(layout("chunks")(said("Hel", "lo\nthere", "", "\n")))).toEqual(["Hel", "lo", "there", "", ""]);
});

test("JSON has lines of its own, and every number stays what it is", () => {
  expect(texts(layout("text")(of('"so far: "', '{"n": 3544790567247868102}', null, '"on"')))).toEqual(["so far: ", '{"n": 3544790567247868102}', "null", "on"]);
  const long = layout("text")(of(`{"text": "${"x".repeat(99)}", "n": 1.0}`));
  expect(texts(long)).toEqual(["{", `  "text": "${"x".repeat(99)}",`, '  "n": 1.0', "}"]);
});

const chunk = fc.oneof(fc.string({ unit: fc.constantFrom("a", "\n", "🧶", " ", "é"), maxLength: 60 }), fc.nat(3).map((n) => "🧶b".repeat(n * WIDE / 2)));

test("the rows are the text, however it was cut into chunks", () => {
  fc.assert(fc.property(fc.array(chunk, { maxLength: 8 }), (all) => {
    const rows = layout("text")(said(...all));
    expect(text(rows)).toBe(all.join(""));
    expect(whole(said(...all), "text")).toBe(all.join(""));
    for (const row of rows) {
      expect(row.text.length).toBeLessThanOrEqual(WIDE);
      expect(row.text).not.toMatch(/\p{Surrogate}/u);
    }
  }));
});

test("what is laid out bit by bit is the same as at once", () => {
  const any = fc.array(fc.oneof(chunk.map((t) => JSON.stringify(t)), fc.json()), { maxLength: 12 });
  fc.assert(fc.property(any, fc.nat(12), fc.nat(12), fc.constantFrom("text" as const, "chunks" as const), (all, a, b, form) => {
    const output = of(...all);
    const bits = layout(form);
    for (const count of [a, b].sort((x, y) => x - y)) bits({ ...output, count: Math.min(count, output.count) });
    const rows = bits(output);
    expect(rows).toEqual(layout(form)(output));
    if (form === "chunks") expect(rows.filter((r) => r.begins).map((r) => r.chunk)).toEqual(all.map((_, i) => i));
  }));
});

test("a chunk that comes again changes nothing, and two that go on from the same do not mix", () => {
  const one: Outputs = withChunk(new Map(), { n: 4, at: "", stream: "s", data: '"a"' });
  expect(withChunk(one, { n: 4, at: "", stream: "s", data: '"a"' })).toBe(one);
  const next = (data: string) => withChunk(one, { n: 5, at: "", stream: "s", data }).get("s")!;
  expect([next('"b"'), next('"c"')].map((o) => whole(o, "text"))).toEqual(["ab", "ac"]);
  expect(one.get("s")!.count).toBe(1);
});

test("a file of chunks has a line of JSON for each", () => {
  expect(whole(of('{"n":\n1.0}', null), "chunks").split("\n").map((line) => line && JSON.parse(line).data)).toEqual([{ n: 1 }, null, ""]);
  expect(whole(of('"a"', "1.0", '"b\\n"', "[2]"), "text")).toBe("a\n1.0\nb\n[2]\n");
});
