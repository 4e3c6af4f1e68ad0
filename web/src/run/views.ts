// Views of the list of runs that somebody has given a name: its filters, as they are in the address.
import type { Search } from "../router.tsx";
import { ORDERS } from "./order.ts";
import { SINCE } from "./since.ts";
import { word } from "./status.ts";

/** `search`: the filters in one order, whichever they were chosen in. */
export type SavedView = { name: string; search: string };

/** So long a name may be. */
export const NAME = 60;

/** The same text for the same filters. */
export function textOf(search: Search): string {
  const pairs = Object.entries(search).flatMap(([name, value]) => [value ?? []].flat().filter((v) => v !== "").map((v): [string, string] => [name, v]));
  pairs.sort(([a, x], [b, y]) => (a === b ? Number(x > y) - Number(x < y) : a < b ? -1 : 1));
  return new URLSearchParams(pairs).toString();
}

export function searchOf(text: string): Search {
  const out: Search = {};
  for (const [name, value] of new URLSearchParams(text)) {
    const was = out[name];
    out[name] = was === undefined ? value : [was, value].flat();
  }
  return out;
}

const isView = (v: unknown): v is SavedView => typeof v === "object" && v !== null && "name" in v && "search" in v && typeof v.name === "string" && v.name.trim() !== "" && typeof v.search === "string";

/** What was kept; what is not ours, or is there twice, is left out. */
export function parsed(text: string | null): SavedView[] {
  let all: unknown;
  try { all = JSON.parse(text ?? "[]"); } catch { return []; }
  const out: SavedView[] = [];
  for (const v of Array.isArray(all) ? all : []) if (isView(v) && !out.some((o) => o.name === v.name)) out.push({ name: v.name, search: textOf(searchOf(v.search)) });
  return out;
}

/** With this one more, or in place of the one that has its name. */
export function withView(views: SavedView[], name: string, search: Search): SavedView[] {
  const view = { name: name.trim(), search: textOf(search) };
  return views.some((v) => v.name === view.name) ? views.map((v) => (v.name === view.name ? view : v)) : [...views, view];
}

export const without = (views: SavedView[], name: string) => views.filter((v) => v.name !== name);

/** Under another name, unless one has it. */
export function renamed(views: SavedView[], from: string, to: string): SavedView[] {
  const name = to.trim();
  return name === "" || views.some((v) => v.name === name) ? views : views.map((v) => (v.name === from ? { ...v, name } : v));
}

/** The one that is shown. */
export const presentOf = (views: SavedView[], search: Search) => views.find((v) => v.search === textOf(search));

/** What it shows, for people. */
export function inWords(text: string): string {
  const search = searchOf(text);
  const all = (name: string) => [search[name] ?? []].flat();
  const parts = [all("status").map(word).join(", "), all("function").join(", "), ...["tag", "key", "fingerprint", "parent", "schedule"].flatMap((name) => all(name).map((v) => `${name} ${v}`)),
    all("q").map((q) => `“${q}”`).join(" "), SINCE.find(([name]) => name && all("since").includes(name))?.[1].toLowerCase(), ORDERS.find(([order]) => order && all("sort").includes(order))?.[1].toLowerCase()];
  return parts.filter(Boolean).join(" · ") || "all runs";
}
