// What took how long: a row for the run, one for each step; bars differ in pattern and in colour.
import { useVirtualizer } from "@tanstack/react-virtual";
import { useMemo, useRef, useState } from "react";
import type { Run } from "../../api/types.ts";
import { visible } from "../../json/text.ts";
import { askOf } from "../../run/ask.ts";
import type { RunLog } from "../../run/log.ts";
import { isAttempted, type StepLine } from "../../run/steps.ts";
import { axis, busy, place, runRow, stepRow, ticks, type Kind, type Piece, type TimeRow } from "../../run/timeline.ts";
import { duration } from "../../run/time.ts";
import { isEnded } from "../../run/status.ts";
import { Loading } from "../../ui/bits.tsx";
import { StepIcon } from "./StepIcon.tsx";
import { useNow } from "../../ui/Time.tsx";

export const KINDS: [Kind, string][] = [["queue", "queued"], ["execute", "at work"], ["fail", "failed attempt"], ["backoff", "waits for the next attempt"], ["wait", "waits for a timer or the world"]];
const NAMES = Object.fromEntries(KINDS) as Record<Kind, string>;
const ROW = 30;

export function Timeline({ log, steps, chosen, onChoose }: { log: RunLog; steps: StepLine[]; chosen: string | null; onChoose: (id: string) => void }) {
  const clock = useNow();
  const [fold, setFold] = useState(true);
  const scroll = useRef<HTMLDivElement>(null);
  const run = log.run!;
  const newest = log.history.length ? Date.parse(log.history.at(-1)!.at) : 0;
  // This machine's clock may lag behind the gateway's.
  const now = isEnded(run.status) ? Date.parse(run.ended_at!) : Math.max(clock, newest);
  const rows = useMemo(() => [runRow(log, now), ...steps.map((step) => stepRow(step, now))], [log, steps, now]);
  const pieces = useMemo(() => axis({ from: rows[0]!.from, to: rows.reduce((to, r) => Math.max(to, r.to), rows[0]!.to) }, busy(rows), fold), [rows, fold]);
  const folds = pieces.filter((p) => p.folded);
  const foldable = useMemo(() => fold ? folds.length > 0 : axis({ from: pieces[0]!.from, to: pieces.at(-1)!.to }, busy(rows), true).some((p) => p.folded), [fold, folds.length, pieces, rows]);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => scroll.current, estimateSize: () => ROW, overscan: 15 });
  const many = rows.length > 30;
  return (
    <div className="px-4 py-3">
      <div className="mb-2 flex flex-wrap items-center gap-x-4 gap-y-1 text-[13px] text-dim">
        {KINDS.map(([kind, name]) => <span key={kind} className="whitespace-nowrap"><span aria-hidden className={`bar sample ${kind} mr-1.5`} />{name}</span>)}
        {foldable && <label className="ml-auto flex items-center gap-1.5 whitespace-nowrap"><input type="checkbox" checked={fold} onChange={(e) => setFold(e.target.checked)} />Fold idle gaps</label>}
      </div>
      <div className="overflow-hidden rounded-lg border">
        <div className="grid grid-cols-[minmax(130px,36%)_minmax(0,1fr)_76px] border-b bg-panel text-xs text-dim">
          <span className="truncate px-3 py-1">{!log.caught && run.steps.settled > steps.length ? `${steps.length.toLocaleString("en")} of ${(run.steps.settled + run.steps.pending).toLocaleString("en")} steps…` : `${steps.length.toLocaleString("en")} step${steps.length === 1 ? "" : "s"}`}</span>
          <Axis pieces={pieces} />
          <span className="px-3 py-1 text-right">time</span>
        </div>
        <div ref={scroll} className="overflow-auto" style={{ maxHeight: many ? "62vh" : undefined }} data-testid="timeline">
          <ul aria-label="Timeline" className="relative" style={{ height: virtual.getTotalSize() }}>
            {virtual.getVirtualItems().map((item) => {
              const row = rows[item.index]!;
              const step = item.index ? steps[item.index - 1]! : null;
              return (
                <li key={item.key} className="absolute inset-x-0" style={{ height: ROW, transform: `translateY(${item.start}px)` }}>
                  <Row row={row} step={step} run={run} pieces={pieces} chosen={step !== null && chosen === step.id} onChoose={onChoose} />
                </li>
              );
            })}
          </ul>
        </div>
      </div>
      {!steps.length && !log.caught && <Loading what="the steps" rows={3} />}
      {!steps.length && log.caught && <p className="mt-2 text-dim">{isEnded(run.status) ? "It ended without a step." : "No step is recorded yet."}</p>}
    </div>
  );
}

