import fc from "fast-check";
import { expect, test } from "vitest";
import { asString, fault, members, pretty, tokens, visible } from "./text.ts";

const spaced = (json: string) => json.replaceAll(/([{}[\],:])/g, " $1\n ");

test("numbers that a parser would change stay what they are", () => {
  const text = '{"id":3544790567247868102,"one":1.0,"far":1e400,"neg":-0}';
  expect(pretty(text)).toBe('{\n  "id": 3544790567247868102,\n  "one": 1.0,\n  "far": 1e400,\n  "neg": -0\n}');
});

test("keys keep their order and may be there twice, empty, or look like numbers", () => {
  const text = '{"2":1,"1":2,"":3,"a\\u0041\\"":4,"2":5,"__proto__":6}';
  expect([...members(text)].map(([name, from, to]) => [name, text.slice(from, to)])).toEqual([["2", "1"], ["1", "2"], ["", "3"], ['aA"', "4"], ["2", "5"], ["__proto__", "6"]]);
});

test("any JSON, broken into lines, is the same JSON", () => {
  fc.assert(fc.property(fc.json(), (json) => {
    for (const text of [json, JSON.stringify(JSON.parse(json), null, 3)]) {
      const shown = pretty(text);
      expect(JSON.parse(shown)).toEqual(JSON.parse(text));
      expect(pretty(shown)).toBe(shown);
      expect(tokens(shown).map((t) => t.text).join("")).toBe(shown);
    }
  }));
});

test("members cut any object where a parser does", () => {
  fc.assert(fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
    const text = JSON.stringify(value, null, 1);
    const got = [...members(text)].map(([name, from, to]) => [name, JSON.parse(text.slice(from, to))]);
    expect(got).toEqual(Object.entries(JSON.parse(text)));
  }));
});

test("what is no JSON ends, whatever it is", () => {
  fc.assert(fc.property(fc.string(), (text) => { pretty(text); tokens(text); }));
  expect(pretty("")).toBe("");
  for (const bad of ["{", '{"a', "[[", '"\\', "]}", spaced('{"a":[1,')]) pretty(bad);
});

test("control characters are shown, not obeyed", () => {
  expect(visible("a\u0000\u001b[31m\u202eb\n\tc")).toBe("a\\u0000\\u001b[31m\\u202eb\n\tc");
});

test("a text of several lines is read as one", () => {
  expect(asString(' "a\\nb" ')).toBe("a\nb");
  expect(asString('{"a":1}')).toBeNull();
  expect(fault("{")).not.toBeNull();
  expect(fault("1")).toBeNull();
});
