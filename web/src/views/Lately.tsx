// How a function does: of its last runs that ended how many came through, and how long they took.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { data, read } from "../api/client.ts";
import type { ListedRun, Page } from "../api/types.ts";
import { lately, percent, type Lately as Told } from "../run/lately.ts";
import { word } from "../run/status.ts";
import { duration } from "../run/time.ts";
import { usePrefs } from "../ui/prefs.ts";

/** So many are looked at: the longest page there is. */
const LOOK = 200;
const [WIDTH, HEIGHT, GAP] = [5, 34, 2];

export function Lately({ name }: { name: string }) {
  const { paused } = usePrefs();
  const ended = useQuery({
    queryKey: ["runs", "ended", name], refetchInterval: paused ? false : 10_000,
    queryFn: ({ signal }) => data<Page<ListedRun>>(read("/v1/runs", { params: { query: { function: [name], sort: "-ended", limit: LOOK } }, signal })),
  });
  const told = lately(ended.data?.data ?? []);
  if (!told.bars.length) return null;
  const bad = told.count - told.completed;
  return (
    <section aria-label="Lately" className="mt-4 flex flex-wrap items-center gap-x-8 gap-y-3 rounded-lg border px-4 py-3">
      {told.count > 0 && <Figure what="completed" of={percent(told.completed, told.count)} tone={bad ? "" : "text-good"} />}
      {told.half !== null && <Figure what="half took at most" of={duration(told.half)} />}
      {told.most !== null && <Figure what="95 % at most" of={duration(told.most)} />}
      <Bars of={told.bars} />
      <p className="basis-full text-[13px] text-dim">Of the last {told.count === 1 ? "run" : `${told.count.toLocaleString("en")} runs`} that ended{ended.data!.data.length > told.count ? ", cancelled ones aside" : ""}.{bad > 0 && <> <Link to="/runs" search={{ function: name, status: ["failed", "timed_out", "terminated"], sort: "-ended" } as never} className="underline">{bad.toLocaleString("en")} did not complete</Link></>}</p>
    </section>
  );
}

const Figure = ({ what, of, tone = "" }: { what: string; of: string; tone?: string }) => <div className="flex flex-col-reverse"><span className="text-[13px] text-dim">{what}</span><span className={`tnum text-lg font-semibold ${tone}`}>{of}</span></div>;

const FILL: Record<string, string> = { completed: "var(--bar)", cancelled: "var(--bar-queue)" };

/** A bar for each run, as high as it took long; what did not complete has a dot above it too. */
function Bars({ of }: { of: Told["bars"] }) {
  const most = Math.max(1, ...of.map((bar) => bar.ms));
  const bad = of.filter((bar) => !(bar.status in FILL)).length;
  const words = `The last ${of.length} that ended, the newest on the right${bad ? `; ${bad} did not complete` : ""}; the longest took ${duration(most)}.`;
  const width = of.length * (WIDTH + GAP);
  return (
    <svg role="img" aria-label={words} width={width} height={HEIGHT} viewBox={`0 0 ${width} ${HEIGHT}`} className="ml-auto max-w-full">
      <line x1="0" x2={width} y1={HEIGHT - 0.5} y2={HEIGHT - 0.5} stroke="var(--line)" />
      {of.map((bar, i) => {
        const high = Math.max(3, (bar.ms / most) * (HEIGHT - 8));
        const ended = bar.status in FILL;
        return (
          <g key={bar.id} fill={FILL[bar.status] ?? "var(--bar-fail)"}>
            <title>{`${word(bar.status)}, ${duration(bar.ms)}`}</title>
            <rect x={i * (WIDTH + GAP)} width={WIDTH} y={HEIGHT - high} height={high} />
            {!ended && <circle cx={i * (WIDTH + GAP) + WIDTH / 2} cy={HEIGHT - high - 4} r="2.5" />}
          </g>
        );
      })}
    </svg>
  );
}
