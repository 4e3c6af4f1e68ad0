// What a run puts out on its output streams, as it comes. Nothing moves under somebody who reads.
import { useVirtualizer } from "@tanstack/react-virtual";
import { ArrowDown, Download, WrapText } from "lucide-react";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import type { Run } from "../../api/types.ts";
import { save } from "../../json/Json.tsx";
import { visible } from "../../json/text.ts";
import type { RunLog } from "../../run/log.ts";
import { layout, whole, type Form, type Output as Stream } from "../../run/output.ts";
import { isEnded } from "../../run/status.ts";
import { bytes } from "../../run/time.ts";
import { CopyButton, Kbd, Loading, Nothing } from "../../ui/bits.tsx";
import { usePrefs } from "../../ui/prefs.ts";
import { Moment } from "../../ui/Time.tsx";

/** How far from its end one may be and still be at the end. */
const NEAR = 8;
const LINE = 20;
/** How wide a character is, about: a guess at the height of rows that nobody has seen. */
const CHARACTER = 7.8;
/** What a row has beside its text: its edges, and the moment of its chunk. */
const BESIDE = { text: 24, chunks: 136 };

const many = (n: number, word: string) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

export function Output({ run, log, name, onName, form, onForm }: { run: Run; log: RunLog; name: string | undefined; onName: (name: string) => void; form: Form; onForm: (form: Form) => void }) {
  const streams = [...log.outputs.values()];
  const stream = streams.find((s) => s.name === name) ?? (name === undefined || log.caught ? streams[0] : undefined);
  if (!stream) {
    if (!log.caught) return <Loading what="the output" />;
    if (run.erased_at) return <Nothing title="What this run has put out was erased." />;
    return <Nothing title={isEnded(run.status) ? "It has put nothing out." : "It has put nothing out so far."}>A handler puts a piece out on a stream with <code>{`{"op": "chunk", "stream": "…", "data": …}`}</code>.</Nothing>;
  }
  return (
    <div className="flex flex-col px-4 py-3 max-lg:h-[75dvh] lg:h-full">
      {streams.length > 1 && (
        <div role="group" aria-label="Output streams" className="mb-2 flex shrink-0 gap-1 overflow-x-auto pb-1">
          {streams.map((s) => (
            <button key={s.name} type="button" aria-pressed={s === stream} onClick={() => onName(s.name)} className="btn max-w-60 aria-pressed:border-accent aria-pressed:bg-accent-bg aria-pressed:font-semibold aria-pressed:text-accent">
              <code className="truncate">{visible(s.name)}</code><span className="tnum text-[13px] font-normal text-dim">{s.count.toLocaleString("en")}</span>
            </button>
          ))}
        </div>
      )}
      <Reader key={`${stream.name} ${form}`} stream={stream} form={form} onForm={onForm} run={run} caught={log.caught} alone={streams.length === 1} />
    </div>
  );
}

