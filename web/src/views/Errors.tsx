// What went wrong, the same put together: how often, since when, and what can be done about all of it.
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { BellOff, CircleCheck, Undo2 } from "lucide-react";
import { useState, type ReactNode } from "react";
import { bulkActs } from "../acts/bulk.ts";
import type { Act } from "../acts/act.ts";
import { actsOnError } from "../acts/error.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { data, read } from "../api/client.ts";
import type { ErrorGroup, Page } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { one, type Search } from "../router.tsx";
import { momentAgo, SINCE } from "../run/since.ts";
import { word } from "../run/status.ts";
import { Failed, Id, Loading, Nothing } from "../ui/bits.tsx";
import { Menu } from "../ui/Menu.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { StatusIcon } from "../ui/Status.tsx";
import { Spark } from "../ui/Spark.tsx";
import { Ago } from "../ui/Time.tsx";
import { pageOf, Row } from "./RunList.tsx";
import { useFunctions } from "./Schedules.tsx";

const STATUSES = ["failed", "timed_out", "paused"];
/** As it is in the address, in words, what it means, and what it is where nothing is. */
const STATES: [string, string, string, string][] = [
  ["open", "Open", "What somebody should look at.", "Nothing that is open has gone wrong."],
  ["resolved", "Resolved", "Mended: open again by itself once a run fails or pauses by it.", "Nothing is resolved."],
  ["ignored", "Ignored", "What nobody need look at, until it is reopened.", "Nothing is ignored."],
];

/** That it came back after it was resolved. */
const CameBack = () => <span className="inline-flex items-center gap-1 whitespace-nowrap rounded border border-warn bg-warn-bg px-1.5 text-[13px] font-medium text-warn"><Undo2 size={13} aria-hidden />Came back</span>;

/** How it ends: of each status how many. */
const Split = ({ of }: { of: ErrorGroup }) => (
  <>{Object.entries(of.by_status).filter(([, n]) => n > 0).map(([status, n]) => <span key={status} className="whitespace-nowrap"><span className="mr-1 inline-block align-[-2px]"><StatusIcon status={status} /></span><span className="tnum font-medium">{n.toLocaleString("en")}</span> <span className="text-dim">{word(status).toLowerCase()}</span></span>)}</>
);

