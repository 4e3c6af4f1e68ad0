// The journal: a line for each step, everything that happened, or the JSON of it.
import { useVirtualizer } from "@tanstack/react-virtual";
import { ChevronDown, ChevronRight, Download } from "lucide-react";
import { useMemo, useRef, useState } from "react";
import { request } from "../../api/client.ts";
import type { History, Run } from "../../api/types.ts";
import { Json, save } from "../../json/Json.tsx";
import { visible } from "../../json/text.ts";
import { told, type RunLog } from "../../run/log.ts";
import { errorOf, type StepLine } from "../../run/steps.ts";
import { bytes, duration } from "../../run/time.ts";
import { Failed, Loading, Nothing } from "../../ui/bits.tsx";
import { Moment } from "../../ui/Time.tsx";
import { StepIcon } from "./StepIcon.tsx";

const FORMS = [["compact", "Compact"], ["full", "Full"], ["json", "JSON"]] as const;

export function Journal({ run, log, steps, form, onForm, chosen, onChoose }: { run: Run; log: RunLog; steps: StepLine[]; form: string; onForm: (form: string) => void; chosen: string | null; onChoose: (id: string) => void }) {
  const [text, setText] = useState("");
  const [newest, setNewest] = useState(false);
  return (
    <div className="px-4 py-3">
      <div className="mb-2 flex flex-wrap items-center gap-2">
        <div role="group" aria-label="Form" className="flex overflow-hidden rounded-md border border-edge">
          {FORMS.map(([id, name]) => <button key={id} type="button" aria-pressed={form === id} onClick={() => onForm(id)} className="px-3 py-1 hover:bg-hover aria-pressed:bg-accent-bg aria-pressed:font-semibold aria-pressed:text-accent">{name}</button>)}
        </div>
        {form !== "json" && <>
          <input type="search" aria-label="Filter the journal" className="field min-w-40 flex-1" placeholder={form === "full" ? "Type, step or text" : "Step or text"} value={text} onChange={(e) => setText(e.target.value)} />
          <label className="flex items-center gap-1.5 text-dim"><input type="checkbox" checked={newest} onChange={(e) => setNewest(e.target.checked)} />Newest first</label>
        </>}
      </div>
      {form === "json" ? <Whole run={run} /> : form === "full" ? <Full log={log} text={text} newest={newest} /> : <Compact caught={log.caught} steps={steps} text={text} newest={newest} chosen={chosen} onChoose={onChoose} />}
    </div>
  );
}

const order = <T,>(items: T[], newest: boolean) => (newest ? [...items].reverse() : items);

/** What a step gave, on one line. */
export function peek(step: StepLine): string {
  if (step.entry?.error) { const { type, message } = errorOf(step.entry.error); return `${type}: ${message}`; }
  if (step.entry?.ref) return bytes(step.entry.ref.bytes);
  const value = step.entry?.value;
  return value && value !== "null" ? value.slice(0, 200) : "";
}

function Compact({ caught, steps, text, newest, chosen, onChoose }: { caught: boolean; steps: StepLine[]; text: string; newest: boolean; chosen: string | null; onChoose: (id: string) => void }) {
  const scroll = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => order(steps.filter((s) => !text || `${s.id} ${s.op} ${peek(s)}`.toLowerCase().includes(text.toLowerCase())), newest), [steps, text, newest]);
  const virtual = useVirtualizer({ count: shown.length, getScrollElement: () => scroll.current, estimateSize: () => 32, overscan: 15 });
  if (!shown.length && !caught) return <Loading what="the journal" />;
  if (!shown.length) return <Nothing title={steps.length ? "No step is like this." : "No step is recorded yet."} />;
  return (
    <div ref={scroll} className="max-h-[64vh] overflow-auto rounded-lg border">
      <ol className="relative" style={{ height: virtual.getTotalSize() }}>
        {virtual.getVirtualItems().map((item) => {
          const step = shown[item.index]!;
          return (
            <li key={step.id} className="absolute inset-x-0" style={{ height: 32, transform: `translateY(${item.start}px)` }}>
              <button type="button" aria-pressed={chosen === step.id} onClick={() => onChoose(step.id)}
                className="grid h-full w-full grid-cols-[44px_20px_minmax(0,28%)_72px_minmax(0,1fr)_70px] items-center gap-2 border-b px-3 text-left hover:bg-hover focus-visible:-outline-offset-2 aria-pressed:bg-accent-bg">
                <span className="tnum text-right text-xs text-dim">{step.entry?.seq ?? "…"}</span><StepIcon step={step} />
                <code className="truncate">{step.id}</code><span className="truncate text-[13px] text-dim">{step.op}</span>
                <code className={`truncate ${step.state === "failed" ? "text-bad" : "text-dim"}`}>{visible(peek(step))}</code>
                <span className="tnum text-right text-[13px] text-dim">{step.ms > 0 ? duration(step.ms) : ""}</span>
                <span className="sr-only">{step.state}</span>
              </button>
            </li>
          );
        })}
      </ol>
    </div>
  );
}

