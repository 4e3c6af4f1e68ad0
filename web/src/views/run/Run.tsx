// One run: what happened, what it waits for, and what to press.
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { WifiOff } from "lucide-react";
import { lazy, Suspense, useDeferredValue, useEffect, useMemo, useState, type ReactNode } from "react";
import { useQuery } from "@tanstack/react-query";
import { data, read } from "../../api/client.ts";
import { one, type Search } from "../../router.tsx";
import type { Act } from "../../acts/act.ts";
import { actsOn } from "../../acts/run.ts";
import { causeOf } from "../../run/ask.ts";
import type { RunLog } from "../../run/log.ts";
import { isEnded, word } from "../../run/status.ts";
import { stepsOf } from "../../run/steps.ts";
import { duration } from "../../run/time.ts";
import { why } from "../../run/why.ts";
import { useShortcuts } from "../../shell/shortcuts.ts";
import { CopyButton, Failed, Loading } from "../../ui/bits.tsx";
import { Menu } from "../../ui/Menu.tsx";
import { usePrefs } from "../../ui/prefs.ts";
import { useSaid } from "../../ui/Said.tsx";
import { Status } from "../../ui/Status.tsx";
import { Ago, useNow } from "../../ui/Time.tsx";
import type { Run as RunBody } from "../../api/types.ts";
import { Journal } from "./Journal.tsx";
import { Output } from "./Output.tsx";
import { StepPanel } from "./StepPanel.tsx";
import { Details, Family, InOut, Logs } from "./Tabs.tsx";
import { Timeline } from "./Timeline.tsx";
import { useRun } from "./useRun.ts";
import { Failure, Why } from "./Why.tsx";

const ActDialog = lazy(async () => ({ default: (await import("../../acts/ActDialog.tsx")).ActDialog }));
const TABS = [["timeline", "Timeline"], ["journal", "Journal"], ["io", "Input & output"], ["output", "Live output"], ["family", "Family"], ["logs", "Logs"], ["details", "Details"]] as const;
/** How many acts have a button of their own; the others are in the menu. */
const BUTTONS = 4;

export function Run() {
  const { id } = useParams({ strict: false }) as { id: string };
  return <Open key={id} id={id} />;
}

