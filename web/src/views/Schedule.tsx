// One schedule: when it fires next, what its last moments came to, its runs, and what can be done.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { Hand } from "lucide-react";
import { useState } from "react";
import { actsOnSchedule, outcome, OVERLAP } from "../acts/schedule.ts";
import type { Act } from "../acts/act.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { data, read } from "../api/client.ts";
import type { Schedule as Body } from "../api/types.ts";
import { inWhole } from "../run/time.ts";
import { Json } from "../json/Json.tsx";
import { Facts, Failed, Id, Loading } from "../ui/bits.tsx";
import { Menu } from "../ui/Menu.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { Ago, Moment } from "../ui/Time.tsx";
import { pageOf, Row } from "./RunList.tsx";
import { OutcomeIcon, Rule, Standing, useFunctions } from "./Schedules.tsx";

/** Who let a moment come, beside the schedule itself. */
const BY: Record<string, string> = { trigger: "started by hand", backfill: "of a backfill" };

export function Schedule() {
  const { name } = useParams({ strict: false }) as { name: string };
  const { paused } = usePrefs();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const functions = useFunctions();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const every = paused ? false : 3000;
  const schedule = useQuery({ queryKey: ["schedule", name], queryFn: ({ signal }) => data<Body>(read("/v1/schedules/{schedule}", { params: { path: { schedule: name } }, signal })), refetchInterval: every });
  const id = schedule.data?.id;
  const runs = useQuery({ queryKey: ["runs", "of schedule", id], enabled: id !== undefined, queryFn: ({ signal }) => pageOf({ schedule: id }, null, signal, 8), refetchInterval: every });
  if (schedule.isError && !schedule.data) return <div className="p-4"><Failed error={schedule.error} again={() => schedule.refetch()} /><Link to="/schedules" className="btn">All schedules</Link></div>;
  if (!schedule.data) return <Loading what="the schedule" />;
  const s = schedule.data;
  const acts = actsOnSchedule(s, functions);
  const resume = acts.find((a) => a.id === "resume");
  const skipped = Object.values(s.counts.skipped).reduce((all, n) => all + n, 0);
  return (
    <div className="mx-auto max-w-6xl p-4">
      <p className="text-[13px] text-dim"><Link to="/schedules">Schedules</Link></p>
      <div className="flex flex-wrap items-center gap-x-4 gap-y-2"><h1 className="breaks">{s.name}</h1><Standing state={s.state} />
        <span className="flex flex-wrap gap-x-1.5"><span className="text-dim"><Rule of={s} />, starts</span><Link to="/functions/$name" params={{ name: s.function }}>{s.function}</Link></span>
        <div className="ml-auto flex flex-wrap gap-2"><Menu acts={acts} front={3} onAct={setAct} /></div>
      </div>
      {schedule.isError && <Failed error={schedule.error} />}
      {s.paused && (
        <section aria-label="Why it is paused" className="mt-3 flex gap-3 rounded-lg border border-warn bg-warn-bg px-4 py-3">
          <Hand size={18} aria-hidden className="mt-0.5 shrink-0 text-warn" />
          <div className="min-w-0 flex-1"><h2 className="breaks text-warn">{s.paused.note ?? "It is paused"}</h2><p>{s.paused.by === "gateway" ? "One of its runs failed" : <>By <code>{s.paused.by}</code></>}, <Ago at={s.paused.at} />. Moments go by without a run.</p></div>
          {resume && <button type="button" className="btn primary self-start" onClick={() => setAct(resume)}>Resume</button>}
        </section>
      )}
      {s.owned && <p className="mt-3 rounded-lg border bg-panel px-4 py-2">It is a trigger in the registration of <code>{s.function}</code>, and is changed and removed there.</p>}
      <div className="mt-5 grid gap-6 lg:grid-cols-[minmax(0,5fr)_minmax(0,4fr)]">
        <section aria-labelledby="moments" className="min-w-0"><h2 id="moments" className="mb-2">Last moments</h2>
          {!s.recent.length ? <p className="text-dim">None has come yet.</p> : (
            <ul aria-label="Last moments" className="overflow-hidden rounded-lg border">{s.recent.map((r) => (
              <li key={r.time + r.by + (r.run ?? r.at)} className="flex flex-wrap items-center gap-x-3 border-b px-3 py-1.5 last:border-b-0">
                <OutcomeIcon of={r} /><span className="min-w-0 flex-1">{outcome(r)}{BY[r.by] && <span className="text-dim">, {BY[r.by]}</span>}</span>
                {r.run && <Link to="/runs/$id" params={{ id: r.run }}><code>…{r.run.slice(-8)}</code></Link>}
                <span className="text-[13px] text-dim"><Moment at={r.time} /></span>
              </li>))}
            </ul>)}
          <p className="mt-1 text-[13px] text-dim">{s.counts.started.toLocaleString("en")} started in all{s.counts.missed ? `, ${s.counts.missed.toLocaleString("en")} missed` : ""}{skipped ? `, ${skipped.toLocaleString("en")} skipped` : ""}.{s.waiting ? ` ${s.waiting} wait${s.waiting === 1 ? "s" : ""} for a run to end.` : ""}</p>
        </section>
        <section aria-labelledby="next" className="min-w-0"><h2 id="next" className="mb-2">Coming</h2>
          {!s.next.length ? <p className="text-dim">No moment is to come.</p> : (
            <ol aria-label="Coming moments" className="overflow-hidden rounded-lg border">{s.next.map((m) => <li key={m.time} className="flex gap-3 border-b px-3 py-1.5 last:border-b-0"><span className={`w-24 ${s.paused ? "text-dim line-through" : ""}`}><Ago at={m.fires_at} /></span><span className="flex-1 text-right text-[13px] text-dim"><Moment at={m.fires_at} /></span></li>)}</ol>)}
          {s.backfills.map((b) => <p key={b.until} role="status" className="mt-2 rounded-lg border px-3 py-1.5">A backfill is under way: decided up to <Moment at={b.upto} />, of what is until <Moment at={b.until} />.</p>)}
        </section>
      </div>
      <section aria-labelledby="runs" className="mt-6"><h2 id="runs" className="mb-2 flex items-baseline gap-3">Its runs <Link to="/runs" search={{ schedule: s.id } as never} className="text-[13px] font-normal">All of them</Link></h2>
        {runs.isError ? <Failed error={runs.error} /> : !runs.data ? <Loading what="the runs" rows={3} /> : !runs.data.data.length ? <p className="text-dim">It has started none yet.</p>
          : <ul className="overflow-hidden rounded-lg border [&>li:last-child_a]:border-b-0">{runs.data.data.map((run) => <li key={run.id} className="h-10"><Row run={run} /></li>)}</ul>}
      </section>
      <div className="mt-6 grid gap-6 lg:grid-cols-2">
        <section aria-labelledby="facts" className="min-w-0"><h2 id="facts" className="mb-2">Facts</h2><Facts facts={[
          ["Id", <Id id={s.id} />], ["Expression", s.cron && <code>{s.cron}</code>], ["Time zone", s.time_zone], ["Every", s.every && inWhole(s.every)], ["Counted from", s.anchor && <Moment at={s.anchor} />],
          ["While a run is live", OVERLAP.find((o) => o.value === s.overlap)?.detail ?? s.overlap], ["At once", s.max_running > 1 && `up to ${s.max_running} runs`], ["Jitter", s.jitter !== "0s" && `up to ${inWhole(s.jitter)}`],
          ["Too late after", inWhole(s.catchup_window)], ["Begins", s.start_at && <Moment at={s.start_at} />], ["Ends", s.end_at && <Moment at={s.end_at} />],
          ["Starts left", s.remaining_actions !== null && s.remaining_actions !== undefined && `${s.remaining_actions} of ${s.limited_actions}`], ["A run fails", s.pause_on_failure && "it is paused"],
          ["Tags", Object.keys(s.tags).length > 0 && Object.entries(s.tags).map(([k, v]) => <code key={k} className="mr-3">{k}={v}</code>)], ["Deployment", s.version && <Id id={s.version} />],
          ["Created", <><Moment at={s.created_at} /> by <code>{s.created_by}</code></>]]} /></section>
        <section aria-labelledby="input" className="min-w-0"><h2 id="input" className="mb-2">Input of its runs</h2><Json raw={s.input ?? "null"} name="input" /></section>
      </div>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words, answer) => {
        const renamed = act.id === "edit" ? (answer as Body).name : name;
        setAct(null);
        say(words);
        void queries.invalidateQueries({ queryKey: ["schedules"] });
        if (act.id === "delete") void navigate({ to: "/schedules" });
        else if (renamed !== name) void navigate({ to: "/schedules/$name", params: { name: renamed }, replace: true });
        else void queries.invalidateQueries({ queryKey: ["schedule"] });
      }} />}
      {said}
    </div>
  );
}
