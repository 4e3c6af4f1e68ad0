// How many live runs there are of each status, as the node says that counts them.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { data, read } from "../api/client.ts";
import type { MetricsSeries } from "../api/types.ts";
import { latest } from "../run/series.ts";
import { LIVE } from "../run/status.ts";
import { usePrefs } from "../ui/prefs.ts";
import { Status } from "../ui/Status.tsx";

/** One node counts, and it may be another by now: only its last words hold. */
const RECENT = 3;

/** `at`: when they were counted, as text of a moment. */
export type LiveCounts = { at: string; counts: (readonly [status: string, n: number])[] };

/** Null where they are not known: who may not read the metrics has the rest of the page all the same. */
export function useLive(): LiveCounts | null {
  const { paused } = usePrefs();
  const series = useQuery<MetricsSeries>({ queryKey: ["metrics", "1h", "now"], retry: false, refetchInterval: (query) => (paused || query.state.status === "error" ? false : 10_000), queryFn: ({ signal }) => data<MetricsSeries>(read("/v1/metrics/series", { params: { query: { window: "1h" } }, signal })) });
  if (!series.data || series.isError) return null;
  const counts = LIVE.map((status) => [status, latest((series.data.live[status] ?? []).slice(-RECENT))] as const).filter((pair): pair is readonly [typeof pair[0], number] => pair[1] !== null);
  const at = series.data.at.at(-1);
  return at && counts.length ? { at, counts: counts.filter(([, n]) => n > 0) } : null;
}

export const LiveRuns = ({ of: { counts } }: { of: LiveCounts }) => (!counts.length ? <span className="text-dim">No run is live.</span> :
  <ul aria-label="Live runs" className="flex flex-wrap gap-x-5 gap-y-1">{counts.map(([status, n]) => (
    <li key={status} className="inline-flex items-center gap-1.5"><Link to="/runs" search={{ status } as never} className="inline-flex no-underline hover:underline"><Status status={status} /></Link><span className="tnum font-semibold">{n.toLocaleString("en")}</span></li>))}</ul>
);
