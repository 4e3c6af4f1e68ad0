// Acts on many runs: what was asked for, how far each has come, and what it could not do.
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { CircleCheck, CircleSlash2, LoaderCircle, type LucideIcon } from "lucide-react";
import { useState } from "react";
import { abort, actionWord, howMany, told, type Many } from "../acts/bulk.ts";
import type { Act } from "../acts/act.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { data, read } from "../api/client.ts";
import type { Bulk as BulkBody, Page } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { word } from "../run/status.ts";
import { Facts, Failed, Id, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { Ago, Moment } from "../ui/Time.tsx";

const LOOKS: Record<string, [LucideIcon, string]> = { running: [LoaderCircle, "text-accent"], completed: [CircleCheck, "text-good"], aborted: [CircleSlash2, "text-warn"] };
function Standing({ of: b }: { of: BulkBody }) {
  const [Icon, tone] = (Object.hasOwn(LOOKS, b.status) && LOOKS[b.status]) || [CircleSlash2, "text-dim"];
  return <span className={`inline-flex items-center gap-1.5 whitespace-nowrap font-medium ${tone}`} data-state={b.status}><Icon size={15} aria-hidden className={b.status === "running" ? "spin" : ""} />{word(b.status)}</span>;
}

/** Which runs, in words, each with what it is. */
function Which({ of }: { of: Many }) {
  const parts = told(of);
  if (!parts.length) return <span className="font-medium text-warn">every run</span>;
  return <>{parts.map(([name, value]) => <span key={name + value} className="mr-3 inline-block max-w-full"><span className="text-dim">{name}</span> <code className="breaks rounded bg-hover px-1">{visible(value)}</code></span>)}</>;
}

/** How far it is; what is done, skipped and failed lies side by side. */
function Progress({ of: b, wide }: { of: BulkBody; wide?: boolean }) {
  const all = Math.max(b.matched, b.status === "completed" ? 0 : b.expected.count, 1);
  const part = (n: number) => ({ width: `${(100 * n) / all}%` });
  return (
    <span role="progressbar" aria-label="How far it is" aria-valuemin={0} aria-valuemax={all} aria-valuenow={b.matched} className={`flex h-2 overflow-hidden rounded-full bg-hover ${wide ? "w-full" : "w-28"}`}>
      <span style={{ ...part(b.done), background: "var(--bar)" }} /><span style={{ ...part(b.skipped), background: "var(--bar-wait)" }} /><span style={{ ...part(b.failed), background: "var(--bar-fail)" }} />
    </span>
  );
}

const numbers = (b: BulkBody) => [`${b.done.toLocaleString("en")} done`, b.skipped ? `${b.skipped.toLocaleString("en")} skipped` : "", b.failed ? `${b.failed.toLocaleString("en")} failed` : ""].filter(Boolean).join(", ");

export function Bulks() {
  const { paused } = usePrefs();
  const list = useInfiniteQuery({
    queryKey: ["bulk"], initialPageParam: null as string | null, getNextPageParam: (page: Page<BulkBody>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<BulkBody>>(read("/v1/bulk", { params: { query: { limit: 50, cursor: pageParam ?? undefined } }, signal })),
    refetchInterval: (query) => (paused || (query.state.data?.pages.length ?? 0) > 1 ? false : 2000),
  });
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <div className="mx-auto max-w-6xl p-4">
      <h1>Bulk operations</h1>
      <p className="mb-3 text-dim">Acts on many runs at once. They go on by themselves, also when this page is closed or a node stops.</p>
      {list.isError && <Failed error={list.error} again={() => list.refetch()} />}
      {!list.data ? !list.isError && <Loading what="what was asked for" /> : !all.length ? <Nothing title="Nothing was done to many runs yet.">Choose runs in <Link to="/runs">their list</Link>, or filter it and act on all that match.</Nothing> : <>
        <ul aria-label="Bulk operations" className="overflow-hidden rounded-lg border">{all.map((b) => (
          <li key={b.id} className="flex flex-wrap items-center gap-x-4 gap-y-1 border-b px-4 py-2 last:border-b-0 hover:bg-hover">
            <span className="w-28"><Standing of={b} /></span>
            <Link to="/bulk/$id" params={{ id: b.id }} className="w-28 font-medium">{actionWord(b.action)}</Link>
            <span className="min-w-0 flex-1 text-[13px]"><Which of={b.filter as Many} /></span>
            <Progress of={b} /><span className="w-52 text-[13px]">{numbers(b)}</span>
            <span className="w-20 text-right text-[13px] text-dim"><Ago at={b.created_at} /></span>
          </li>))}</ul>
        {list.hasNextPage && <div className="p-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
      </>}
    </div>
  );
}

export function Bulk() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { paused } = usePrefs();
  const queries = useQueryClient();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const bulk = useQuery({
    queryKey: ["bulk", id], queryFn: ({ signal }) => data<BulkBody>(read("/v1/bulk/{id}", { params: { path: { id } }, signal })),
    refetchInterval: (query) => (paused || (query.state.data && query.state.data.status !== "running") ? false : 700),
  });
  if (bulk.isError && !bulk.data) return <div className="p-4"><Failed error={bulk.error} again={() => bulk.refetch()} /><Link to="/bulk" className="btn">All of them</Link></div>;
  if (!bulk.data) return <Loading what="how far it is" />;
  const b = bulk.data;
  const filter = b.filter as Many;
  const { started_after: _a, started_before: _b, run: _r, ...shown } = filter;
  const running = b.status === "running";
  return (
    <div className="mx-auto max-w-5xl p-4">
      <p className="text-[13px] text-dim"><Link to="/bulk">Bulk operations</Link></p>
      <div className="flex flex-wrap items-center gap-x-4 gap-y-2"><h1>{actionWord(b.action)} {howMany(b.expected)}</h1><span aria-live="polite"><Standing of={b} /></span>
        {running && <button type="button" className="btn danger ml-auto" onClick={() => setAct(abort(b.id))}>Abort…</button>}</div>
      {bulk.isError && <Failed error={bulk.error} />}
      <section aria-label="How far it is" className="mt-3 rounded-lg border bg-panel px-4 py-3">
        <Progress of={b} wide />
        <dl className="mt-3 grid grid-cols-4 gap-3 max-sm:grid-cols-2">{([["done", b.done, "var(--bar)"], ["skipped", b.skipped, "var(--bar-wait)"], ["failed", b.failed, "var(--bar-fail)"], [running ? "to come, about" : "not touched", Math.max(0, (b.status === "completed" ? b.matched : b.expected.count) - b.matched), "var(--hover)"]] as const).map(([name, n, colour]) => (
          <div key={name}><dt className="inline-flex items-center gap-1.5 text-[13px] text-dim"><span aria-hidden className="size-2.5 rounded-sm border" style={{ background: colour }} />{name}</dt><dd className="tnum text-lg font-semibold">{n.toLocaleString("en")}</dd></div>))}</dl>
      </section>
      {b.reasons.length > 0 && <section aria-labelledby="reasons" className="mt-5"><h2 id="reasons" className="mb-2">Why not</h2>
        <ul aria-label="Why not" className="overflow-hidden rounded-lg border">{b.reasons.map((r) => (
          <li key={r.outcome + r.code + r.detail} className="flex flex-wrap items-baseline gap-x-3 border-b px-3 py-1.5 last:border-b-0"><span className="tnum w-16 text-right font-semibold">{r.count.toLocaleString("en")}</span><span className={r.outcome === "failed" ? "text-bad" : "text-dim"}>{r.outcome}</span>
            <span className="breaks min-w-0 flex-1">{visible(r.detail)}</span><Link to="/runs/$id" params={{ id: r.run }} className="text-[13px]">such as <code>…{r.run.slice(-8)}</code></Link></li>))}</ul></section>}
      <section aria-labelledby="asked" className="mt-5"><h2 id="asked" className="mb-2">What was asked for</h2><Facts facts={[
        ["Runs", <><Which of={filter} />{!filter.run && <Link to="/runs" search={shown as never} className="text-[13px]">As they are now</Link>}</>],
        ["Reason", b.reason && visible(b.reason)], ["Signal", b.options.signal && <code>{visible(b.options.signal)}</code>], ["From step", b.options.from_step && <code>{visible(b.options.from_step)}</code>], ["Signals", b.options.keep_signals && "kept"],
        ["Time to compensate", b.options.grace], ["Deployment", b.options.deployment && <Id id={b.options.deployment} />], ["At most", `${b.rate.toLocaleString("en")} run${b.rate === 1 ? "" : "s"} a second`], ["Id", <Id id={b.id} />],
        ["Begun", <><Moment at={b.created_at} /> by <code>{visible(b.by)}</code>. Runs that began later are not touched.</>], ["Ended", b.ended_at && <><Moment at={b.ended_at} />{b.ended_by && <> by <code>{visible(b.ended_by)}</code></>}</>]]} /></section>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => { setAct(null); say(words); void queries.invalidateQueries({ queryKey: ["bulk"] }); }} />}
      {said}
    </div>
  );
}
