import fc from "fast-check";
import { expect, test } from "vitest";
import { inWords, parsed, presentOf, renamed, searchOf, textOf, withView, without, type SavedView } from "./views.ts";

const search = fc.dictionary(fc.constantFrom("status", "function", "tag", "q", "since"), fc.oneof(fc.string({ minLength: 1 }), fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 2, maxLength: 4 })), { noNullPrototype: true });
const two: SavedView[] = [{ name: "mine", search: "status=failed" }, { name: "slow", search: "function=a&since=24h" }];

test("the same filters are the same view, in whichever order they were chosen", () => {
  fc.assert(fc.property(search, (s) => {
    const turned = Object.fromEntries(Object.entries(s).reverse().map(([k, v]) => [k, Array.isArray(v) ? [...v].reverse() : v]));
    expect(textOf(turned)).toBe(textOf(s));
    expect(textOf(searchOf(textOf(s)))).toBe(textOf(s));
    expect(presentOf(withView(two, "it", s), turned)?.search).toBe(textOf(s));
  }));
});

test("what was kept comes back, and nothing else does", () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.string({ minLength: 1 }).filter((n) => n.trim() !== ""), search)), (all) => {
    const views = all.reduce<SavedView[]>((views, [name, s]) => withView(views, name, s), []);
    expect(parsed(JSON.stringify(views))).toEqual(views);
  }));
  fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => { expect(Array.isArray(parsed(text))).toBe(true); }));
  expect(parsed(null)).toEqual([]);
  expect(parsed(`[{"name": "a", "search": "x=1"}, {"name": "a", "search": ""}, {"name": " ", "search": ""}, {"name": "b"}, 7, null]`)).toEqual([{ name: "a", search: "x=1" }]);
});

test("a name is there once: saved again it is another view, and none takes that of another", () => {
  expect(withView(two, " mine ", { status: "paused" })).toEqual([{ name: "mine", search: "status=paused" }, two[1]]);
  expect(renamed(two, "mine", "slow")).toBe(two);
  expect(renamed(two, "mine", "  ")).toBe(two);
  expect(renamed(two, "mine", "ours").map((v) => v.name)).toEqual(["ours", "slow"]);
  expect(without(two, "mine")).toEqual([two[1]]);
});

test("in words", () => {
  expect(inWords(textOf({ status: ["failed", "timed_out"], function: "order.checkout", tag: "customer:c7", q: "47", since: "24h", sort: "-ended" }))).toMatch(/^Failed, Timed out · order.checkout · tag customer:c7 · “47” · last 24 hours · ./);
  expect(inWords("")).toBe("all runs");
});
