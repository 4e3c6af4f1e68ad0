// One function: start a run of it, its last runs, its configuration with where each value comes from.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { Hand } from "lucide-react";
import { useState } from "react";
import type { Act } from "../acts/act.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { pauseFunction, resumeFunction } from "../acts/limit.ts";
import { data, read } from "../api/client.ts";
import type { Fn as FnBody, Setting } from "../api/types.ts";
import { asString, elements, fields, visible, type Raw } from "../json/text.ts";
import { Failed, Loading } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { Ago } from "../ui/Time.tsx";
import { pageOf, Row } from "./RunList.tsx";
import { Objects } from "./Held.tsx";
import { Lately } from "./Lately.tsx";
import { StartForm } from "./StartForm.tsx";

export function Fn() {
  const { name } = useParams({ strict: false }) as { name: string };
  const { paused } = usePrefs();
  const queries = useQueryClient();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const fn = useQuery({ queryKey: ["function", name], queryFn: ({ signal }) => data<FnBody>(read("/v1/functions/{name}", { params: { path: { name } }, signal })), refetchInterval: paused ? false : 5000 });
  const runs = useQuery({ queryKey: ["runs", "of", name], queryFn: ({ signal }) => pageOf({ function: [name] }, null, signal, 10), refetchInterval: paused ? false : 3000 });
  if (fn.isError && !fn.data) return <div className="p-4"><Failed error={fn.error} again={() => fn.refetch()} /></div>;
  if (!fn.data) return <Loading what="the function" />;
  return (
    <div className="mx-auto max-w-6xl p-4">
      <p className="text-[13px] text-dim"><Link to="/functions">Functions</Link> / on <Link to="/endpoints/$name" params={{ name: fn.data.endpoint_name }}>{fn.data.endpoint_name}</Link></p>
      <div className="flex flex-wrap items-center gap-3"><h1 className="breaks mr-auto">{name}</h1>
        {fn.data.settings.some((s) => LIMITS.has(s.name) && s.source !== "default") && <Link to="/limits" search={{ function: name } as never} className="btn">Its limits</Link>}
        {!fn.data.paused && <button type="button" className="btn" onClick={() => setAct(pauseFunction(name))}>Pause…</button>}</div>
      {fn.data.paused && <PausedFunction name={name} pause={fn.data.paused} onAct={setAct} />}
      <Lately name={name} />
      <div className="mt-4 grid gap-6 lg:grid-cols-2">
        <section aria-labelledby="start"><h2 id="start" className="mb-2">Start a run</h2><StartForm key={name} name={name} schema={fn.data.input_schema} keyed={fn.data.kind === "object"} /></section>
        <section aria-labelledby="settings" className="min-w-0">
          {fn.data.triggers && elements(fn.data.triggers).length > 0 && <><h2 className="mb-2">Triggers</h2><ul aria-label="Triggers" className="mb-6 overflow-hidden rounded-lg border">{elements(fn.data.triggers).map((t) => <li key={t} className="border-b px-3 py-1.5 last:border-b-0"><Trigger of={t} /></li>)}</ul></>}
          {(fn.data.tasks?.length ?? 0) > 0 && <><h2 className="mb-2">Tasks</h2><p className="mb-6">{fn.data.tasks!.map((t) => <code key={t} className="mr-3">{visible(t)}</code>)}</p></>}
          {fn.data.object && <p className="mb-6">It reads the objects of <Link to="/functions/$name" params={{ name: fn.data.object }}>{fn.data.object}</Link>, and its runs wait for nobody.</p>}
          <h2 id="settings" className="mb-2">Configuration</h2>
          <Settings of={fn.data.settings} />
        </section>
      </div>
      {fn.data.kind === "object" && !fn.data.shared && <Objects of={name} />}
      <section aria-labelledby="last" className="mt-6">
        <h2 id="last" className="mb-2 flex items-baseline gap-3">Last runs <Link to="/runs" search={{ function: name } as never} className="text-[13px] font-normal">All of them</Link></h2>
        {runs.isError ? <Failed error={runs.error} /> : !runs.data ? <Loading what="the runs" rows={3} /> : !runs.data.data.length ? <p className="text-dim">It has had no runs yet.</p>
          : <ul className="overflow-hidden rounded-lg border [&>li:last-child_a]:border-b-0">{runs.data.data.map((run) => <li key={run.id} className="h-10"><Row run={run} /></li>)}</ul>}
      </section>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => { setAct(null); say(words); void queries.invalidateQueries({ queryKey: ["function", name] }); }} />}
      {said}
    </div>
  );
}

