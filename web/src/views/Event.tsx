// One event: what it carries, and which runs it started or reached.
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { CircleSlash2, Send } from "lucide-react";
import { useState, type ReactNode } from "react";
import { publish } from "../acts/event.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import type { Act } from "../acts/act.ts";
import { data, read } from "../api/client.ts";
import type { Event as Body, EventMatch, Page, Run } from "../api/types.ts";
import { Json } from "../json/Json.tsx";
import { visible } from "../json/text.ts";
import { Facts, Failed, Id, Loading } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Status } from "../ui/Status.tsx";
import { Ago, Moment } from "../ui/Time.tsx";
import { Reached } from "./Events.tsx";

export function Event() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { paused } = usePrefs();
  const [act, setAct] = useState<Act | null>(null);
  const event = useQuery({
    queryKey: ["event", id], queryFn: ({ signal }) => data<Body>(read("/v1/events/{id}", { params: { path: { id } }, signal })),
    refetchInterval: (query) => (paused ? false : query.state.data?.routed ? 5000 : 500),
  });
  if (event.isError && !event.data) return <div className="mx-auto max-w-xl p-6"><Failed error={event.error} again={() => event.refetch()} /><Link to="/events" className="btn">All events</Link></div>;
  if (!event.data) return <Loading what="the event" rows={8} />;
  const e = event.data;
  return (
    <div className="mx-auto max-w-5xl p-4">
      <p className="text-[13px] text-dim"><Link to="/events">Events</Link></p>
      <div className="flex flex-wrap items-start gap-x-4 gap-y-2">
        <div className="min-w-0 flex-1"><h1 className="breaks">{visible(e.name)}</h1>
          <p className="flex flex-wrap items-center gap-x-4 text-dim">{e.routed ? <Reached matched={e.matched} /> : <span>on its way</span>}<span>published <Ago at={e.published_at} /></span><Id id={e.id} /></p></div>
        <Link to="/events" search={{ name: e.name } as never} className="btn">All of this name</Link>
        <button type="button" className="btn" onClick={() => setAct(publish(e))}><Send size={14} aria-hidden />Send one like it</button>
      </div>
      {event.isError && <Failed error={event.error} />}
      <div className="mt-4 grid gap-6 lg:grid-cols-2">
        <Part title="Data"><Json raw={e.data ?? "null"} name="data" /></Part>
        <Part title="Facts"><Facts facts={[["Source", <code>{visible(e.source)}</code>], ["Id there", <Id id={visible(e.source_id)} />], ["Happened", <Moment at={e.time} />], ["Accepted", <Moment at={e.published_at} />], ["Routed", e.routed ? "yes: everybody has it who is to have it" : "not yet"]]} /></Part>
      </div>
      <section aria-labelledby="came" className="mt-6"><h2 id="came" className="mb-1.5">What it came to</h2>
        {!e.routed && !e.matches.length ? <p role="status" className="text-dim">It is on its way.</p> : !e.matches.length ? <Nobody name={e.name} /> : <Matches event={e} />}
      </section>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={() => setAct(null)} />}
    </div>
  );
}

const Part = ({ title, children }: { title: string; children: ReactNode }) => <section className="min-w-0"><h2 className="mb-1.5">{title}</h2>{children}</section>;

const Nobody = ({ name }: { name: string }) => (
  <div className="flex gap-3 rounded-lg border border-warn bg-warn-bg px-4 py-3">
    <CircleSlash2 size={18} aria-hidden className="mt-0.5 shrink-0 text-warn" />
    <div><h3 className="font-semibold text-warn">No function or run matched.</h3>
      <p>No function has a trigger <code className="breaks">{`{"event": ${JSON.stringify(visible(name))}}`}</code> whose <code>match</code> holds, and no run waits for it. A step that asks later finds it only within its <code>lookback</code>.</p></div>
  </div>
);

/** How many are shown at once; each is asked how it stands. */
const SHOWN = 25;

function Matches({ event }: { event: Body }) {
  const [shown, setShown] = useState(SHOWN);
  const rest = useInfiniteQuery({
    queryKey: ["event", event.id, "matches"], enabled: shown > event.matches.length, initialPageParam: null as string | null, getNextPageParam: (page: Page<EventMatch>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<EventMatch>>(read("/v1/events/{id}/matches", { params: { path: { id: event.id }, query: { limit: 200, cursor: pageParam ?? undefined } }, signal })),
  });
  const all = rest.data?.pages.flatMap((page) => page.data) ?? event.matches;
  const more = all.length > shown || (rest.data ? rest.hasNextPage : event.matches.length >= 100);
  return (
    <>
      <ul aria-label="Runs" className="overflow-hidden rounded-lg border">{all.slice(0, shown).map((m) => <li key={m.run + (m.step ?? "")} className="border-b last:border-b-0"><Match match={m} /></li>)}</ul>
      {rest.isError && <Failed error={rest.error} />}
      {more && <div className="pt-3 text-center"><button type="button" className="btn" disabled={rest.isFetching} onClick={() => { if (shown + SHOWN > all.length && rest.data) void rest.fetchNextPage(); setShown(shown + SHOWN); }}>Show more</button></div>}
    </>
  );
}

function Match({ match }: { match: EventMatch }) {
  const { paused } = usePrefs();
  const run = useQuery({ queryKey: ["runs", "one", match.run], queryFn: ({ signal }) => data<Run>(read("/v1/runs/{id}", { params: { path: { id: match.run } }, signal })), refetchInterval: paused ? false : 3000 });
  return (
    <div className="flex flex-wrap items-center gap-x-3 gap-y-0.5 px-3 py-1.5 hover:bg-hover">
      <span className="w-28">{run.data ? <Status status={run.data.status} /> : run.isError ? <span className="text-dim">not here any more</span> : null}</span>
      <span className="w-40 truncate font-medium">{run.data?.function}</span>
      <Link to="/runs/$id" params={{ id: match.run }} search={(match.step ? { step: match.step } : {}) as never} className="min-w-0 flex-1 truncate"><code>{run.data?.key ?? match.run}</code></Link>
      <span className="min-w-0 truncate text-dim">{match.step ? <>reached step <code>{match.step}</code></> : match.did}</span>
      <span className="w-20 text-right text-[13px] text-dim"><Ago at={match.at} /></span>
    </div>
  );
}
