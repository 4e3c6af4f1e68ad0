import fc from "fast-check";
import { expect, test } from "vitest";
import { beginning, faults, formOf, put, wrong } from "./schema.ts";
import { elements, fields } from "./text.ts";

const SCHEMA = `{"type":"object","required":["name","plan"],"$defs":{"Plan":{"enum":["free","pro"],"description":"What is paid for."}},"properties":{
  "name":{"type":"string","title":"Name"},"plan":{"$ref":"#/$defs/Plan"},"seats":{"type":"integer","minimum":1,"maximum":9007199254740993,"default":3544790567247868102},
  "rate":{"type":["number","null"]},"note":{"anyOf":[{"type":"string"},{"type":"null"}],"title":"Note"},"on":{"type":"boolean"},"rest":{"type":"array"},"any":{}}}`;

test("simple properties are fields, the others JSON; references and `or null` are seen through", () => {
  expect(formOf(SCHEMA)!.map((f) => [f.name, f.kind, f.required])).toEqual([
    ["name", "text", true], ["plan", "choice", true], ["seats", "integer", false], ["rate", "number", false], ["note", "text", false], ["on", "boolean", false], ["rest", "json", false], ["any", "json", false]]);
  expect(formOf(SCHEMA)!.map((f) => f.label).slice(0, 5)).toEqual(["Name", "plan", "seats", "rate", "Note"]);
  expect(formOf(SCHEMA)![1]).toMatchObject({ options: ['"free"', '"pro"'], hint: "What is paid for." });
  for (const none of ['{"type":"string"}', '{"type":"object"}', "true", '{"type":["object","array"]}', "{}"]) expect(formOf(none)).toBeNull();
});

test("what refers to itself ends", () => {
  expect(formOf('{"$ref":"#"}')).toBeNull();
  expect(formOf('{"properties":{"a":{"$ref":"#/properties/a"}}}')!.map((f) => f.kind)).toEqual(["json"]);
  expect(formOf('{"properties":{"a":{"$ref":"#/nowhere"}}}')!.map((f) => f.kind)).toEqual(["json"]);
});

test("numbers stay as they are written", () => {
  expect(beginning(SCHEMA)).toBe('{\n  "seats": 3544790567247868102\n}');
  expect(put('{"a":1.0,"b":3544790567247868102}', "a", '"x"')).toBe('{\n  "a": "x",\n  "b": 3544790567247868102\n}');
  expect(put('{"a":1.0}', "a", null)).toBe("{}");
  expect(beginning('{"type":"object","examples":[{"a":1.0}]}')).toBe('{"a":1.0}');
});

test("what is set is there, and nothing else has changed", () => {
  fc.assert(fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.string(), fc.jsonValue(), (before, name, value) => {
    expect(JSON.parse(put(JSON.stringify(before), name, JSON.stringify(value)))).toEqual({ ...JSON.parse(JSON.stringify(before)), [name]: JSON.parse(JSON.stringify(value)) });
  }));
});

test("what is missing or of another type is told", () => {
  const form = formOf(SCHEMA)!;
  expect([...faults(form, '{"plan":"gold","seats":0,"rate":"x","on":1,"note":2}').keys()]).toEqual(["name", "plan", "seats", "rate", "note", "on"]);
  expect(faults(form, '{"name":"Ada","plan":"pro","seats":2e0,"rate":1.5,"on":false,"rest":[1]}').size).toBe(0);
  expect(wrong(form[2]!, "1.5")).toBe("It is no whole number.");
  expect(wrong(form[2]!, "01")).toBe("It is no number.");
});

test("elements cut any array where a parser does", () => {
  fc.assert(fc.property(fc.array(fc.jsonValue()), (value) => {
    expect(elements(JSON.stringify(value, null, 1)).map((e) => JSON.parse(e))).toEqual(JSON.parse(JSON.stringify(value)));
  }));
  expect([elements("{}"), elements(undefined), [...fields("[1]")]]).toEqual([[], [], []]);
});
