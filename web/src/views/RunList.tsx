// The rows of runs: virtual, paged by cursor, new ones held back while somebody reads.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { ArrowUp } from "lucide-react";
import { lazy, memo, Suspense, useCallback, useEffect, useReducer, useRef, useState } from "react";
import { BASE, data, read } from "../api/client.ts";
import type { ListedRun, Page } from "../api/types.ts";
import { isByEnd } from "../run/order.ts";
import { change, none } from "../run/rows.ts";
import { momentAgo } from "../run/since.ts";
import { isEnded } from "../run/status.ts";
import { duration } from "../run/time.ts";
import { useShortcuts } from "../shell/shortcuts.ts";
import { Failed, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Status } from "../ui/Status.tsx";
import { Ago, useNow } from "../ui/Time.tsx";

export type Filters = { status?: string[]; function?: string[]; tag?: string[]; key?: string[]; fingerprint?: string[]; parent?: string; schedule?: string; q?: string; since?: number; sort?: string };

const Chosen = lazy(async () => ({ default: (await import("./Many.tsx")).Chosen }));
/** So many runs at most are acted on by their ids. */
const MOST = 1000;
const PAGE = 50;
const ROW = 40;

/** The filters as the API takes them; moments to the minute, so that the list does not change with each read. */
export function queryOf({ since, ...rest }: Filters) {
  return { ...rest, started_after: momentAgo(since) };
}

export const pageOf = (filters: Filters, cursor: string | null, signal: AbortSignal, limit = PAGE): Promise<Page<ListedRun>> =>
  data(read("/v1/runs", { params: { query: { ...queryOf(filters), limit, cursor: cursor ?? undefined } }, signal }));

