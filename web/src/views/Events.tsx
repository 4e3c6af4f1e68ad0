// The events: what was published, and whether anybody took it.
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { ArrowUp, CircleSlash2, Send, X } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { publish } from "../acts/event.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { data, read } from "../api/client.ts";
import type { ListedEvent, Page } from "../api/types.ts";
import { list, one, type Search } from "../router.tsx";
import { visible } from "../json/text.ts";
import { useShortcuts } from "../shell/shortcuts.ts";
import { Failed, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { momentAgo, SINCE } from "../run/since.ts";
import { Ago } from "../ui/Time.tsx";

const PAGE = 50;

export function Events() {
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const names = list(search.name);
  const since = SINCE.find(([name]) => name === one(search.since));
  const set = (change: Search) => navigate({ to: "/events", search: { ...search, ...change } as never, replace: true });
  const [name, setName] = useState("");
  const [sending, setSending] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useShortcuts({ f: () => field.current?.focus(), "/": () => field.current?.focus() });
  const add = () => { if (name.trim()) { void set({ name: [...new Set([...names, name.trim()])] }); setName(""); } };
  return (
    <div className="flex h-full min-h-0 flex-col">
      <div className="flex flex-wrap items-center gap-2 border-b px-4 py-2">
        <h1 className="mr-auto">Events</h1>
        <button type="button" className="btn primary" onClick={() => setSending(true)}><Send size={14} aria-hidden />Send event</button>
      </div>
      <form role="search" aria-label="Filter the events" className="flex flex-wrap items-center gap-2 border-b bg-panel px-4 py-2" onSubmit={(e) => { e.preventDefault(); add(); }}>
        <input ref={field} type="search" aria-label="Name" className="field min-w-44 flex-1" placeholder="A name, as it is: order.paid" value={name} onChange={(e) => setName(e.target.value)} spellCheck={false} />
        <button className="btn" disabled={!name.trim()}>Filter</button>
        <select aria-label="Published" className="field" value={one(search.since) ?? ""} onChange={(e) => set({ since: e.target.value || undefined })}>{SINCE.map(([id, label]) => <option key={id} value={id}>{label}</option>)}</select>
        {names.map((n) => <button key={n} type="button" className="btn max-w-60" aria-label={`Remove the filter name ${n}`} onClick={() => set({ name: names.filter((other) => other !== n) })}><span className="truncate">name: <code>{n}</code></span><X size={13} aria-hidden /></button>)}
        {(names.length > 0 || since?.[2]) && <button type="button" className="btn bare" onClick={() => navigate({ to: "/events", search: {} as never, replace: true })}>Clear</button>}
      </form>
      <List key={JSON.stringify([names, since?.[0]])} names={names} since={since?.[2] ?? 0} onSend={() => setSending(true)} />
      {sending && <ActDialog act={publish({ name: names[0] ?? "" })} onClose={() => setSending(false)} onDone={() => setSending(false)} />}
    </div>
  );
}

function List({ names, since, onSend }: { names: string[]; since: number; onSend: () => void }) {
  const { paused } = usePrefs();
  const queries = useQueryClient();
  const box = useRef<HTMLDivElement>(null);
  const busy = useRef(false);
  const [shown, setShown] = useState<ListedEvent[] | null>(null);
  const [round, reveal] = useState(0);
  const events = useInfiniteQuery({
    queryKey: ["events", names, since], initialPageParam: null as string | null, getNextPageParam: (page: Page<ListedEvent>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<ListedEvent>>(read("/v1/events", { params: { query: {
      name: names, limit: PAGE, cursor: pageParam ?? undefined,
      published_after: momentAgo(since) } }, signal })),
    // Of many pages the newest alone would not fit the others any more.
    refetchInterval: (query) => (paused || (query.state.data?.pages.length ?? 0) > 1 ? false : 2000),
  });
  const found = events.data?.pages.flatMap((page) => page.data);
  const still = () => !busy.current && (box.current?.scrollTop ?? 0) < 4 && !box.current?.contains(document.activeElement) && getSelection()?.isCollapsed !== false;
  const fresh = shown && found ? found.filter((e) => e.id > (shown[0]?.id ?? "") && !shown.some((s) => s.id === e.id)) : [];
  useEffect(() => {
    if (!events.data) return;
    const all = events.data.pages.flatMap((page) => page.data);
    // While somebody reads, what is new waits above; what is shown is still brought up to date.
    setShown((was) => {
      if (!was || !was.length || still()) return all;
      const first = all.findIndex((e) => e.id === was[0]!.id);
      return first < 0 ? was : all.slice(first);
    });
  }, [events.data, round]);

  if (!shown) return events.isError ? <div className="p-4"><Failed error={events.error} again={() => events.refetch()} /></div> : <Loading what="the events" rows={12} />;
  return (
    <div className="relative min-h-0 flex-1">
      {events.isError && <div className="absolute inset-x-0 top-0 z-10 px-4"><Failed error={events.error} /></div>}
      {fresh.length > 0 && <button type="button" className="btn primary absolute left-1/2 top-2 z-10 -translate-x-1/2 rounded-full shadow-lg" onClick={(e) => {
        e.currentTarget.blur();
        box.current?.scrollTo({ top: 0 });
        busy.current = false;
        reveal(round + 1);
      }}><ArrowUp size={14} aria-hidden />{fresh.length >= PAGE ? `${PAGE}+` : fresh.length} new event{fresh.length === 1 ? "" : "s"}</button>}
      <div ref={box} className="h-full overflow-auto" onPointerEnter={() => { busy.current = true; }} onPointerLeave={() => { busy.current = false; }}>
        {shown.length === 0 ? (names.length || since ? <Nothing title="No event is like this.">Names are matched as a whole. Take a filter away, or look in another time.</Nothing>
          : <Nothing title="No events yet."><p>An event starts every function that has a trigger for it, and reaches every run that waits for it.</p><button type="button" className="btn mt-3" onClick={onSend}>Send one</button></Nothing>) : <>
          <ul aria-label="Events">{shown.map((event) => <li key={event.id} className="h-10"><Row event={event} /></li>)}</ul>
          {events.hasNextPage ? <div className="p-3 text-center"><button type="button" className="btn" onClick={() => events.fetchNextPage()} disabled={events.isFetchingNextPage}>{events.isFetchingNextPage ? "Reading more…" : "Load more"}</button></div>
            : shown.length > 10 ? <p className="p-3 text-center text-dim">That is all of them.</p> : null}
          {(events.data?.pages.length ?? 0) > 1 && <p className="pb-3 text-center text-[13px] text-dim">New events are not shown while older ones are. <button type="button" className="btn bare text-accent" onClick={() => { box.current?.scrollTo({ top: 0 }); setShown(null); void queries.resetQueries({ queryKey: ["events", names, since] }); }}>Begin anew</button></p>}
        </>}
      </div>
    </div>
  );
}

function Row({ event }: { event: ListedEvent }) {
  return (
    <Link to="/events/$id" params={{ id: event.id }} id={`row-${event.id}`}
      className="grid h-full grid-cols-[minmax(0,1fr)_minmax(0,150px)_64px] items-center gap-3 border-b px-4 text-fg no-underline hover:bg-hover focus-visible:bg-hover focus-visible:-outline-offset-2 lg:grid-cols-[minmax(0,1fr)_minmax(0,200px)_minmax(0,260px)_84px]">
      <span className="truncate font-medium" title={event.name}>{visible(event.name)}</span>
      <span className="truncate text-dim max-lg:hidden" title={`From ${event.source}`}>{visible(event.source)}</span>
      <span className="flex min-w-0 text-[13px]">{event.routed ? <Reached matched={event.matched} /> : <span className="text-dim">on its way</span>}</span>
      <span className="text-right text-[13px] text-dim"><Ago at={event.published_at} /></span>
    </Link>
  );
}

/** How many runs it started and reached; in plain words where there are none. */
export function Reached({ matched: { count, started, exact } }: { matched: ListedEvent["matched"] }) {
  if (!count) return <span className="inline-flex min-w-0 items-center gap-1.5 font-medium text-warn"><CircleSlash2 size={14} aria-hidden className="shrink-0" /><span className="truncate">nobody took it</span></span>;
  const reached = count - started;
  const runs = (n: number) => `${n}${exact ? "" : "+"} run${n === 1 && exact ? "" : "s"}`;
  return <span className="text-good">{[started ? `started ${runs(started)}` : "", reached ? `reached ${runs(reached)}` : ""].filter(Boolean).join(", ")}</span>;
}