export function Errors() {
  const { paused } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const names = useFunctions();
  const [fn, status] = [one(search.function), one(search.status)];
  const [state, , meaning, none] = STATES.find(([id]) => id === one(search.state)) ?? STATES[0]!;
  const since = SINCE.find(([name]) => name === one(search.since));
  const set = (change: Search) => navigate({ to: "/errors", search: { ...search, ...change } as never, replace: true });
  const list = useInfiniteQuery({
    queryKey: ["errors", state, fn, status, since?.[0]], initialPageParam: null as string | null, getNextPageParam: (page: Page<ErrorGroup>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<ErrorGroup>>(read("/v1/errors", { params: { query: {
      state: [state], function: fn ? [fn] : undefined, status: status ? [status] : undefined, limit: 50, cursor: pageParam ?? undefined,
      seen_after: momentAgo(since?.[2]) } as never }, signal })),
    refetchInterval: (query) => (paused || (query.state.data?.pages.length ?? 0) > 1 ? false : 5000),
  });
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  const filtered = Boolean(fn || status || since?.[2]);
  return (
    <div className="mx-auto max-w-6xl p-4">
      <h1>Errors</h1>
      <p className="mb-3 text-dim">Runs that failed, timed out or are paused, by what went wrong: an error of a function and step is one line, whatever ids it names.</p>
      <nav aria-label="State" className="mb-3 flex gap-1 overflow-x-auto border-b">
        {STATES.map(([id, name]) => <Link key={id} to="/errors" search={{ ...search, state: id === "open" ? undefined : id } as never} aria-current={id === state ? "page" : undefined} className="whitespace-nowrap border-b-2 border-transparent px-2.5 py-1.5 text-dim no-underline hover:text-fg aria-[current=page]:border-accent aria-[current=page]:font-semibold aria-[current=page]:text-accent">{name}</Link>)}
      </nav>
      <p className="mb-3 text-[13px] text-dim">{meaning}</p>
      <form role="search" aria-label="Filter the errors" className="mb-3 flex flex-wrap items-center gap-2" onSubmit={(e) => e.preventDefault()}>
        <select aria-label="Function" className="field max-w-60" value={fn ?? ""} onChange={(e) => set({ function: e.target.value || undefined })}><option value="">Any function</option>{[...new Set([...names, ...(fn ? [fn] : [])])].map((name) => <option key={name} value={name}>{name}</option>)}</select>
        <select aria-label="Status" className="field" value={status ?? ""} onChange={(e) => set({ status: e.target.value || undefined })}><option value="">Any status</option>{STATUSES.map((s) => <option key={s} value={s}>{word(s)}</option>)}</select>
        <select aria-label="Seen" className="field" value={one(search.since) ?? ""} onChange={(e) => set({ since: e.target.value || undefined })}>{SINCE.map(([id, label]) => <option key={id} value={id}>{label}</option>)}</select>
        {filtered && <button type="button" className="btn bare" onClick={() => navigate({ to: "/errors", search: { state: search.state } as never, replace: true })}>Clear</button>}
      </form>
      {list.isError && <Failed error={list.error} again={() => list.refetch()} />}
      {!list.data ? !list.isError && <Loading what="the errors" /> : !all.length ? <Nothing title={filtered ? "No error is like this." : none}>{filtered ? "Take a filter away, or look in another time." : state === "open" ? "Runs that fail, time out or are paused are put together here." : "Errors get here by a button on their own page."}</Nothing> : <>
        <ul aria-label="Errors" className="overflow-hidden rounded-lg border">{all.map((e) => <li key={e.fingerprint} className="border-b last:border-b-0"><Line of={e} /></li>)}</ul>
        {list.hasNextPage && <div className="p-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
      </>}
    </div>
  );
}

function Line({ of: e }: { of: ErrorGroup }) {
  return (
    <Link to="/errors/$fingerprint" params={{ fingerprint: e.fingerprint }} className="grid grid-cols-[minmax(0,1fr)_auto] items-baseline gap-x-4 gap-y-0.5 px-4 py-2 text-fg no-underline hover:bg-hover lg:grid-cols-[minmax(0,1fr)_220px_130px_80px]">
      <span className="min-w-0"><span className="breaks font-medium">{visible(e.code)}</span> <span className="text-[13px] text-dim">in {e.function}{e.step && <>, step <code className="breaks">{visible(e.step)}</code></>}</span>{e.returned_at && <> <CameBack /></>}</span>
      <span className="flex flex-wrap justify-end gap-x-3 text-[13px]">{!e.count.exact && <span className="text-dim">at least</span>}<Split of={e} /></span>
      <span className="max-lg:hidden"><Spark hours={e.hourly} /></span>
      <span className="text-right text-[13px] text-dim max-lg:hidden"><Ago at={e.last_seen} /></span>
      <span className="col-span-full truncate text-[13px] text-dim">{visible(e.message)}</span>
    </Link>
  );
}

/** What can be done where runs stand so; what helps comes first. Nothing of it is retried by itself any more. */
function helping(by: ErrorGroup["by_status"]) {
  const ended = by.failed || by.timed_out;
  return [...(ended ? ["rewind"] : []), ...(by.paused ? ["resume"] : []), "rerun", ...(by.paused ? ["cancel", "terminate"] : []), ...(ended ? ["delete"] : [])];
}

/** What was made of it, by whom and why. */
function Made({ of: e }: { of: ErrorGroup }) {
  const by = (who?: string | null, at?: string | null) => <p className="breaks">{e.reason && <>{visible(e.reason)} — </>}{who && <>by <code>{who}</code>, </>}{at && <Ago at={at} />}</p>;
  const box = (tone: string, icon: ReactNode, title: string, rest: ReactNode) => (
    <section aria-label="What was made of it" className={`mt-3 flex gap-3 rounded-lg border px-4 py-3 ${tone}`}><span aria-hidden className="mt-0.5 shrink-0">{icon}</span><div className="min-w-0 flex-1"><h2>{title}</h2><div className="text-fg">{rest}</div></div></section>
  );
  if (e.returned_at) return box("border-warn bg-warn-bg text-warn", <Undo2 size={18} />, "It came back", <><p>A run failed or paused by it <Ago at={e.returned_at} />, after it was resolved.</p>{by(e.resolved_by, e.resolved_at)}</>);
  if (e.state === "resolved") return box("border-good bg-good-bg text-good", <CircleCheck size={18} />, "It is resolved, until it comes back", by(e.resolved_by, e.resolved_at));
  if (e.state === "ignored") return box("bg-panel", <BellOff size={18} />, "It is ignored", by(e.ignored_by, e.ignored_at));
  return null;
}

export function OneError() {
  const { fingerprint } = useParams({ strict: false }) as { fingerprint: string };
  const { paused } = usePrefs();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const queries = useQueryClient();
  const every = paused ? false : 4000;
  const group = useQuery({ queryKey: ["error", fingerprint], queryFn: ({ signal }) => data<ErrorGroup>(read("/v1/errors/{fingerprint}", { params: { path: { fingerprint } }, signal })), refetchInterval: every });
  const runs = useQuery({ queryKey: ["runs", "of error", fingerprint], queryFn: ({ signal }) => pageOf({ fingerprint: [fingerprint] }, null, signal, 20), refetchInterval: every });
  if (group.isError && !group.data) return <div className="p-4"><Failed error={group.error} again={() => group.refetch()} /><Link to="/errors" className="btn">All errors</Link></div>;
  if (!group.data) return <Loading what="the error" />;
  const e = group.data;
  const own = actsOnError(e);
  const acts = bulkActs({ fingerprint: [fingerprint] }, helping(e.by_status));
  return (
    <div className="mx-auto max-w-6xl p-4">
      <p className="text-[13px] text-dim"><Link to="/errors">Errors</Link> / <Link to="/functions/$name" params={{ name: e.function }}>{e.function}</Link></p>
      <div className="flex flex-wrap items-start gap-3"><h1 className="breaks mr-auto">{visible(e.code)}</h1><div className="flex flex-wrap gap-2"><Menu acts={own} front={own.length} onAct={setAct} /><Menu acts={acts} front={3} onAct={setAct} /></div></div>
      {group.isError && <Failed error={group.error} />}
      <Made of={e} />
      <pre tabIndex={0} aria-label="The message of one of them" className="breaks mt-3 max-h-60 overflow-auto whitespace-pre-wrap rounded-lg border border-bad bg-bad-bg px-4 py-3 text-bad">{visible(e.example)}</pre>
      <dl className="mt-3 flex flex-wrap gap-x-10 gap-y-2">
        {([["runs", <span className="inline-flex flex-wrap gap-x-3">{!e.count.exact && <span className="text-dim">at least</span>}<Split of={e} /></span>], ["step", e.step && <code className="breaks">{visible(e.step)}</code>], ["first seen", <Ago at={e.first_seen} />], ["last seen", <Ago at={e.last_seen} />], ["started, by the hour", <Spark hours={e.hourly} />],
          ["deployments", e.deployments.length > 0 && <span className="flex flex-wrap gap-x-3">{e.deployments.slice(0, 3).map((d) => <Id key={d} id={d} short />)}{e.deployments.length > 3 && `and ${e.deployments.length - 3} more`}</span>]] as const)
          .filter(([, v]) => v).map(([k, v]) => <div key={k} className="min-w-0"><dt className="text-[13px] text-dim">{k}</dt><dd>{v}</dd></div>)}
      </dl>
      <section aria-labelledby="runs" className="mt-6"><h2 id="runs" className="mb-2 flex items-baseline gap-3">Its runs <Link to="/runs" search={{ fingerprint } as never} className="text-[13px] font-normal">All of them</Link></h2>
        {runs.isError ? <Failed error={runs.error} /> : !runs.data ? <Loading what="the runs" rows={3} /> : !runs.data.data.length ? <p className="text-dim">None of them is there any more.</p>
          : <ul aria-label="Runs" className="overflow-hidden rounded-lg border [&>li:last-child_a]:border-b-0">{runs.data.data.map((run) => <li key={run.id} className="h-10"><Row run={run} /></li>)}</ul>}
      </section>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => {
        setAct(null);
        if (!own.some((a) => a.id === act.id)) return;
        say(words);
        void queries.invalidateQueries({ queryKey: ["error"] });
        void queries.invalidateQueries({ queryKey: ["errors"] });
      }} />}
      {said}
    </div>
  );
}
