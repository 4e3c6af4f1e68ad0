// What else there is about a run: input and output, its family, logs, facts.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useMemo, useRef, useState, type ReactNode } from "react";
import { data, read } from "../../api/client.ts";
import type { ListedRun, Page, Run, Signal } from "../../api/types.ts";
import { Json } from "../../json/Json.tsx";
import { visible } from "../../json/text.ts";
import { isEnded } from "../../run/status.ts";
import { causeOf } from "../../run/ask.ts";
import { told, type RunLog } from "../../run/log.ts";
import { bytes, duration } from "../../run/time.ts";
import { Facts, Failed, Id, Loading, Nothing } from "../../ui/bits.tsx";
import { usePrefs } from "../../ui/prefs.ts";
import { Status } from "../../ui/Status.tsx";
import { Ago, Moment } from "../../ui/Time.tsx";
import { StepError } from "./StepPanel.tsx";

const Part = ({ title, children }: { title: string; children: ReactNode }) => <section className="min-w-0"><h2 className="mb-1.5">{title}</h2>{children}</section>;

export function InOut({ run }: { run: Run }) {
  if (run.erased_at) return <Nothing title="What was said to this run and by it was erased."><Ago at={run.erased_at} />. What happened, and when, is still there.</Nothing>;
  return (
    <div className="grid gap-5 px-4 py-3 xl:grid-cols-2">
      <Part title="Input"><Json raw={run.input ?? "null"} name="input" tall /></Part>
      <Part title={run.error ? "Error" : "Output"}>
        {run.error ? <StepError raw={run.error} /> : run.status === "completed" ? <Json raw={run.output ?? "null"} name="output" tall /> : <p className="text-dim">There is none yet.</p>}
      </Part>
      {run.custom_status !== null && <Part title="Custom status, as the handler said last"><Json raw={run.custom_status} name="custom status" /></Part>}
    </div>
  );
}

