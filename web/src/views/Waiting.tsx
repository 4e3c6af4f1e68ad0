// Everything that waits for a person or another system, and what to press.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { data, read } from "../api/client.ts";
import type { Page, Run, ListedRun } from "../api/types.ts";
import type { Act } from "../acts/act.ts";
import { signal } from "../acts/run.ts";
import { Failed, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Ago } from "../ui/Time.tsx";
import { ActDialog } from "../acts/ActDialog.tsx";

/** How many runs are looked at; each is asked what it waits for. */
const LOOK = 50;

export function Waiting() {
  const { paused } = usePrefs();
  const [act, setAct] = useState<Act | null>(null);
  const waiting = useQuery({
    queryKey: ["runs", "waiting"], refetchInterval: paused ? false : 5000,
    queryFn: async ({ signal: abort }) => {
      const page = await data<Page<ListedRun>>(read("/v1/runs", { params: { query: { status: ["waiting"], limit: LOOK } }, signal: abort }));
      const runs = await Promise.all(page.data.map((run) => data<Run>(read("/v1/runs/{id}", { params: { path: { id: run.id } }, signal: abort })).catch(() => null)));
      return { runs: runs.filter((run) => run !== null), more: Boolean(page.next_cursor) };
    },
  });
  const rows = (waiting.data?.runs ?? []).flatMap((run) => run.waiting_for.map((w) => ({ run, w }))).filter(({ w }) => ["signal", "callback", "event"].includes(w.op));
  const timers = (waiting.data?.runs.length ?? 0) - new Set(rows.map(({ run }) => run.id)).size;
  return (
    <div className="mx-auto max-w-6xl p-4">
      <h1>Waiting</h1>
      <p className="mb-3 text-dim">Runs that go on when somebody, or another system, says so.</p>
      {waiting.isError ? <Failed error={waiting.error} again={() => waiting.refetch()} /> : !waiting.data ? <Loading what="what waits" /> : !rows.length ? <Nothing title="Nothing waits for a person or another system.">{timers > 0 && <><Link to="/runs" search={{ status: "waiting" } as never}>{timers} run{timers === 1 ? "" : "s"}</Link> wait{timers === 1 ? "s" : ""} for a timer or another run.</>}</Nothing> : (
        <div className="relative overflow-x-auto rounded-lg border"><table className="w-full">
          <thead><tr className="border-b bg-panel text-left text-[13px] text-dim">{["waits for", "run", "since", "times out", ""].map((h) => <th key={h} className="px-3 py-1.5 font-medium">{h || <span className="sr-only">act</span>}</th>)}</tr></thead>
          <tbody>{rows.map(({ run, w }) => (
            <tr key={run.id + w.step} className="border-b last:border-b-0">
              <td className="px-3 py-1.5"><span className="text-dim">{w.name ? w.op : `${w.op} of step`}</span> <code className="breaks">{w.name ?? w.step}</code></td>
              <td className="px-3 py-1.5"><Link to="/runs/$id" params={{ id: run.id }} search={{ step: w.step } as never}>{run.key ?? `…${run.id.slice(-8)}`}</Link> <span className="text-dim">{run.function}</span></td>
              <td className="px-3 py-1.5 text-dim">{w.since ? <Ago at={w.since} /> : ""}</td><td className="px-3 py-1.5 text-dim">{w.until ? <Ago at={w.until} /> : "never"}</td>
              <td className="px-3 py-1.5 text-right">{w.op === "signal" && <button type="button" className="btn" onClick={() => setAct(signal(run, w.name ?? w.step))}>Send signal</button>}</td>
            </tr>
          ))}</tbody>
        </table></div>
      )}
      {waiting.data?.more && <p className="mt-2 text-dim">The newest {LOOK} waiting runs are looked at; <Link to="/runs" search={{ status: "waiting" } as never}>the list of runs</Link> has all of them.</p>}
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={() => { setAct(null); void waiting.refetch(); }} />}
    </div>
  );
}
