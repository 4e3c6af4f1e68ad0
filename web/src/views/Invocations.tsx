// The last invocations of an endpoint: how many, how fast, and each as it went over the wire.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { ArrowUp, ChevronDown, ChevronRight, CircleCheck, CircleX, Hourglass } from "lucide-react";
import { useRef } from "react";
import { data, read } from "../api/client.ts";
import type { Invocation, InvocationPart, Invocations as Body, WholeInvocation } from "../api/types.ts";
import { Json } from "../json/Json.tsx";
import { fault, visible } from "../json/text.ts";
import { one, type Search } from "../router.tsx";
import { byMinute, percent } from "../run/minutes.ts";
import { bytes, duration } from "../run/time.ts";
import { Failed, Id, Loading, Nothing, Prose } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Bars } from "../ui/Spark.tsx";
import { Ago, useNow } from "../ui/Time.tsx";

const LOOKS = { answered: [CircleCheck, "text-good"], held: [Hourglass, "text-dim"], failed: [CircleX, "text-bad"] } as const;
const WHICH = [["", "All"], ["failed", "Failed"]] as const;
const count = (n: number) => n.toLocaleString("en");

/** `name`: of the endpoint. */
export function Invocations({ name }: { name: string }) {
  const { paused } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const open = one(search.invocation) ?? null;
  const failed = one(search.outcome) === "failed";
  const look = (change: Search) => navigate({ to: ".", search: ((now: Search) => ({ ...now, ...change })) as never, replace: true, resetScroll: false });
  const list = useQuery({
    queryKey: ["endpoint", name, "invocations"], refetchInterval: paused ? false : 3000,
    queryFn: ({ signal }) => data<Body>(read("/v1/endpoints/{endpoint}/invocations", { params: { path: { endpoint: name } }, signal })),
  });
  // Who reads one is not moved by those that come: they wait above.
  const held = useRef<Invocation[]>([]);
  const now = list.data?.data ?? [];
  if (!open || !held.current.some((i) => i.id === open)) held.current = now;
  const known = new Set(held.current.map((i) => i.id));
  const newer = now.filter((i) => !known.has(i.id)).length;
  const shown = held.current.filter((i) => !failed || i.outcome === "failed");
  return (
    <section aria-labelledby="invocations" className="mt-6">
      <div className="mb-2 flex flex-wrap items-center gap-3"><h2 id="invocations">Last invocations</h2>
        {list.data && now.length > 0 && <>
          <div role="group" aria-label="Which" className="ml-auto flex">{WHICH.map(([id, word], i) => <button key={id} type="button" aria-pressed={failed === (id === "failed")} onClick={() => look({ outcome: id || undefined, invocation: undefined })}
            className={`btn aria-pressed:border-accent aria-pressed:bg-accent-bg aria-pressed:font-semibold aria-pressed:text-accent ${i ? "-ml-px rounded-l-none" : "rounded-r-none"}`}>{word}</button>)}</div></>}
      </div>
      {list.isError && !list.data ? <Failed error={list.error} again={() => list.refetch()} /> : !list.data ? <Loading what="the invocations" rows={3} /> : <>
        <Figures of={list.data} />
        {newer > 0 && <button type="button" className="btn mb-2" onClick={() => look({ invocation: undefined })}><ArrowUp size={14} aria-hidden />{count(newer)} newer</button>}
        {shown.length > 0 ? <ul aria-label="Invocations" className="overflow-hidden rounded-lg border">{shown.map((i) => <li key={i.id} className="border-b last:border-b-0"><One endpoint={name} invocation={i} open={i.id === open} onOpen={() => look({ invocation: i.id === open ? undefined : i.id })} /></li>)}</ul>
          : <div className="rounded-lg border"><Nothing title={now.length ? "None of them failed." : "Nothing was sent there yet."}>{!now.length && "Nodes remember what they send in memory: after a restart they begin anew."}</Nothing></div>}
        {shown.length > 0 && <p className="mt-1.5 text-[13px] text-dim">The last hundred that each node sent, and as many before them that failed. Bodies are kept for an hour.</p>}
      </>}
    </section>
  );
}

function Figures({ of }: { of: Body }) {
  const minutes = byMinute(of.minutes.map((m) => ({ at: m.at, count: m.invocations })), useNow());
  const facts: [string, string, string?][] = [
    [count(of.invocations), "in the last hour"],
    [percent(of.failed, of.invocations), "failed", of.failed ? "text-bad" : undefined],
    [of.p50_ms == null ? "–" : duration(of.p50_ms), "half took at most"],
    [of.p95_ms == null ? "–" : duration(of.p95_ms), "95 % took at most"],
    [count(of.open), "out now"],
  ];
  return (
    <div className="mb-2 flex flex-wrap items-end gap-x-7 gap-y-2">
      <dl className="flex flex-wrap gap-x-7 gap-y-2">{facts.map(([figure, name, tone]) => <div key={name} className="flex flex-col-reverse"><dt className="text-[13px] text-dim">{name}</dt><dd className={`tnum text-lg font-semibold ${tone ?? ""}`}>{figure}</dd></div>)}</dl>
      {of.invocations > 0 && <span className="text-dim"><Bars counts={minutes} label={`${count(of.invocations)} invocations in the last hour, minute by minute`} /></span>}
      {of.unreached > 0 && <p className="text-warn">{of.unreached === 1 ? "One node did" : `${of.unreached} nodes did`} not answer: what {of.unreached === 1 ? "it" : "they"} sent is missing here.</p>}
    </div>
  );
}