/** Further to the right a label has no room. */
const ROOM = 0.9;

function Axis({ pieces }: { pieces: Piece[] }) {
  return (
    <span className="relative overflow-hidden" aria-hidden>
      {pieces.filter((p) => p.folded).map((p) => <span key={p.from} className="fold" style={{ left: `${p.left * 100}%`, width: `${p.width * 100}%` }} title={`${duration(p.to - p.from)} without work`} />)}
      {ticks(pieces, 6).map((t) => ({ ...t, label: t.at ? duration(t.at) : "0" })).filter((t, i, all) => t.label !== all[i - 1]?.label)
        .map((t) => <span key={t.at} className="tnum absolute top-1 whitespace-nowrap border-l pl-1" style={{ left: `${t.left * 100}%` }}>{t.left < ROOM && t.label}</span>)}
    </span>
  );
}

/** Which task, call or event it is, where its id does not say it. */
function about(step: StepLine): string {
  const name = askOf(step.request)?.about;
  return name && !step.id.includes(name) ? ` ${visible(name)}` : "";
}

function Row({ row, step, run, pieces, chosen, onChoose }: { row: TimeRow; step: StepLine | null; run: Run; pieces: Piece[]; chosen: boolean; onChoose: (id: string) => void }) {
  const told = row.segments.filter((s) => s.to > s.from || s.kind === "fail" || s.kind === "execute").map((s) => `${NAMES[s.kind]} ${duration(s.to - s.from)}`).join(", ");
  const body = (
    <>
      <span className="flex min-w-0 items-center gap-2 px-3">
        {step ? <StepIcon step={step} /> : null}
        {/* What kind of step it is goes, whole, where there is no room for it. */}
        <span className="flex h-5 min-w-10 flex-1 flex-wrap content-start items-baseline gap-x-2 overflow-hidden">
          <span className={`max-w-full truncate ${step ? "font-mono text-[13px]" : "font-semibold"}`} title={step?.id}>{step ? step.id : run.generation > 1 ? `Run, generation ${run.generation}` : "Run"}</span>
          {step && step.op !== "run" && <span className="min-w-12 flex-1 basis-0 truncate text-xs text-dim">{step.op}{isAttempted(step.op) || step.op === "event" ? about(step) : ""}</span>}
        </span>
        {step && step.failures.length > 0 && <span className="whitespace-nowrap text-xs text-warn">{step.failures.length} failed</span>}
      </span>
      <span className="relative overflow-hidden" aria-hidden>
        {pieces.filter((p) => p.folded).map((p) => <span key={p.from} className="fold" style={{ left: `${p.left * 100}%`, width: `${p.width * 100}%` }} />)}
        {row.segments.map((s, i) => {
          const left = place(pieces, s.from);
          return <span key={i} className={`bar ${s.kind}`} title={`${NAMES[s.kind]}${s.attempt ? `, attempt ${s.attempt}` : ""}: ${duration(s.to - s.from)}`} style={{ left: `min(${left * 100}%, 100% - 2px)`, width: `${(place(pieces, s.to) - left) * 100}%` }} />;
        })}
      </span>
      <span className="tnum self-center px-3 text-right text-[13px] text-dim">{duration(row.to - row.from)}</span>
      <span className="sr-only">{step ? `${step.state}. ` : `${run.status}. `}{told}</span>
    </>
  );
  const look = "grid h-full w-full grid-cols-[minmax(130px,36%)_minmax(0,1fr)_76px] border-b text-left";
  if (!step) return <div className={`${look} items-stretch bg-panel`}>{body}</div>;
  return <button type="button" aria-pressed={chosen} onClick={() => onChoose(step.id)} className={`${look} items-stretch hover:bg-hover focus-visible:-outline-offset-2 aria-pressed:bg-accent-bg`}>{body}</button>;
}