function Open({ id }: { id: string }) {
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const { log: followed, state, refused, again } = useRun(id);
  const newest = useInLine(followed);
  // Laying out ten thousand steps must not hold up a key press.
  const log = useDeferredValue(newest);
  const [begun, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const steps = useMemo(() => stepsOf(log), [log]);
  const run = log.run;
  const tab = one(search.tab) ?? "timeline";
  // Few runs put anything out: whether this one does shows with its first chunk.
  const tabs = TABS.filter(([t]) => t !== "output" || log.outputs.size > 0 || tab === t);
  const chosen = one(search.step) ?? null;
  const set = (change: Search) => navigate({ to: "/runs/$id", params: { id }, search: { ...search, ...change } as never, replace: true });
  const choose = (step: string) => set({ step: step === chosen ? undefined : step });
  const acts = useMemo(() => (run ? actsOn(run, steps) : []), [run, steps]);
  // What was begun keeps up with the run: its steps may come after it was opened.
  const act = begun && (acts.find((a) => a.id === begun.id) ?? begun);
  const told = useMemo(() => why(log), [log]);
  const step = steps.find((s) => s.id === chosen);
  const press = (key: string) => () => { const found = acts.find((a) => a.key === key); if (found) setAct(found); };
  useShortcuts({
    t: () => set({ tab: undefined }), j: () => set({ tab: "journal" }), i: () => set({ tab: "io" }), o: () => { if (log.outputs.size) set({ tab: "output" }); },
    n: press("n"), s: press("s"), c: press("c"), r: press("r"), Escape: () => { if (chosen) set({ step: undefined }); },
  });
  useEffect(() => { if (run) document.title = `${word(run.status)}: ${run.key ?? run.function} · Stepwell`; }, [run?.status, run?.key, run?.function]);

  if (refused) return <div className="mx-auto max-w-xl p-6"><Failed error={refused} /><Link to="/runs" className="btn">All runs</Link></div>;
  if (!run) return state === "lost" ? <div className="p-6 text-dim" role="status">The gateway does not answer. The run is read as soon as it does.</div> : <Loading what="the run" rows={10} />;
  return (
    <div className="flex h-full min-h-0 flex-col">
      <header className="flex flex-wrap items-start gap-x-6 gap-y-2 px-4 pt-3">
        <div className="min-w-0 flex-1">
          <p className="text-[13px] text-dim"><Link to="/runs">Runs</Link> / <Link to="/runs" search={{ function: run.function } as never}>{run.function}</Link></p>
          <h1 className="breaks line-clamp-2" title={run.key ?? undefined}>{run.key ?? run.function}</h1>
          <div className="mt-0.5 flex flex-wrap items-center gap-x-4 gap-y-0.5"><span aria-live="polite" className="inline-flex"><Status status={run.status} large /></span><Times run={run} />
            <span className="inline-flex items-center text-[13px] text-dim"><code>{run.id}</code><CopyButton text={run.id} label="Copy the run's id" /></span>
            <Cause log={log} />
            {state === "lost" && <span className="inline-flex items-center gap-1.5 text-bad" role="status"><WifiOff size={14} aria-hidden />Connection lost, trying again</span>}
          </div>
        </div>
        <div className="flex flex-wrap gap-2">
          <Menu acts={acts} front={BUTTONS} onAct={setAct} />
        </div>
      </header>
      {told && told.lines.length > 0 && <Why run={run} why={told} acts={acts} onAct={setAct} />}
      <Failure run={run} />
      <div role="tablist" aria-label="About the run" className="mt-3 flex gap-1 overflow-x-auto border-b px-4" onKeyDown={(e) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
        if (!by) return;
        const next = tabs[(tabs.findIndex(([t]) => t === tab) + by + tabs.length) % tabs.length]![0];
        set({ tab: next === "timeline" ? undefined : next });
        document.getElementById(`tab-${next}`)?.focus();
      }}>
        {tabs.map(([t, name]) => (
          <button key={t} id={`tab-${t}`} type="button" role="tab" aria-selected={tab === t} aria-controls="panel" tabIndex={tab === t ? 0 : -1} onClick={() => set({ tab: t === "timeline" ? undefined : t })}
            className="whitespace-nowrap border-b-2 border-transparent px-2.5 py-1.5 text-dim hover:text-fg aria-selected:border-accent aria-selected:font-semibold aria-selected:text-accent">
            {name}{t === "logs" && log.logs.length ? ` (${log.logs.length.toLocaleString("en")})` : ""}
          </button>
        ))}
      </div>
      <div className="flex min-h-0 flex-1 max-lg:flex-col max-lg:overflow-auto">
        <div id="panel" role="tabpanel" aria-labelledby={`tab-${tab}`} className="min-w-0 flex-1 lg:overflow-auto">{panel(tab)}</div>
        {chosen && step && (tab === "timeline" || tab === "journal") && <StepPanel key={step.id} run={run} step={step} steps={steps} onAct={setAct} onClose={() => set({ step: undefined })} />}
      </div>
      {act && <Suspense><ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => {
        setAct(null);
        say(words);
        // What has ended is not followed any more; after an act it may go on.
        if (isEnded(run.status)) again();
      }} /></Suspense>}
      {said}
    </div>
  );

  function panel(which: string): ReactNode {
    switch (which) {
      case "journal": return <Journal run={run!} log={log} steps={steps} form={one(search.form) ?? "compact"} onForm={(form) => set({ form: form === "compact" ? undefined : form })} chosen={chosen} onChoose={choose} />;
      case "io": return <InOut run={run!} />;
      case "output": return <Output run={run!} log={log} name={one(search.output)} onName={(output) => set({ output })} form={one(search.as) === "chunks" ? "chunks" : "text"} onForm={(as) => set({ as: as === "text" ? undefined : as })} />;
      case "family": return <Family run={run!} />;
      case "logs": return <Logs log={log} />;
      case "details": return <Details run={run!} log={log} />;
      default: return <Timeline log={log} steps={steps} chosen={chosen} onChoose={choose} />;
    }
  }
}

/** Who goes before a queued run is no change of the run: it is asked for. */
function useInLine(log: RunLog): RunLog {
  const { paused } = usePrefs();
  const queued = log.run?.status === "queued";
  const asked = useQuery({
    queryKey: ["runs", "in line", log.run?.id], enabled: queued, refetchInterval: paused ? false : 2000, gcTime: 0,
    queryFn: ({ signal }) => data<RunBody>(read("/v1/runs/{id}", { params: { path: { id: log.run!.id } }, signal })),
  });
  const attention = queued && asked.data?.status === "queued" ? asked.data.attention : undefined;
  return useMemo(() => (attention ? { ...log, run: { ...log.run!, attention } } : log), [log, attention]);
}

/** Where it comes from, and which generation of it this is. */
function Cause({ log }: { log: RunLog }) {
  const run = log.run!;
  const cause = causeOf(log.history[0]?.type === "run.created" ? log.history[0].by : undefined);
  const to = "text-[13px]";
  return (
    <>
      {run.generation > 1 && <Link to="/runs/$id" params={{ id: run.id }} search={{ tab: "details" } as never} className={to} title="It has continued as new: its journal began anew.">Generation {run.generation}</Link>}
      {cause && "event" in cause && <span className={`${to} text-dim`}>started by <Link to="/events/$id" params={{ id: cause.event }}>an event</Link></span>}
      {run.parent && <span className={`${to} text-dim`}>started by <Link to="/runs/$id" params={{ id: run.parent }}>a run</Link></span>}
      {run.rerun_of && <span className={`${to} text-dim`}>does <Link to="/runs/$id" params={{ id: run.rerun_of }}>another</Link> again</span>}
    </>
  );
}

function Times({ run }: { run: RunBody }) {
  const now = useNow();
  const took = duration((run.ended_at ? Date.parse(run.ended_at) : now) - Date.parse(run.created_at));
  return <span className="text-dim">{run.started_at ? "Started" : "Accepted"} <Ago at={run.started_at ?? run.created_at} />{run.status === "scheduled" ? null : <>, {run.ended_at ? "took" : "for"} <span className="tnum">{took}</span></>}</span>;
}