function One({ endpoint, invocation: i, open, onOpen }: { endpoint: string; invocation: Invocation; open: boolean; onOpen: () => void }) {
  const [Icon, tone] = LOOKS[i.outcome as keyof typeof LOOKS] ?? [CircleX, "text-dim"];
  const Turn = open ? ChevronDown : ChevronRight;
  return (
    <>
      <div className="flex flex-wrap items-center gap-x-4 px-2 py-1.5 hover:bg-hover">
        <button type="button" className="btn bare" aria-expanded={open} aria-label={`What went over the wire, ${i.id}`} onClick={onOpen}><Turn size={15} aria-hidden /></button>
        <span className={`inline-flex w-32 items-center gap-1.5 font-medium ${tone}`}><Icon size={15} aria-hidden /><span className="tnum">{i.status ?? "–"}</span> {i.outcome}</span>
        <span className="tnum w-16 text-right">{duration(i.duration_ms)}</span>
        <span className="w-20 text-dim"><Ago at={i.at} past /></span>
        <span className="min-w-0 flex-1 truncate">{i.function}{i.step && <span className="text-dim"> / {visible(i.step)}</span>}</span>
        <Link to="/runs/$id" params={{ id: i.run }} search={(i.step ? { step: i.step } : {}) as never} className="whitespace-nowrap"><code>…{i.run.slice(-8)}</code></Link>
      </div>
      {i.detail && <p className="breaks pb-1.5 pl-11 pr-3 text-[13px] text-bad"><Prose text={visible(i.detail)} /></p>}
      {open && <Wire endpoint={endpoint} id={i.id} />}
    </>
  );
}

function Wire({ endpoint, id }: { endpoint: string; id: string }) {
  const whole = useQuery({
    queryKey: ["invocation", endpoint, id], staleTime: 60_000,
    queryFn: ({ signal }) => data<WholeInvocation>(read("/v1/endpoints/{endpoint}/invocations/{invocation}", { params: { path: { endpoint, invocation: id } }, signal })),
  });
  if (whole.isError) return <div className="px-4 pb-3"><Failed error={whole.error} again={() => whole.refetch()} /></div>;
  if (!whole.data) return <Loading what="the invocation" rows={4} />;
  const w = whole.data;
  return (
    <div className="border-t bg-panel px-4 py-3">
      <p className="mb-2 flex flex-wrap items-center gap-x-4 text-[13px] text-dim"><Id id={w.id} /><span>by <code>{w.transport}</code> to <code>{w.deployment}</code></span></p>
      <div className="grid gap-5 lg:grid-cols-2">
        <Part title="Request" name="the request" part={w.request} />
        {w.answer ? <Part title={`Answer ${w.status ?? ""}`} name="the answer" part={w.answer} /> : <section><h3 className="mb-1.5 font-semibold">Answer</h3><p className="text-dim">{w.status == null ? "There was none." : "It came line by line; what it said is in the run’s journal."}</p></section>}
      </div>
    </div>
  );
}

function Part({ title, name, part }: { title: string; name: string; part: InvocationPart }) {
  return (
    <section className="min-w-0"><h3 className="mb-1.5 font-semibold">{title} <span className="font-normal text-dim">{bytes(part.bytes)}</span></h3>
      <dl className="mb-2 grid grid-cols-[max-content_minmax(0,1fr)] gap-x-3 text-[13px]">{Object.entries(part.headers).map(([header, value]) => <div key={header} className="contents"><dt className="text-dim">{header}</dt><dd className="breaks min-w-0"><code>{visible(value)}</code></dd></div>)}</dl>
      {part.body == null ? <p className="text-dim">The body is not kept: it is older than an hour, or was erased.</p> : part.body === "" ? <p className="text-dim">The body is empty.</p> : fault(part.body) === null ? <Json raw={part.body} name={`${name}’s body`} />
        : <pre tabIndex={0} aria-label={`${name}’s body`} dir="auto" className="breaks max-h-80 overflow-auto whitespace-pre-wrap rounded-md border bg-panel px-3 py-2">{visible(part.body)}</pre>}
      {part.cut && <p className="mt-1 text-[13px] text-dim">Its first 8 KiB; the rest is not kept.</p>}
    </section>
  );
}