export function RunList({ filters, filtered }: { filters: Filters; filtered: boolean }) {
  const { paused } = usePrefs();
  const [rows, dispatch] = useReducer(change, none);
  const scroll = useRef<HTMLDivElement>(null);
  const pages = useRef<{ cursor: string; from: string }[]>([]);
  const busy = useRef(false);
  const [chosen, setChosen] = useState<number | null>(null);
  const [picked, setPicked] = useState<ReadonlySet<string>>(new Set());
  const last = useRef<string | null>(null);
  const latest = useRef(rows.shown);
  latest.current = rows.shown;
  /** With `through`, all between the one that was picked last and this. */
  const pick = useCallback((id: string, on: boolean, through = false) => {
    const all = latest.current;
    const [from, to] = [all.findIndex((r) => r.id === last.current), all.findIndex((r) => r.id === id)];
    const ids = through && from >= 0 && to >= 0 ? all.slice(Math.min(from, to), Math.max(from, to) + 1).map((r) => r.id) : [id];
    last.current = id;
    setPicked((was) => { const next = new Set(was); for (const one of ids) if (on && next.size < MOST) next.add(one); else if (!on) next.delete(one); return next; });
  }, []);
  const [more, setMore] = useState<{ on: boolean; error: unknown }>({ on: false, error: null });
  const navigate = useNavigate();
  const name = JSON.stringify(filters);
  const took = useRef(0);
  const head = useQuery({
    queryKey: ["runs", "head", name], structuralSharing: false,
    queryFn: async ({ signal }) => {
      const began = performance.now();
      const page = await pageOf(filters, null, signal);
      took.current = performance.now() - began;
      return page;
    },
    // What takes the gateway long is asked for less often.
    refetchInterval: () => (paused ? false : Math.max(2000, 10 * took.current)),
  });
  useEffect(() => {
    if (!head.data) return;
    const box = scroll.current;
    const still = !box || (box.scrollTop < 4 && !busy.current && !picked.size && !box.contains(document.activeElement) && getSelection()?.isCollapsed !== false);
    dispatch({ type: "head", rows: head.data.data, next: head.data.next_cursor ?? null, still, order: filters.sort });
  }, [head.data]);

  const virtual = useVirtualizer({ count: rows.shown.length, getScrollElement: () => scroll.current, estimateSize: () => ROW, overscan: 12, getItemKey: (i) => rows.shown[i]!.id });
  const items = virtual.getVirtualItems();
  const lastSeen = items.at(-1)?.index ?? 0;
  const load = async () => {
    if (more.on || !rows.next) return;
    setMore({ on: true, error: null });
    try {
      const cursor = rows.next;
      const page = await pageOf(filters, cursor, new AbortController().signal);
      if (page.data[0]) pages.current.push({ cursor, from: page.data[0].id });
      dispatch({ type: "more", rows: page.data, next: page.next_cursor ?? null });
      setMore({ on: false, error: null });
    } catch (error) { setMore({ on: false, error }); }
  };
  useEffect(() => {
    if (rows.next && !more.error && lastSeen >= rows.shown.length - 8) void load();
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [lastSeen, rows.next, rows.shown.length]);

  // Rows far below are kept up to date too, page by page, as long as they are in sight.
  const firstSeen = items[0]?.index ?? 0;
  const seen = rows.shown.slice(firstSeen, lastSeen + 1);
  const open = seen.some((run) => !isEnded(run.status));
  const below = [...pages.current].reverse().find((page) => rows.shown.findIndex((r) => r.id === page.from) <= lastSeen && rows.shown.findIndex((r) => r.id === page.from) >= 0);
  const fresh = useQuery({
    queryKey: ["runs", "below", name, below?.cursor], enabled: Boolean(below) && open && !paused, refetchInterval: 3000, gcTime: 0,
    queryFn: ({ signal }) => pageOf(filters, below!.cursor, signal),
  });
  useEffect(() => { if (fresh.data) dispatch({ type: "update", rows: fresh.data.data }); }, [fresh.data]);

  const go = (by: number) => {
    const to = Math.max(0, Math.min(rows.shown.length - 1, chosen === null ? (by > 0 ? 0 : rows.shown.length - 1) : chosen + by));
    setChosen(to);
    virtual.scrollToIndex(to);
    requestAnimationFrame(() => document.getElementById(`row-${rows.shown[to]?.id}`)?.focus({ preventScroll: true }));
  };
  useShortcuts({
    j: () => go(1), k: () => go(-1),
    ArrowDown: () => go(1), ArrowUp: () => go(-1),
    x: () => { const run = chosen !== null && rows.shown[chosen]; if (run) pick(run.id, !picked.has(run.id)); },
    o: () => { const run = chosen !== null && rows.shown[chosen]; if (run) window.open(new URL(`runs/${run.id}`, BASE), "_blank", "noopener"); },
    Escape: () => setPicked(new Set()),
    Enter: () => { const run = chosen !== null && rows.shown[chosen]; if (run) navigate({ to: "/runs/$id", params: { id: run.id } }); },
  });

  if (!rows.read) return head.isError ? <div className="p-4"><Failed error={head.error} again={() => head.refetch()} /></div> : <Loading what="the runs" rows={12} />;
  return (
    <div className="relative min-h-0 flex-1">
      {head.isError && <div className="absolute inset-x-0 top-0 z-10 px-4"><Failed error={head.error} /></div>}
      {rows.held.length > 0 && (
        <button type="button" className="btn primary absolute left-1/2 top-2 z-10 -translate-x-1/2 rounded-full shadow-lg" onClick={() => { dispatch({ type: "reveal" }); scroll.current?.scrollTo({ top: 0 }); }}>
          <ArrowUp size={14} aria-hidden />{rows.held.length >= PAGE ? `${PAGE}+` : rows.held.length} new run{rows.held.length === 1 ? "" : "s"}
        </button>
      )}
      {rows.shown.length === 0 && rows.next === null && <Nothing title={filtered ? "No run is like this." : "No runs yet."}>{filtered ? "Take a filter away, or look in another time." : <>Start one from <Link to="/functions">a function</Link>.</>}</Nothing>}
      <div ref={scroll} className="h-full overflow-auto" data-testid="runs" onPointerEnter={() => { busy.current = true; }} onPointerLeave={() => { busy.current = false; }}>
        <ul aria-label="Runs" className="relative" style={{ height: virtual.getTotalSize() }}>
          {items.map((item) => {
            const run = rows.shown[item.index]!;
            return <li key={run.id} className="absolute inset-x-0" style={{ height: ROW, transform: `translateY(${item.start}px)` }}><Pickable run={run} on={picked.has(run.id)} pick={pick} byEnd={isByEnd(filters.sort)} /></li>;
          })}
        </ul>
        {more.error ? <div className="p-4"><Failed error={more.error} again={load} /></div>
          : rows.next ? <div className="p-3 text-center"><button type="button" className="btn" onClick={load} disabled={more.on}>{!more.on ? "Load more" : rows.shown.length ? "Reading more…" : "Looking further back…"}</button></div>
          : rows.shown.length > 10 || picked.size ? <p className="p-3 text-center text-dim">That is all of them.</p> : null}
      </div>
      {picked.size > 0 && <Suspense><Chosen picked={picked} statuses={[...new Set(rows.shown.filter((r) => picked.has(r.id)).map((r) => r.status))].join(" ")} most={MOST} clear={() => setPicked(new Set())} /></Suspense>}
    </div>
  );
}

const Pickable = memo(function Pickable({ run, on, pick, byEnd }: { run: ListedRun; on: boolean; pick: (id: string, on: boolean, through?: boolean) => void; byEnd: boolean }) {
  const through = useRef(false);
  return (
    <div className={`flex h-full ${on ? "bg-accent-bg" : ""}`}>
      <label className="flex w-10 shrink-0 cursor-pointer items-center justify-center border-b pl-2"><input type="checkbox" checked={on} aria-label={`Choose ${run.key ?? run.id}`} onClick={(e) => { through.current = e.shiftKey; }} onChange={(e) => pick(run.id, e.target.checked, through.current)} /></label>
      <div className="min-w-0 flex-1 [&>a]:pl-2"><Row run={run} byEnd={byEnd} /></div>
    </div>
  );
});

/** `byEnd`: it says when the run ended, in place of when it was started. */
export const Row = memo(function Row({ run, byEnd }: { run: ListedRun; byEnd?: boolean }) {
  return (
    <Link to="/runs/$id" params={{ id: run.id }} id={`row-${run.id}`}
      className="grid h-full grid-cols-[112px_minmax(0,1fr)_64px] items-center gap-3 border-b px-4 text-fg no-underline hover:bg-hover focus-visible:bg-hover focus-visible:-outline-offset-2 lg:grid-cols-[112px_minmax(0,140px)_minmax(0,190px)_minmax(0,1fr)_72px_84px]">
      <Status status={run.status} />
      <span className="truncate font-medium max-lg:hidden">{run.function}</span>
      <span className="truncate"><span className="lg:hidden">{run.function} </span>{run.key ? <code title={run.key}>{run.key}</code> : <code className="text-dim" title={run.id}>…{run.id.slice(-10)}</code>}</span>
      <span className="truncate text-[13px] text-dim max-lg:hidden" title={run.attention?.detail}>
        {run.attention ? <span className="text-warn">{run.attention.detail.split("\n")[0]!.replaceAll("`", "")}</span>
          : Object.entries(run.tags).map(([k, v]) => <span key={k} className="mr-2">{k}={v}</span>)}
        {run.parent && <span className="ml-1">child run</span>}
      </span>
      <span className="tnum text-right text-[13px] text-dim max-lg:hidden"><Took run={run} /></span>
      <span className="text-right text-[13px] text-dim"><Ago at={(byEnd && run.ended_at) || run.created_at} /></span>
    </Link>
  );
});

function Took({ run }: { run: ListedRun }) {
  const now = useNow();
  if (run.status === "scheduled") return null;
  return <>{duration((run.ended_at ? Date.parse(run.ended_at) : now) - Date.parse(run.created_at))}</>;
}
