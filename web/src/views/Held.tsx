// Objects: the state under a key, the run that has it, and the runs that wait for it.
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { Lock, LockOpen } from "lucide-react";
import { useState } from "react";
import { write } from "../acts/held.ts";
import type { Act } from "../acts/act.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { data, read } from "../api/client.ts";
import type { Held, ListedObject, Page, Run } from "../api/types.ts";
import { Json } from "../json/Json.tsx";
import { visible } from "../json/text.ts";
import { bytes } from "../run/time.ts";
import { Failed, Loading } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { Status } from "../ui/Status.tsx";
import { pageOf, Row } from "./RunList.tsx";

const PAGE = 25;

/** The objects of a function. */
export function Objects({ of }: { of: string }) {
  const { paused } = usePrefs();
  const navigate = useNavigate();
  const [key, setKey] = useState("");
  const list = useInfiniteQuery({
    queryKey: ["objects", of], initialPageParam: null as string | null, getNextPageParam: (page: Page<ListedObject>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<ListedObject>>(read("/v1/objects/{function}", { params: { path: { function: of }, query: { limit: PAGE, cursor: pageParam ?? undefined } }, signal })),
    refetchInterval: (query) => (paused || (query.state.data?.pages.length ?? 0) > 1 ? false : 5000),
  });
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <section aria-labelledby="objects" className="mt-6">
      <div className="mb-2 flex flex-wrap items-center gap-3"><h2 id="objects" className="mr-auto">Objects</h2>
        <form className="flex gap-2" onSubmit={(e) => { e.preventDefault(); if (key.trim()) void navigate({ to: "/objects/$function/$key", params: { function: of, key: key.trim() } }); }}>
          <input aria-label="Key of an object" className="field" placeholder="A key, as it is" value={key} onChange={(e) => setKey(e.target.value)} spellCheck={false} autoComplete="off" /><button className="btn" disabled={!key.trim()}>Open</button>
        </form></div>
      {list.isError ? <Failed error={list.error} again={() => list.refetch()} /> : !list.data ? <Loading what="the objects" rows={3} /> : !all.length ? <p className="text-dim">No object has a state yet.</p> : <>
        <ul aria-label="Objects" className="overflow-hidden rounded-lg border">{all.map((o) => (
          <li key={o.key} className="flex gap-3 border-b px-3 py-1.5 last:border-b-0 hover:bg-hover"><Link to="/objects/$function/$key" params={{ function: of, key: o.key }} className="breaks min-w-0 flex-1"><code>{visible(o.key)}</code></Link>
            <span className="text-[13px] text-dim">{o.fields} field{o.fields === 1 ? "" : "s"}</span><span className="w-24 text-right text-[13px] text-dim">{bytes(o.bytes)}</span></li>))}</ul>
        {list.hasNextPage && <div className="pt-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
      </>}
    </section>
  );
}

export function HeldObject() {
  const { function: of, key } = useParams({ strict: false }) as { function: string; key: string };
  const { paused } = usePrefs();
  const queries = useQueryClient();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const every = paused ? false : 2000;
  const object = useQuery({ queryKey: ["object", of, key], queryFn: ({ signal }) => data<Held>(read("/v1/objects/{function}/{key}", { params: { path: { function: of, key } }, signal })), refetchInterval: every });
  const runs = useQuery({ queryKey: ["runs", "of object", of, key], queryFn: ({ signal }) => pageOf({ function: [of], key: [key] }, null, signal, 10), refetchInterval: every });
  if (object.isError && !object.data) return <div className="p-4"><Failed error={object.error} again={() => object.refetch()} /><Link to="/functions/$name" params={{ name: of }} className="btn">The function</Link></div>;
  if (!object.data) return <Loading what="the object" />;
  const o = object.data;
  const edit = write(o);
  return (
    <div className="mx-auto max-w-5xl p-4">
      <p className="text-[13px] text-dim"><Link to="/functions">Functions</Link> / <Link to="/functions/$name" params={{ name: of }}>{of}</Link></p>
      <div className="flex flex-wrap items-center gap-3"><h1 className="breaks mr-auto">{visible(o.key)}</h1><button type="button" className="btn" title={edit.sentence} disabled={Boolean(o.holder)} onClick={() => setAct(edit)}>{edit.label}</button></div>
      {object.isError && <Failed error={object.error} />}
      <section aria-label="Who has it" className="mt-3 flex flex-wrap items-center gap-x-3 gap-y-1 rounded-lg border bg-panel px-4 py-2.5">
        {o.holder ? <><Lock size={16} aria-hidden className="text-accent" /><span>A run has it:</span><Holder run={o.holder} /></> : <><LockOpen size={16} aria-hidden className="text-dim" /><span>No run has it.</span></>}
        <span className={`ml-auto ${o.waiting ? "font-medium" : "text-dim"}`}>{o.waiting ? `${o.waiting.toLocaleString("en")} run${o.waiting === 1 ? " waits" : "s wait"} for it` : "Nobody waits for it"}</span>
      </section>
      <section aria-labelledby="state" className="mt-5"><h2 id="state" className="mb-2">State</h2><Json raw={o.state} name="state" /></section>
      <section aria-labelledby="runs" className="mt-6"><h2 id="runs" className="mb-2 flex items-baseline gap-3">Its runs <Link to="/runs" search={{ function: of, key } as never} className="text-[13px] font-normal">All of them</Link></h2>
        {runs.isError ? <Failed error={runs.error} /> : !runs.data ? <Loading what="the runs" rows={3} /> : !runs.data.data.length ? <p className="text-dim">It has had none.</p>
          : <ul aria-label="Runs" className="overflow-hidden rounded-lg border [&>li:last-child_a]:border-b-0">{runs.data.data.map((run) => <li key={run.id} className="h-10"><Row run={run} /></li>)}</ul>}
      </section>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => { setAct(null); say(words); void queries.invalidateQueries({ queryKey: ["object", of, key] }); }} />}
      {said}
    </div>
  );
}

function Holder({ run: id }: { run: string }) {
  const run = useQuery({ queryKey: ["runs", "one", id], queryFn: ({ signal }) => data<Run>(read("/v1/runs/{id}", { params: { path: { id } }, signal })), refetchInterval: 3000 });
  return <><Link to="/runs/$id" params={{ id }}><code>{id}</code></Link>{run.data && <Status status={run.data.status} />}</>;
}
