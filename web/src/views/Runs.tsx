// The list of runs: filters in the address, live without moving the reader.
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { Search as SearchIcon, X } from "lucide-react";
import { lazy, Suspense, useEffect, useRef, useState } from "react";
import { data, read } from "../api/client.ts";
import type { Fn, Page } from "../api/types.ts";
import { list, one, type Search } from "../router.tsx";
import { ORDERS } from "../run/order.ts";
import { SINCE } from "../run/since.ts";
import { STATUSES, word } from "../run/status.ts";
import { useShortcuts } from "../shell/shortcuts.ts";
import { RunList, type Filters } from "./RunList.tsx";

const Total = lazy(async () => ({ default: (await import("./Total.tsx")).Total }));
const AllOfThem = lazy(async () => ({ default: (await import("./Many.tsx")).AllOfThem }));

const SavedViews = lazy(async () => ({ default: (await import("./SavedViews.tsx")).SavedViews }));

const PRESETS: [string, string[]][] = [
  ["All", []], ["Needs a look", ["retrying", "parked", "paused", "failed", "timed_out"]], ["Running", ["running", "queued"]],
  ["Waiting", ["waiting", "scheduled"]], ["Retrying", ["retrying"]], ["Parked", ["parked"]], ["Paused", ["paused"]], ["Failed", ["failed", "timed_out"]], ["Completed", ["completed"]],
];
const RUN = /^\s*(run_[0-9a-z]{26})\s*$/;

export function Runs() {
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const set = (change: Search) => navigate({ to: "/runs", search: { ...search, ...change } as never, replace: true });
  const statuses = list(search.status);
  const [text, setText] = useState(one(search.q) ?? "");
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => setText(one(search.q) ?? ""), [search.q]);
  useEffect(() => {
    const id = RUN.exec(text)?.[1];
    if (id) { navigate({ to: "/runs/$id", params: { id } }); return; }
    if (text === (one(search.q) ?? "")) return;
    const later = setTimeout(() => set({ q: text.trim() || undefined }), 300);
    return () => clearTimeout(later);
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [text]);
  useShortcuts({
    ...Object.fromEntries(PRESETS.map(([, of], i) => [String(i + 1), () => set({ status: of.length ? of : undefined })])),
    f: () => field.current?.focus(), "/": () => field.current?.focus(),
  });
  const functions = useQuery({ queryKey: ["functions", "names"], queryFn: () => data<Page<Fn>>(read("/v1/functions", { params: { query: { limit: 200 } } })), staleTime: 30_000 });
  const names = new Set([...(functions.data?.data ?? []).map((f) => f.name), ...list(search.function)]);
  const since = SINCE.find(([name]) => name === one(search.since));
  const filters: Filters = { status: statuses, function: list(search.function), tag: list(search.tag), key: list(search.key), fingerprint: list(search.fingerprint), parent: one(search.parent), schedule: one(search.schedule), q: one(search.q), since: since?.[2], sort: ORDERS.find(([order]) => order && order === one(search.sort))?.[0] };
  const active = preset(statuses);
  const filtered = statuses.length || filters.function!.length || filters.tag!.length || filters.key!.length || filters.fingerprint!.length || filters.parent || filters.schedule || filters.q || filters.since;
  return (
    <div className="flex h-full min-h-0 flex-col">
      <h1 className="sr-only">Runs</h1>
      <div className="flex items-center gap-2 border-b px-4 pt-2">
        <div role="group" aria-label="Status" className="-mb-px flex min-w-0 flex-1 gap-1 overflow-x-auto">
          {PRESETS.map(([name, of], i) => (
            <button key={name} type="button" title={`Key ${i + 1}`} aria-pressed={active === name} onClick={() => set({ status: of.length ? of : undefined })}
              className="whitespace-nowrap border-b-2 border-transparent px-2.5 py-1.5 text-dim hover:text-fg aria-pressed:border-accent aria-pressed:font-semibold aria-pressed:text-accent">{name}</button>
          ))}
        </div>
        <Suspense><SavedViews search={search} /></Suspense>
      </div>
      <form role="search" aria-label="Filter the runs" className="flex flex-wrap items-center gap-2 border-b bg-panel px-4 py-2" onSubmit={(e) => e.preventDefault()}>
        <label className="field flex min-w-44 flex-1 items-center gap-2 focus-within:outline-2 focus-within:outline-accent"><SearchIcon size={14} aria-hidden className="text-dim" />
          <span className="sr-only">Search</span>
          <input ref={field} type="search" value={text} onChange={(e) => setText(e.target.value)} placeholder="Id, key, function or tag" className="w-full min-w-0 bg-transparent outline-none" />
        </label>
        <select aria-label="Status" className="field" value={statuses.length === 1 ? statuses[0] : statuses.length ? "*" : ""} onChange={(e) => set({ status: e.target.value || undefined })}>
          <option value="">Any status</option>{statuses.length > 1 && <option value="*">{statuses.length} statuses</option>}
          {STATUSES.map((s) => <option key={s} value={s}>{word(s)}</option>)}
        </select>
        <select aria-label="Function" className="field max-w-48" value={list(search.function)[0] ?? ""} onChange={(e) => set({ function: e.target.value || undefined })}>
          <option value="">Any function</option>{[...names].map((name) => <option key={name} value={name}>{name}</option>)}
        </select>
        <select aria-label="Started" className="field" value={one(search.since) ?? ""} onChange={(e) => set({ since: e.target.value || undefined })}>
          {SINCE.map(([name, label]) => <option key={name} value={name}>{label}</option>)}
        </select>
        <select aria-label="Order" className="field" value={filters.sort ?? ""} onChange={(e) => set({ sort: e.target.value || undefined })}>
          {ORDERS.map(([order, label]) => <option key={order} value={order}>{label}</option>)}
        </select>
        {[...list(search.tag).map((t) => ["tag", t] as const), ...list(search.key).map((k) => ["key", k] as const), ...list(search.fingerprint).map((f) => ["fingerprint", f] as const), ...(["parent", "schedule"] as const).flatMap((name) => (filters[name] ? [[name, filters[name]] as const] : []))].map(([name, value]) => (
          <button key={name + value} type="button" className="btn max-w-60" onClick={() => set({ [name]: list(search[name]).filter((v) => v !== value) })} aria-label={`Remove the filter ${name} ${value}`}>
            <span className="truncate">{name}: <code>{value}</code></span><X size={13} aria-hidden />
          </button>
        ))}
        {filtered ? <button type="button" className="btn bare" onClick={() => { setText(""); navigate({ to: "/runs", search: {} as never, replace: true }); }}>Clear</button> : null}
        {filtered ? <Suspense><AllOfThem filters={filters} /></Suspense> : null}
        <Suspense><Total filters={filters} /></Suspense>
      </form>
      <RunList key={JSON.stringify(filters)} filters={filters} filtered={Boolean(filtered)} />
    </div>
  );
}

const preset = (statuses: string[]) => PRESETS.find(([, of]) => of.length === statuses.length && of.every((s) => statuses.includes(s)))?.[0];
