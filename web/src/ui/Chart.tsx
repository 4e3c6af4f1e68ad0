// A chart over time, with its values in words beside it: at the moment under the pointer, or the last.
import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { latest, type Line } from "../run/series.ts";
import { absolute } from "../run/time.ts";
import { usePrefs } from "./prefs.ts";

/** A line: its colour is a variable of the theme, and it differs in its dashes too. */
export type Curve = { name: string; line: Line; colour: string; dash?: number[] };

const HEIGHT = 150;
const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function Chart({ title, unit, at, curves, say }: { title: string; unit: string; at: number[]; curves: Curve[]; say: (n: number) => string }) {
  const { utc } = usePrefs();
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [under, setUnder] = useState<number | null>(null);
  const names = curves.map((c) => c.name).join("\n");
  useEffect(() => {
    const axis = { stroke: () => css("--dim"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const chart = new uPlot({
      width: box.current!.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      ...(utc ? { tzDate: (ts: number) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC") } : {}),
      scales: { y: { range: (_, __, max) => [0, Math.max(max * 1.1, Number.MIN_VALUE) || 1] } },
      padding: [8, 26, 0, 0],
      axes: [{ ...axis, size: 26, gap: 4, space: 80, values: [[86_400, "{D}. {M}.", null, null, null, null, null, null, 1], [3600, "{HH}:{mm}", null, null, null, null, null, null, 1], [60, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1]] },
        { ...axis, size: 62, values: (_, ticks) => ticks.map((n) => say(n)) }],
      series: [{}, ...curves.map((c) => ({ label: c.name, stroke: () => css(c.colour), width: 2, points: { show: false }, ...(c.dash ? { dash: c.dash } : {}) }))],
      hooks: { setCursor: [(u) => setUnder(u.cursor.idx ?? null)] },
    }, [at, ...curves.map((c) => c.line)] as uPlot.AlignedData, box.current!);
    plot.current = chart;
    const fit = new ResizeObserver(() => { if (box.current) chart.setSize({ width: box.current.clientWidth, height: HEIGHT }); });
    fit.observe(box.current!);
    const theme = new MutationObserver(() => chart.redraw());
    theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => { fit.disconnect(); theme.disconnect(); chart.destroy(); plot.current = null; };
    // The data follow below; another set of lines is another chart.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [names, utc]);
  useEffect(() => { plot.current?.setData([at, ...curves.map((c) => c.line)] as uPlot.AlignedData); }, [at, curves]);
  const value = (line: Line) => { const n = under === null ? latest(line) : (line[under] ?? null); return n === null ? "–" : say(n); };
  const moment = under !== null && at[under] !== undefined ? absolute(new Date(at[under] * 1000).toISOString(), utc).replace(/\.\d+/, "") : null;
  return (
    <section aria-label={title} className="min-w-0 rounded-lg border px-3 pb-1 pt-2">
      <h2 className="flex flex-wrap items-baseline gap-x-2">{title}<span className="text-[13px] font-normal text-dim">{moment ?? unit}</span></h2>
      <ul className="mb-1 mt-0.5 flex flex-wrap gap-x-4 text-[13px]">{curves.map((c) => (
        <li key={c.name} className="inline-flex items-center gap-1.5"><svg aria-hidden width="18" height="6" className="shrink-0"><line x1="0" y1="3" x2="18" y2="3" stroke={`var(${c.colour})`} strokeWidth="2.5" strokeDasharray={c.dash?.join(" ")} /></svg>
          <span className="text-dim">{c.name}</span><span className="tnum font-medium">{value(c.line)}</span></li>))}</ul>
      <div ref={box} aria-hidden className="overflow-hidden" />
    </section>
  );
}