function Reader({ stream, form, onForm, run, caught, alone }: { stream: Stream; form: Form; onForm: (form: Form) => void; run: Run; caught: boolean; alone: boolean }) {
  const { paused } = usePrefs();
  const ended = isEnded(run.status);
  const box = useRef<HTMLDivElement>(null);
  const [wrap, setWrap] = useState(true);
  // What has ended is read from its beginning, and nothing in it is new.
  /** How many chunks there were when the reader left the end; null: what comes is followed. */
  const [left, setLeft] = useState<number | null>(ended ? Infinity : null);
  const before = useRef({ top: 0, rest: 0 });
  const lay = useMemo(() => layout(form), [form]);
  const rows = lay(stream);
  const [columns, setColumns] = useState(Infinity);
  const virtual = useVirtualizer({
    count: rows.length, getScrollElement: () => box.current, overscan: 20,
    estimateSize: (i) => LINE * (wrap ? Math.max(1, Math.ceil(rows[i]!.text.length / columns)) : 1),
  });
  // Rows out of sight have another height too.
  useEffect(() => virtual.measure(), [wrap, columns, virtual]);
  const height = virtual.getTotalSize();
  const rest = () => box.current!.scrollHeight - box.current!.clientHeight - box.current!.scrollTop;

  useLayoutEffect(() => {
    const at = box.current!;
    if (left === null) {
      const chosen = getSelection();
      // Who has marked something reads it.
      if (chosen && !chosen.isCollapsed && at.contains(chosen.anchorNode)) setLeft(stream.count);
      else at.scrollTop = at.scrollHeight;
    }
    before.current = { top: at.scrollTop, rest: rest() };
  }, [height, stream.count, left]);

  // What is around it comes and goes with the state of the run.
  const follows = useRef(left === null);
  follows.current = left === null;
  useEffect(() => {
    const at = box.current!;
    const fit = new ResizeObserver(() => {
      setColumns(Math.max(1, Math.floor((at.clientWidth - BESIDE[form]) / CHARACTER)));
      if (follows.current) at.scrollTop = at.scrollHeight;
      before.current = { top: at.scrollTop, rest: rest() };
    });
    fit.observe(at);
    return () => fit.disconnect();
  }, [form]);

  const scrolled = () => {
    const [was, now] = [before.current, { top: box.current!.scrollTop, rest: rest() }];
    before.current = now;
    if (now.rest <= NEAR) setLeft(null);
    // Rows whose height becomes known move the scroll too, but not away from the end.
    else if (left === null && now.top < was.top && now.rest > was.rest) setLeft(stream.count);
  };
  const fresh = left === null ? 0 : Math.max(0, stream.count - left);
  const file = `${run.id}-${stream.name.replaceAll(/[^\w.-]+/g, "-")}`;
  const kind = form === "text" ? "text" : "JSON lines";
  return (
    <section aria-label={`Output ${visible(stream.name)}`} className="relative flex min-h-0 flex-1 flex-col overflow-hidden rounded-lg border">
      <div className="flex flex-wrap items-center gap-x-1 gap-y-1 border-b bg-panel px-2 py-1 text-[13px]">
        {alone && <code className="min-w-0 max-w-60 truncate px-1 font-semibold" title={visible(stream.name)}>{visible(stream.name)}</code>}
        <span className="tnum flex-1 whitespace-nowrap px-1 text-dim">{many(stream.count, "chunk")}, {bytes(stream.bytes)}</span>
        <span role="group" aria-label="Form" className="flex">
          {([["text", "Text", "Chunks that are text run on"], ["chunks", "Chunks", "Each chunk by itself, with its moment"]] as const).map(([f, word, title]) => (
            <button key={f} type="button" className="btn bare aria-pressed:bg-accent-bg aria-pressed:font-semibold aria-pressed:text-accent" aria-pressed={form === f} title={title} onClick={() => onForm(f)}>{word}</button>
          ))}
        </span>
        <button type="button" className="btn bare" aria-pressed={wrap} onClick={() => setWrap(!wrap)} aria-label="Wrap lines" title="Wrap lines"><WrapText size={14} aria-hidden className={wrap ? "text-accent" : ""} /></button>
        <CopyButton text={() => whole(stream, form)} label={`Copy all as ${kind}`} />
        <button type="button" className="btn bare" aria-label={`Download as ${kind}`} title={`Download as ${kind}`} onClick={() => save(whole(stream, form), `${file}.${form === "text" ? "txt" : "ndjson"}`, form === "text" ? "text/plain" : "application/x-ndjson")}><Download size={14} aria-hidden /></button>
      </div>
      <div ref={box} tabIndex={0} role="region" aria-label={`What came on ${visible(stream.name)}`} data-testid="output" onScroll={scrolled} onKeyDown={(e) => { if (e.key === "End") setLeft(null); }} className="min-h-0 flex-1 overflow-auto bg-bg py-1 font-mono text-[13px] focus-visible:-outline-offset-2">
        <div className="relative" style={{ height }}>
          {virtual.getVirtualItems().map((item) => {
            const row = rows[item.index]!;
            const chunk = stream.chunks[row.chunk]!;
            return (
              <div key={item.key} ref={virtual.measureElement} data-index={item.index} className={`absolute left-0 flex min-w-full px-3 ${wrap ? "w-full" : "w-max"} ${form === "chunks" && row.begins && item.index ? "border-t" : ""}`} style={{ transform: `translateY(${item.start}px)`, minHeight: LINE }}>
                {form === "chunks" && <span className="w-28 shrink-0 select-none text-dim max-sm:hidden" title={row.begins ? `Offset ${chunk.n}` : undefined}>{row.begins && <Moment at={chunk.at} clock />}</span>}
                <span className={`min-w-0 flex-1 ${wrap ? "breaks whitespace-pre-wrap" : "whitespace-pre"}`}>{visible(row.text)}</span>
              </div>
            );
          })}
        </div>
      </div>
      {left !== null && (fresh > 0 || !ended) && (
        <button type="button" className={`btn absolute bottom-11 left-1/2 z-10 -translate-x-1/2 rounded-full shadow-lg ${fresh > 0 ? "primary" : ""}`} onClick={() => { setLeft(null); box.current?.focus({ preventScroll: true }); }}>
          <ArrowDown size={14} aria-hidden />{fresh > 0 ? `${fresh.toLocaleString("en")} new` : "To the end"}
        </button>
      )}
      <p role="status" className="flex items-center gap-1.5 border-t bg-panel px-3 py-1 text-[13px] text-dim">
        {ended && caught ? "That is all: the run has ended." : paused ? <>Paused: what comes is shown when you go on <Kbd>P</Kbd></> : !caught ? "Reading what there is…" : left === null ? <span className="text-good">Live, at the end.</span> : "Live. It stays where you read."}
      </p>
    </section>
  );
}
