// The limits: who is on the way, who waits and why, and what is paused.
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { CircleCheck, CirclePause, CircleSlash2, Gauge, Hand, X, type LucideIcon } from "lucide-react";
import { useState } from "react";
import type { Act } from "../acts/act.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { pauseKey, pauseLimit, resumeLimit, whichOf } from "../acts/limit.ts";
import { data, read } from "../api/client.ts";
import type { Fn, Limit, Page } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { one, type Search } from "../router.tsx";
import { kindOf, nameOf, rule, standing, taken, valueOf, waiting, type Standing } from "../run/limits.ts";
import { Failed, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { Ago } from "../ui/Time.tsx";
import { PausedFunction } from "./Function.tsx";

const PAGE = 100;
const LOOKS: Record<Standing, [LucideIcon, string, string]> = {
  paused: [CirclePause, "text-warn", "Paused"], full: [CircleSlash2, "text-accent", "All taken"], paced: [Gauge, "text-accent", "Keeps pace"], free: [CircleCheck, "text-good", "Free"],
};
const CELL = "px-3 py-2 align-top";

export function Limits() {
  const { paused } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const queries = useQueryClient();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const [typed, setTyped] = useState("");
  const [fn, value, only] = [one(search.function), one(search.value), one(search.waiting) === "true"];
  const set = (change: Search) => navigate({ to: "/limits", search: { ...search, ...change } as never, replace: true });
  const functions = useQuery({ queryKey: ["functions", "paused"], queryFn: ({ signal }) => data<Page<Fn>>(read("/v1/functions", { params: { query: { limit: 200 } }, signal })), refetchInterval: paused ? false : 4000 });
  const list = useInfiniteQuery({
    queryKey: ["limits", fn, value, only], initialPageParam: null as string | null, getNextPageParam: (page: Page<Limit>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<Limit>>(read("/v1/limits", { params: { query: { function: fn, value, waiting: only || undefined, limit: PAGE, cursor: pageParam ?? undefined } }, signal })),
    refetchInterval: (query) => (paused || (query.state.data?.pages.length ?? 0) > 3 ? false : 2000),
  });
  const names = [...new Set([...(functions.data?.data ?? []).map((f) => f.name), ...(fn ? [fn] : [])])];
  const stopped = (functions.data?.data ?? []).filter((f) => f.paused && (!fn || f.name === fn));
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  const filtered = Boolean(fn || value !== undefined || only);
  return (
    <div className="mx-auto max-w-6xl p-4">
      <div className="flex flex-wrap items-center gap-3"><h1 className="mr-auto">Limits</h1><button type="button" className="btn" disabled={!names.length} onClick={() => setAct(pauseKey(fn ? [fn, ...names.filter((n) => n !== fn)] : names))}><Hand size={14} aria-hidden />Pause a key…</button></div>
      <p className="mb-3 text-dim">How many runs of a function or an endpoint are on their way at once, and how fast they start. Each value of a key has its own.</p>
      <form role="search" aria-label="Filter the limits" className="mb-3 flex flex-wrap items-center gap-2" onSubmit={(e) => { e.preventDefault(); if (typed) { void set({ value: typed }); setTyped(""); } }}>
        <select aria-label="Function" className="field max-w-60" value={fn ?? ""} onChange={(e) => set({ function: e.target.value || undefined })}><option value="">Any function or endpoint</option>{names.map((name) => <option key={name} value={name}>{name}</option>)}</select>
        <input type="search" aria-label="Value of the key" className="field min-w-44" placeholder="Value of a key" value={typed} onChange={(e) => setTyped(e.target.value)} spellCheck={false} autoComplete="off" />
        <button className="btn" disabled={!typed}>Filter</button>
        <label className="flex items-center gap-2 px-1"><input type="checkbox" checked={only} onChange={(e) => set({ waiting: e.target.checked ? "true" : undefined })} />Only where runs wait</label>
        {value !== undefined && <button type="button" className="btn max-w-60" aria-label={`Remove the filter value ${value}`} onClick={() => set({ value: undefined })}><span className="truncate">value: <code>{visible(value)}</code></span><X size={13} aria-hidden /></button>}
        {filtered && <button type="button" className="btn bare" onClick={() => navigate({ to: "/limits", search: {} as never, replace: true })}>Clear</button>}
      </form>
      {stopped.map((f) => <PausedFunction key={f.name} name={f.name} pause={f.paused!} onAct={setAct} linked />)}
      {stopped.length > 0 && <div className="mb-4" />}
      {list.isError && <Failed error={list.error} again={() => list.refetch()} />}
      {!list.data ? !list.isError && <Loading what="the limits" /> : !all.length ? (
        filtered ? <Nothing title={only ? "Nobody waits here." : "No limit is like this."}>What nobody has used for a day is not listed. Take a filter away to see more.</Nothing>
          : <Nothing title="No limit is in use.">A function or an endpoint says its limits where it is registered: <code>{`"concurrency": [{"limit": 2, "key": "input.tenant"}]`}</code>. They are listed once a run goes through them.</Nothing>
      ) : <>
        <div className="relative overflow-x-auto rounded-lg border"><table className="w-full">
          <thead><tr className="border-b bg-panel text-left text-[13px] text-dim">{["limit", "lets through", "on the way", "waiting", "now", ""].map((h) => <th key={h} className={`px-3 py-1.5 font-medium ${h === "waiting" ? "text-right" : ""}`}>{h || <span className="sr-only">act</span>}</th>)}</tr></thead>
          <tbody>{all.map((l) => <Line key={nameOf(l)} of={l} onAct={setAct} />)}</tbody>
        </table></div>
        {list.hasNextPage && <div className="p-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
      </>}
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => { setAct(null); say(words); void queries.invalidateQueries({ queryKey: ["limits"] }); void queries.invalidateQueries({ queryKey: ["functions"] }); }} />}
      {said}
    </div>
  );
}

function Line({ of: l, onAct }: { of: Limit; onAct: (act: Act) => void }) {
  const [Icon, tone, word] = LOOKS[standing(l)];
  const which = whichOf(l);
  const owner = l.function ?? l.endpoint ?? "";
  const value = valueOf(l);
  const name = l.key ? `${owner}, ${l.key} ${value ?? ""}` : owner;
  return (
    <tr className="border-b last:border-b-0">
      <td className={CELL}>
        {l.function ? <Link to="/functions/$name" params={{ name: l.function }} className="breaks font-medium">{l.function}</Link> : l.endpoint ? <><Link to="/endpoints/$name" params={{ name: l.endpoint }} className="breaks font-medium">{l.endpoint}</Link> <span className="text-dim">endpoint</span></> : <span className="text-dim">gone</span>}
        {l.kind !== "concurrency" && <span className="text-dim"> {kindOf(l.kind)}</span>}
        {l.key && <div className="breaks text-[13px]"><code className="text-dim">{visible(l.key)}</code> {value ? <code className="rounded bg-hover px-1">{visible(value)}</code> : <span className="text-dim">nothing there</span>}</div>}
      </td>
      <td className={`${CELL} whitespace-nowrap text-dim`}>{rule(l)}{l.fair && <div className="text-[13px]">turns by <code>{visible(l.fair)}</code></div>}</td>
      <td className={CELL}><OnTheWay of={l} /></td>
      <td className={`${CELL} tnum text-right`}>{!l.queued ? <span className="text-dim">0</span> : l.function ? <Link to="/runs" search={{ function: l.function, status: "queued" } as never} className="font-semibold" aria-label={`${waiting(l.queued)} runs wait: show the queued runs of ${l.function}`}>{waiting(l.queued)}</Link> : <span className="font-semibold">{waiting(l.queued)}</span>}</td>
      <td className={`${CELL} max-w-72`}>
        <span className={`inline-flex items-center gap-1.5 whitespace-nowrap font-medium ${tone}`}><Icon size={15} aria-hidden />{word}</span>
        {l.paused && <p className="breaks text-[13px] text-dim">{l.paused.reason && <span className="text-warn">{visible(l.paused.reason)}. </span>}By <code>{visible(l.paused.by)}</code>, <Ago at={l.paused.at} /></p>}
      </td>
      <td className={`${CELL} text-right`}>{which && (l.paused
        ? <button type="button" className="btn primary" aria-label={`Resume ${name}`} onClick={() => onAct(resumeLimit(which))}>Resume</button>
        : <button type="button" className="btn" aria-label={`Pause ${name}`} onClick={() => onAct(pauseLimit(which))}>Pause…</button>)}</td>
    </tr>
  );
}

/** How many are inside, and of how many. */
function OnTheWay({ of: l }: { of: Limit }) {
  const share = taken(l);
  if (share === null) return l.period ? null : <span className="tnum">{l.running.toLocaleString("en")}</span>;
  return (
    <span className="flex items-center gap-2 whitespace-nowrap"><span aria-hidden className="h-1.5 w-20 overflow-hidden rounded-full bg-hover"><span className="block h-full rounded-full bg-accent" style={{ width: `${share * 100}%` }} /></span>
      <span className="tnum">{l.running.toLocaleString("en")} <span className="text-dim">of {l.limit!.toLocaleString("en")}</span></span></span>
  );
}