/** Settings that make a function go through limits. */
const LIMITS = new Set(["concurrency", "throttle", "rate_limit"]);

/** A function that somebody has paused: who, why, and the way on. */
export function PausedFunction({ name, pause, onAct, linked }: { name: string; pause: NonNullable<FnBody["paused"]>; onAct: (act: Act) => void; linked?: boolean }) {
  return (
    <section aria-label={`Why ${name} is paused`} className="mt-3 flex gap-3 rounded-lg border border-warn bg-warn-bg px-4 py-3">
      <Hand size={18} aria-hidden className="mt-0.5 shrink-0 text-warn" />
      <div className="min-w-0 flex-1"><h2 className="breaks text-warn">{linked ? <Link to="/functions/$name" params={{ name }} className="text-warn underline">{name}</Link> : null}{linked ? " is paused" : "It is paused"}{pause.reason ? `: ${visible(pause.reason)}` : ""}</h2>
        <p>By <code>{visible(pause.by)}</code>, <Ago at={pause.at} />. Starts are taken; its <Link to="/runs" search={{ function: name, status: "parked" } as never} className="underline">parked runs</Link> go on when it is resumed.</p></div>
      <button type="button" className="btn primary self-start" aria-label={`Resume ${name}`} onClick={() => onAct(resumeFunction(name))}>Resume</button>
    </section>
  );
}

/** What the deployment says first; what is as it is by default when somebody wants to see it. */
function Settings({ of }: { of: Setting[] }) {
  const own = of.filter((s) => s.source !== "default");
  const others = of.filter((s) => s.source === "default");
  return (
    <div className="overflow-hidden rounded-lg border">
      {own.length > 0 && <Table of={own} />}
      <details className={own.length ? "border-t" : ""}><summary className="cursor-pointer px-3 py-1.5 text-[13px] text-dim hover:bg-hover">{others.length} settings have their default</summary><Table of={others} /></details>
    </div>
  );
}

const Table = ({ of }: { of: Setting[] }) => (
  <table className="w-full table-fixed text-[13px]">
    <thead><tr className="border-b bg-panel text-left text-dim"><th className="px-3 py-1 font-medium">setting</th><th className="w-28 px-3 py-1 font-medium">value</th><th className="w-28 px-3 py-1 font-medium">from</th></tr></thead>
    <tbody>{of.map((s) => <tr key={s.name} className="border-b last:border-b-0"><td className="breaks px-3 py-1"><code>{s.name}</code></td><td className="breaks px-3 py-1"><Value of={s} /></td><td className={`px-3 py-1 ${s.source === "default" ? "text-dim" : "font-medium"}`}>{s.source}</td></tr>)}</tbody>
  </table>
);

const Value = ({ of }: { of: Setting }) => (of.value === null ? <span className="text-dim">none</span> : <code>{of.value.replace(/^"(.*)"$/s, "$1")}</code>);

/** What starts it by itself. */
function Trigger({ of }: { of: Raw }) {
  const trigger = fields(of);
  const event = asString(trigger.get("event") ?? "");
  const cron = asString(trigger.get("cron") ?? "");
  if (event === null) return cron === null ? <code className="breaks">{visible(of)}</code> : <>at <code>{visible(cron)}</code></>;
  const match = [...fields(trigger.get("match"))];
  return (
    <>the event <Link to="/events" search={{ name: event } as never}><code className="breaks">{visible(event)}</code></Link>
      {match.map(([path, value], i) => <span key={path}>{i ? " and " : " whose "}<code>{visible(path)}</code> is <code>{visible(value)}</code></span>)}</>
  );
}