/** What happened, in a few words of our own. */
export function inShort(entry: History): string {
  const t = told(entry);
  const bits = [t.step && t.op ? `${t.op} ${t.step}` : (t.step ?? t.name), t.attempt ? `attempt ${t.attempt}` : null, t.generation ? `generation ${t.generation}` : null, t.status ? `status ${t.status}` : null, t.detail,
    t.duration_ms ? duration(t.duration_ms) : null, t.ms ? duration(t.ms) : null, t.attention?.detail, t.reason];
  return bits.filter(Boolean).join(", ");
}

function Full({ log, text, newest }: { log: RunLog; text: string; newest: boolean }) {
  const [open, setOpen] = useState<ReadonlySet<number>>(new Set());
  const scroll = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => order(log.history.filter((h) => !text || `${h.type} ${h.by} ${h.data ?? ""}`.toLowerCase().includes(text.toLowerCase())), newest), [log.history, text, newest]);
  const virtual = useVirtualizer({ count: shown.length, getScrollElement: () => scroll.current, estimateSize: () => 32, overscan: 12, getItemKey: (i) => shown[i]!.n });
  if (!shown.length && !log.caught) return <Loading what="the history" />;
  if (!shown.length) return <Nothing title={log.history.length ? "Nothing is like this." : "Nothing has happened yet."} />;
  return (
    <div ref={scroll} className="max-h-[64vh] overflow-auto rounded-lg border" data-testid="history">
      <ol className="relative" style={{ height: virtual.getTotalSize() }}>
        {virtual.getVirtualItems().map((item) => {
          const entry = shown[item.index]!;
          const more = entry.data !== null && entry.data !== "{}";
          const isOpen = open.has(entry.n);
          const toggle = () => setOpen((was) => { const now = new Set(was); if (!now.delete(entry.n)) now.add(entry.n); return now; });
          return (
            <li key={entry.n} ref={virtual.measureElement} data-index={item.index} className="absolute inset-x-0 border-b" style={{ transform: `translateY(${item.start}px)` }}>
              <button type="button" disabled={!more} aria-expanded={more ? isOpen : undefined} onClick={toggle} className="grid min-h-[31px] w-full grid-cols-[14px_176px_150px_minmax(0,1fr)_minmax(0,120px)] items-center gap-2 px-3 py-1 text-left enabled:hover:bg-hover disabled:opacity-100 focus-visible:-outline-offset-2 max-lg:grid-cols-[14px_minmax(0,1fr)_minmax(0,1fr)]">
                {more ? isOpen ? <ChevronDown size={13} aria-hidden /> : <ChevronRight size={13} aria-hidden /> : <span />}
                <span className="text-[13px] text-dim max-lg:hidden"><Moment at={entry.at} /></span>
                <code className="truncate">{entry.type}</code><span className="truncate text-dim">{visible(inShort(entry))}</span>
                <span className="truncate text-right text-[13px] text-dim max-lg:hidden">{visible(entry.by)}, epoch {entry.epoch}</span>
              </button>
              {isOpen && entry.data && <div className="px-8 pb-2"><Json raw={entry.data} name={entry.type} /></div>}
            </li>
          );
        })}
      </ol>
    </div>
  );
}

/** Everything, as a file: it is not read into the page unless it is asked for. */
function Whole({ run }: { run: Run }) {
  const [text, setText] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const get = async (then: (text: string) => void) => {
    try { setError(null); then(await (await request(`/v1/runs/${run.id}/export`)).text()); } catch (problem) { setError(problem); }
  };
  return (
    <div>
      <p className="mb-2 text-dim">One document with everything about the run, as <code>stepwell run export</code> prints it and <code>stepwell replay</code> reads it.</p>
      <div className="mb-3 flex gap-2">
        <button type="button" className="btn" onClick={() => get(setText)}>Show it here</button>
        <button type="button" className="btn" onClick={() => get((all) => save(all, `${run.id}.json`))}><Download size={14} aria-hidden />Download</button>
      </div>
      {error !== null && <Failed error={error} />}
      {text !== null && <Json raw={text} name={run.id} tall />}
    </div>
  );
}