export function Logs({ log }: { log: RunLog }) {
  const [text, setText] = useState("");
  const scroll = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => log.logs.filter((l) => !text || `${l.level} ${l.message} ${l.fields ?? ""}`.toLowerCase().includes(text.toLowerCase())), [log.logs, text]);
  const virtual = useVirtualizer({ count: shown.length, getScrollElement: () => scroll.current, estimateSize: () => 30, overscan: 15, getItemKey: (i) => shown[i]!.n });
  const tone: Record<string, string> = { error: "text-bad", warn: "text-warn", info: "text-accent" };
  if (!log.logs.length && !log.caught) return <Loading what="the logs" />;
  if (!log.logs.length) return <Nothing title="Nothing was logged.">A handler logs with <code>{`{"op": "log", "level": "info", "message": "…"}`}</code>.</Nothing>;
  return (
    <div className="px-4 py-3">
      <input type="search" aria-label="Filter the logs" className="field mb-2 w-full max-w-sm" placeholder="Level or text" value={text} onChange={(e) => setText(e.target.value)} />
      <div ref={scroll} tabIndex={0} role="log" aria-label="Logs" className="max-h-[64vh] overflow-auto rounded-lg border font-mono text-[13px]">
        <div className="relative" style={{ height: virtual.getTotalSize() }}>
          {virtual.getVirtualItems().map((item) => {
            const line = shown[item.index]!;
            return (
              <div key={line.n} ref={virtual.measureElement} data-index={item.index} className="absolute inset-x-0 flex gap-3 border-b px-3 py-1" style={{ transform: `translateY(${item.start}px)` }}>
                <span className="text-dim"><Moment at={line.at} /></span><span className={`w-12 shrink-0 ${tone[line.level] ?? "text-dim"}`}>{line.level}</span>
                <span className="breaks min-w-0 flex-1 whitespace-pre-wrap">{visible(line.message)}{line.fields !== null && <span className="text-dim"> {visible(line.fields)}</span>}</span>
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

// ---- family ----

export function Family({ run }: { run: Run }) {
  return (
    <div className="px-4 py-3">
      <ul aria-label="Family" className="overflow-hidden rounded-lg border">
        {run.parent && <Ancestor id={run.parent} />}
        <Member run={run} depth={run.parent ? 1 : 0} me />
        <Children of={run.id} depth={run.parent ? 2 : 1} />
      </ul>
      {run.rerun_of && <p className="mt-3">It does <Link to="/runs/$id" params={{ id: run.rerun_of }}>{run.rerun_of}</Link> again.</p>}
    </div>
  );
}

function Ancestor({ id }: { id: string }) {
  const { paused } = usePrefs();
  const parent = useQuery({ queryKey: ["runs", "one", id], queryFn: ({ signal }) => data<Run>(read("/v1/runs/{id}", { params: { path: { id } }, signal })), refetchInterval: paused ? false : 3000 });
  if (parent.isError) return <li className="border-b px-3 py-2 text-dim">Its parent <code>{id}</code> is not here any more.</li>;
  return parent.data ? <Member run={parent.data} depth={0} /> : null;
}

function Children({ of, depth }: { of: string; depth: number }) {
  const { paused } = usePrefs();
  const children = useQuery({
    queryKey: ["runs", "children", of], refetchInterval: paused ? false : 3000,
    queryFn: ({ signal }) => data<Page<ListedRun>>(read("/v1/runs", { params: { query: { parent: of, limit: 100 } }, signal })),
  });
  if (children.isError) return <li className="px-3"><Failed error={children.error} /></li>;
  if (!children.data) return <li><Loading what="the children" rows={2} /></li>;
  if (!children.data.data.length) return depth <= 2 ? <li className="px-3 py-2 text-dim" style={{ paddingLeft: 12 + depth * 22 }}>It has started no runs.</li> : null;
  return <>{children.data.data.map((child) => <Child key={child.id} run={child} depth={depth} />)}
    {children.data.next_cursor && <li className="px-3 py-2"><Link to="/runs" search={{ parent: of } as never}>All of its children</Link></li>}</>;
}

function Child({ run, depth }: { run: ListedRun; depth: number }) {
  const [open, setOpen] = useState(false);
  return <><Member run={run} depth={depth} open={open} onOpen={() => setOpen(!open)} />{open && <Children of={run.id} depth={depth + 1} />}</>;
}

function Member({ run, depth, me, open, onOpen }: { run: ListedRun | Run; depth: number; me?: boolean; open?: boolean; onOpen?: () => void }) {
  return (
    <li className={`flex items-center gap-3 border-b py-1.5 pr-3 last:border-b-0 ${me ? "bg-accent-bg" : ""}`} style={{ paddingLeft: 12 + depth * 22 }}>
      {onOpen ? <button type="button" className="btn bare px-1 py-0" aria-expanded={open} aria-label={`Children of ${run.id}`} onClick={onOpen}>{open ? "▾" : "▸"}</button> : null}
      <span className="w-28"><Status status={run.status} /></span><span className="font-medium">{run.function}</span>
      <span className="min-w-0 flex-1 truncate">{me ? <span className="text-dim">this run</span> : <Link to="/runs/$id" params={{ id: run.id }}><code>{run.key ?? run.id}</code></Link>}</span>
      <span className="text-[13px] text-dim">{isEnded(run.status) && run.ended_at ? duration(Date.parse(run.ended_at) - Date.parse(run.created_at)) : <Ago at={run.created_at} />}</span>
    </li>
  );
}

// ---- facts ----

export function Details({ run, log }: { run: Run; log: RunLog }) {
  const signals = useQuery({ queryKey: ["signals", run.id, run.steps.settled, run.status], queryFn: ({ signal }) => data<Page<Signal>>(read("/v1/runs/{id}/signals", { params: { path: { id: run.id }, query: { limit: 100 } }, signal })) });
  const tags = Object.entries(run.tags);
  return (
    <div className="grid gap-6 px-4 py-3 xl:grid-cols-2">
      <Part title="The run">
        <Facts facts={[
          ["Id", <Id id={run.id} />], ["Key", run.key && <Id id={run.key} />], ["Function", <Link to="/functions/$name" params={{ name: run.function }}>{run.function}</Link>],
          ["Namespace", run.namespace], ["Deployment", run.deployment && <Id id={run.deployment} />], ["Started by", <Starter run={run} log={log} />],
          ["Accepted", <Moment at={run.created_at} />], ["Started", run.started_at && <Moment at={run.started_at} />], ["Ended", run.ended_at && <Moment at={run.ended_at} />],
          ["Payloads erased", run.erased_at && <Moment at={run.erased_at} />], ["Imported", run.imported_at && <Moment at={run.imported_at} />],
          ["Invocations", run.invocations.toLocaleString("en")], ["Steps", `${run.steps.settled.toLocaleString("en")} settled, ${run.steps.pending.toLocaleString("en")} pending`],
          ["Tags", tags.length > 0 && tags.map(([k, v]) => <Link key={k} to="/runs" search={{ tag: `${k}:${v}` } as never} className="mr-2"><code>{k}={v}</code></Link>)],
        ]} />
      </Part>
      {run.generation > 1 && <Generations run={run} log={log} />}
      <Part title="Signals">
        {signals.isError ? <Failed error={signals.error} /> : !signals.data ? <Loading what="the signals" rows={2} /> : !signals.data.data.length ? <p className="text-dim">None was sent.</p> : (
          <ul className="overflow-hidden rounded-lg border">{signals.data.data.map((s, i) => (
            <li key={i} className="flex gap-3 border-b px-3 py-1.5 last:border-b-0"><code className="min-w-0 flex-1 truncate">{s.name}</code><span>{s.state}{s.step ? <> by <code>{s.step}</code></> : null}</span><span className="text-dim">{bytes(s.bytes)}</span><span className="text-dim"><Ago at={s.at} /></span></li>
          ))}</ul>
        )}
      </Part>
    </div>
  );
}

function Starter({ run, log }: { run: Run; log: RunLog }) {
  const cause = causeOf(log.history[0]?.type === "run.created" ? log.history[0].by : undefined);
  if (run.parent) return <>the run <Link to="/runs/$id" params={{ id: run.parent }}><code>{run.parent}</code></Link></>;
  if (!cause) return <span className="text-dim">not known</span>;
  if ("event" in cause) return <>the event <Link to="/events/$id" params={{ id: cause.event }}><code>{cause.event}</code></Link></>;
  return "run" in cause ? <>the run <Link to="/runs/$id" params={{ id: cause.run }}><code>{cause.run}</code></Link></> : cause.who === "local" ? <>somebody on the gateway's machine</> : <>the API key <code>{visible(cause.who)}</code></>;
}

/** When it continued as new. What older generations did is kept for an hour. */
function Generations({ run, log }: { run: Run; log: RunLog }) {
  const began = log.history.filter((h) => h.type === "run.continued").map((h) => ({ n: told(h).generation, at: h.at }));
  return (
    <Part title={`Generation ${run.generation}`}>
      <p className="text-dim">Its handler has ended a turn with <code>continue</code>: the run went on under its id and key with a new input and an empty journal. Input, steps and signals shown here are of this generation.</p>
      <ul className="mt-2 overflow-hidden rounded-lg border">
        {[...began].reverse().slice(0, 20).map((g) => <li key={g.n} className="flex gap-3 border-b px-3 py-1.5 last:border-b-0"><span className="flex-1">Generation {g.n}{g.n === run.generation ? ", this one" : ""}</span><span className="text-dim">began <Ago at={g.at} /></span></li>)}
        {began.length > 20 && <li className="px-3 py-1.5 text-dim">{began.length - 20} before these; all are in the journal's full form.</li>}
      </ul>
    </Part>
  );
}
