// What happened over the last hour or day: as the nodes counted it that have answered.
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useMemo, useRef } from "react";
import { BASE, data, read } from "../api/client.ts";
import type { MetricsSeries } from "../api/types.ts";
import { one, type Search } from "../router.tsx";
import { each, merged, quantiles, sum, type Curves, type Timed } from "../run/series.ts";
import { absolute, duration } from "../run/time.ts";
import { word } from "../run/status.ts";
import { Failed, Loading, Nothing } from "../ui/bits.tsx";
import { Chart, type Curve } from "../ui/Chart.tsx";
import { usePrefs } from "../ui/prefs.ts";

const WINDOWS = [["1h", "Last hour"], ["24h", "Last 24 hours"]] as const;
const count = (n: number) => n.toLocaleString("en", { maximumFractionDigits: 1 });
const time = (n: number) => duration(n * 1000);
const DASHES = { long: [8, 4], short: [3, 3] };

export function Metrics() {
  const { paused, utc } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const window = one(search.window) === "24h" ? "24h" : "1h";
  // Each answer has the whole window of the node that gave it.
  const heard = useRef(new Map<string, { series: MetricsSeries; at: number }>());
  const series = useQuery({
    queryKey: ["metrics", window], refetchInterval: paused ? false : 10_000, placeholderData: keepPreviousData,
    queryFn: async ({ signal }) => {
      const got = await data<MetricsSeries>(read("/v1/metrics/series", { params: { query: { window } }, signal }));
      heard.current.set(got.node, { series: got, at: Date.now() });
      for (const [node, { series, at }] of heard.current) if (Date.now() - at > 120_000 || series.step !== got.step) heard.current.delete(node);
      return [...heard.current.values()].map((h) => h.series);
    },
  });
  const curves = useMemo(() => (series.data ? merged(series.data) : null), [series.data]);
  const nodes = series.data?.length ?? 0;
  return (
    <div className="mx-auto max-w-6xl p-4">
      <div className="flex flex-wrap items-center gap-3"><h1 className="mr-auto">Metrics</h1>
        <div role="group" aria-label="Window" className="flex">{WINDOWS.map(([id, name], i) => <button key={id} type="button" aria-pressed={window === id} onClick={() => navigate({ to: "/charts", search: (id === "1h" ? {} : { window: id }) as never, replace: true })}
          className={`btn aria-pressed:border-accent aria-pressed:bg-accent-bg aria-pressed:font-semibold aria-pressed:text-accent ${i ? "-ml-px rounded-l-none" : "rounded-r-none"}`}>{name}</button>)}</div>
      </div>
      {curves && <p className="mb-3 text-dim">{nodes > 1 ? `Counted by the ${nodes} nodes that have answered here` : "Counted by the node that answers"}{curves.at.length ? <>, since {absolute(new Date((curves.at[0]! - curves.step) * 1000).toISOString(), utc).replace(/\.\d+/, "")}</> : ""}. It is forgotten when a node stops; <a href={new URL("metrics", BASE).href} className="underline">/metrics</a> is for Prometheus.</p>}
      {series.isError && <Failed error={series.error} again={() => series.refetch()} />}
      {!curves ? !series.isError && <Loading what="the metrics" /> : curves.at.length < 2
        ? <Nothing title="Counting has begun.">{window === "1h" ? "The first curves are here in half a minute." : "A point is made every five minutes; the last hour is finer."}</Nothing>
        : <Charts of={curves} />}
    </div>
  );
}

function Charts({ of }: { of: Curves }) {
  const none = useMemo(() => of.at.map(() => 0), [of]);
  const all = useMemo(() => {
    const line = (from: Map<string, Curve["line"]>, ...names: string[]) => sum(none.map((_, i) => (of.started[i] === null ? null : 0)), ...names.map((n) => from.get(n)));
    const parts = (name: Timed): Curve[] => [
      { name: "half", line: quantiles(of.times[name], 0.5), colour: "--bar" }, { name: "95 %", line: quantiles(of.times[name], 0.95), colour: "--bar-backoff", dash: DASHES.long }, { name: "99 %", line: quantiles(of.times[name], 0.99), colour: "--bar-fail", dash: DASHES.short }];
    return {
      runs: [{ name: "Started", line: of.started, colour: "--bar" }, { name: "Completed", line: line(of.ended, "completed"), colour: "--good", dash: DASHES.long }, { name: "Failed, timed out", line: line(of.ended, "failed", "timed_out"), colour: "--bar-fail", dash: DASHES.short }, { name: "Cancelled, terminated", line: line(of.ended, "cancelled", "terminated"), colour: "--bar-queue", dash: [12, 3, 3, 3] }],
      failures: [{ name: "Calls of handlers", line: line(of.invocations, "failed"), colour: "--bar-fail" }, { name: "Attempts of tasks and calls", line: line(of.attempts, "failed", "unhealthy"), colour: "--bar-backoff", dash: DASHES.long }],
      live: (["queued", "retrying", "parked", "paused"] as const).map((status, i) => ({ name: word(status), line: of.live.get(status) ?? (of.live.size ? of.at.map((_, at) => ([...of.live.values()].some((l) => l[at] !== null) ? 0 : null)) : none.map(() => null)),
        colour: ["--bar", "--bar-backoff", "--bar-fail", "--bar-queue"][i]!, ...(i ? { dash: [DASHES.long, DASHES.short, [12, 3, 3, 3]][i - 1]! } : {}) })),
      calls: parts("invocation_seconds"), limits: parts("limit_wait_seconds"), took: parts("run_seconds"),
    };
  }, [of, none]);
  const timed = (name: Timed) => of.times[name].counts.some((c) => c !== null);
  const unit = each(of.step);
  return (
    <div className="grid gap-4 lg:grid-cols-2">
      <Chart title="Runs" unit={unit} at={of.at} curves={all.runs} say={count} />
      <Chart title="How long handlers take" unit="so many of the calls were faster" at={of.at} curves={all.calls} say={time} />
      <Chart title="Failures" unit={unit} at={of.at} curves={all.failures} say={count} />
      {of.live.size > 0 && <Chart title="Runs that do not move" unit="of all nodes, at that moment" at={of.at} curves={all.live} say={count} />}
      {timed("limit_wait_seconds") && <Chart title="Wait at limits" unit="until a run was let through" at={of.at} curves={all.limits} say={time} />}
      {timed("run_seconds") && <Chart title="How long runs took" unit="from start to end" at={of.at} curves={all.took} say={time} />}
      <p className="self-end text-[13px] text-dim lg:col-span-2">Times are as exact as their buckets. What keeps runs back: <Link to="/limits" search={{ waiting: "true" } as never} className="underline">limits where runs wait</Link>, <Link to="/runs" search={{ status: ["retrying", "parked", "paused"] } as never} className="underline">runs that need a look</Link>.</p>
    </div>
  );
}
