// The schedules: what each starts, when next, and what its last moments came to.
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { CalendarCheck2, CalendarOff, CirclePause, CirclePlus, CircleSlash2, Hourglass, Search as SearchIcon, TimerOff, type LucideIcon } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { create, outcome } from "../acts/schedule.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { data, read } from "../api/client.ts";
import type { Fn, Page, Schedule } from "../api/types.ts";
import { one, type Search } from "../router.tsx";
import { inWords } from "../run/cron.ts";
import { inWhole } from "../run/time.ts";
import { useShortcuts } from "../shell/shortcuts.ts";
import { Failed, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { StatusIcon } from "../ui/Status.tsx";
import { Ago } from "../ui/Time.tsx";

/** The functions that there are, for who makes a schedule. */
export function useFunctions() {
  const functions = useQuery({ queryKey: ["functions", "names"], queryFn: () => data<Page<Fn>>(read("/v1/functions", { params: { query: { limit: 200 } } })), staleTime: 30_000 });
  return (functions.data?.data ?? []).map((f) => f.name);
}

const LOOKS: Record<string, [LucideIcon, string, string]> = { active: [CalendarCheck2, "text-good", "Active"], paused: [CirclePause, "text-warn", "Paused"], finished: [CalendarOff, "text-dim", "Finished"] };
export function Standing({ state }: { state: string }) {
  const [Icon, tone, word] = LOOKS[state] ?? LOOKS.active!;
  return <span className={`inline-flex items-center gap-1.5 whitespace-nowrap font-medium ${tone}`} data-state={state}><Icon size={15} aria-hidden />{word}</span>;
}

/** When it starts runs: in words where they say it, else as it is written. */
export function Rule({ of: s }: { of: Schedule }) {
  if (s.every) return <>Every {inWhole(s.every)}</>;
  const words = inWords(s.cron ?? "");
  return <>{words ?? <code>{s.cron}</code>}{s.time_zone && s.time_zone !== "UTC" ? <span className="text-dim"> {s.time_zone}</span> : words ? <span className="text-dim"> UTC</span> : null}</>;
}

export function OutcomeIcon({ of: r }: { of: Schedule["recent"][number] }) {
  if (r.outcome === "started") return <StatusIcon status={r.run_status ?? "running"} size={15} />;
  const [Icon, tone] = r.outcome === "waiting" ? [Hourglass, "text-accent"] as const : r.outcome === "missed" ? [TimerOff, "text-bad"] as const : [CircleSlash2, "text-dim"] as const;
  return <Icon size={15} className={`shrink-0 ${tone}`} aria-hidden />;
}

/** How many of the last moments a row shows. */
const LAST = 8;

export function Schedules() {
  const { paused } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const queries = useQueryClient();
  const functions = useFunctions();
  const [making, setMaking] = useState(false);
  const [said, say] = useSaid();
  const q = one(search.q) ?? "";
  const [text, setText] = useState(q);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => setText(q), [q]);
  useEffect(() => {
    if (text.trim() === q) return;
    const later = setTimeout(() => navigate({ to: "/schedules", search: (text.trim() ? { q: text.trim() } : {}) as never, replace: true }), 300);
    return () => clearTimeout(later);
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [text]);
  useShortcuts({ f: () => field.current?.focus(), "/": () => field.current?.focus() });
  const list = useInfiniteQuery({
    queryKey: ["schedules", q], initialPageParam: null as string | null, getNextPageParam: (page: Page<Schedule>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<Schedule>>(read("/v1/schedules", { params: { query: { q: q || undefined, limit: 100, cursor: pageParam ?? undefined } }, signal })),
    refetchInterval: paused ? false : 4000,
  });
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <div className="mx-auto max-w-6xl p-4">
      <div className="mb-3 flex flex-wrap items-center gap-3"><h1 className="mr-auto">Schedules</h1>
        <label className="field flex min-w-60 items-center gap-2 focus-within:outline-2 focus-within:outline-accent"><SearchIcon size={14} aria-hidden className="text-dim" /><span className="sr-only">Search</span>
          <input ref={field} type="search" value={text} onChange={(e) => setText(e.target.value)} placeholder="Name or function" className="w-full min-w-0 bg-transparent outline-none" /></label>
        <button type="button" className="btn primary" onClick={() => setMaking(true)}><CirclePlus size={15} aria-hidden />Create a schedule</button>
      </div>
      {list.isError && <Failed error={list.error} again={() => list.refetch()} />}
      {!list.data ? !list.isError && <Loading what="the schedules" /> : !all.length ? (q ? <Nothing title="No schedule is called so.">Take the search away, or look for a part of it.</Nothing>
        : <Nothing title="There are no schedules yet.">A schedule starts runs of a function at moments of a cron expression, or every so often.</Nothing>) : <>
        <ul aria-label="Schedules" className="overflow-hidden rounded-lg border">{all.map((s) => <li key={s.id} className="border-b last:border-b-0"><Line of={s} /></li>)}</ul>
        {list.hasNextPage && <div className="p-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
      </>}
      {making && <ActDialog act={create(functions)} onClose={() => setMaking(false)} onDone={(words, answer) => {
        setMaking(false);
        say(words);
        void queries.invalidateQueries({ queryKey: ["schedules"] });
        void navigate({ to: "/schedules/$name", params: { name: (answer as Schedule).name } });
      }} />}
      {said}
    </div>
  );
}

function Line({ of: s }: { of: Schedule }) {
  const next = s.next[0];
  const last = s.recent.slice(0, LAST);
  return (
    <div className="px-4 py-2 hover:bg-hover">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-1">
        <span className="w-24"><Standing state={s.state} /></span>
        <span className="min-w-0 flex-1"><Link to="/schedules/$name" params={{ name: s.name }} className="breaks font-medium">{s.name}</Link> <span className="text-dim">starts</span> <Link to="/functions/$name" params={{ name: s.function }} className="text-fg">{s.function}</Link></span>
        <span className="w-64 text-[13px] max-lg:w-auto"><Rule of={s} /></span>
        <span role="img" aria-label={last.length ? `Last moments, the newest first: ${last.map(outcome).join(", ")}` : "No moment has come yet"} className="flex w-40 items-center gap-1 max-sm:w-auto">{last.map((r) => <span key={r.time + r.by} title={outcome(r)}><OutcomeIcon of={r} /></span>)}</span>
        <span className="w-24 text-right text-[13px] text-dim">{s.paused ? "not by itself" : next ? <Ago at={next.fires_at} /> : "no more"}</span>
      </div>
      {s.paused?.note && <p className="breaks mt-0.5 text-[13px] text-warn sm:pl-28">{s.paused.note}</p>}
    </div>
  );
}
