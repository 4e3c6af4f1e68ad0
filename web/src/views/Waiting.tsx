// Everything that waits for a person or another system, and what to press.
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { Link2 } from "lucide-react";
import { useState } from "react";
import { BASE, data, read } from "../api/client.ts";
import type { Page, Run, ListedRun } from "../api/types.ts";
import type { Act } from "../acts/act.ts";
import { publish } from "../acts/event.ts";
import { complete, failStep, signal } from "../acts/run.ts";
import { visible } from "../json/text.ts";
import { one, type Search } from "../router.tsx";
import { addressOf, OUTSIDE, waits, type Outside, type Wait } from "../run/waiting.ts";
import { CopyButton, Failed, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { Ago, useNow } from "../ui/Time.tsx";
import { ActDialog } from "../acts/ActDialog.tsx";

/** How many runs are looked at; each is asked what it waits for. */
const LOOK = 50;
/** What waits for longer may have been forgotten. */
const LONG = 864e5;
const KINDS: [Outside | undefined, string][] = [[undefined, "All"], ["signal", "Signals"], ["callback", "Callbacks"], ["event", "Events"]];

export function Waiting() {
  const { paused } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const set = (change: Search) => navigate({ to: "/waiting", search: { ...search, ...change } as never, replace: true });
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const op = OUTSIDE.find((o) => o === one(search.op));
  const text = one(search.q) ?? "";
  const oldest = one(search.sort) === "started";
  const waiting = useQuery({
    queryKey: ["runs", "waiting", oldest], refetchInterval: paused ? false : 5000,
    queryFn: async ({ signal: abort }) => {
      const page = await data<Page<ListedRun>>(read("/v1/runs", { params: { query: { status: ["waiting"], limit: LOOK, ...(oldest ? { sort: "started" } : {}) } }, signal: abort }));
      const runs = await Promise.all(page.data.map((run) => data<Run>(read("/v1/runs/{id}", { params: { path: { id: run.id } }, signal: abort })).catch(() => null)));
      return { runs: runs.filter((run) => run !== null), more: Boolean(page.next_cursor) };
    },
  });
  const runs = waiting.data?.runs ?? [];
  const all = waits(runs, undefined, "");
  const rows = waits(runs, op, text);
  const timers = runs.length - new Set(all.map(({ run }) => run.id)).size;
  return (
    <div className="mx-auto max-w-6xl p-4">
      <h1>Waiting</h1>
      <p className="mb-3 text-dim">Runs that go on when somebody, or another system, says so.</p>
      {all.length > 0 && (
        <form role="search" aria-label="Filter what waits" className="mb-3 flex flex-wrap items-center gap-2" onSubmit={(e) => e.preventDefault()}>
          <div role="group" aria-label="Kind" className="flex">{KINDS.map(([kind, name], i) => (
            <button key={name} type="button" aria-pressed={op === kind} onClick={() => set({ op: kind })} className={`btn aria-pressed:border-accent aria-pressed:bg-accent-bg aria-pressed:font-semibold aria-pressed:text-accent ${i ? "-ml-px rounded-l-none" : ""} ${i < KINDS.length - 1 ? "rounded-r-none" : ""}`}>
              {name} <span className="tnum text-[13px] font-normal text-dim">{waits(runs, kind, "").length}</span></button>))}</div>
          <input type="search" aria-label="Name, run or key" placeholder="Name, run or key" className="field min-w-40 max-w-72 flex-1" value={text} onChange={(e) => set({ q: e.target.value || undefined })} />
          <select aria-label="Order" className="field" value={oldest ? "started" : ""} onChange={(e) => set({ sort: e.target.value || undefined })}><option value="">Newest runs first</option><option value="started">Oldest runs first</option></select>
        </form>
      )}
      {waiting.isError ? <Failed error={waiting.error} again={() => waiting.refetch()} /> : !waiting.data ? <Loading what="what waits" /> : !all.length ? <Nothing title="Nothing waits for a person or another system.">{timers > 0 && <><Link to="/runs" search={{ status: "waiting" } as never}>{timers} run{timers === 1 ? "" : "s"}</Link> wait{timers === 1 ? "s" : ""} for a timer or another run.</>}</Nothing> : !rows.length ? <Nothing title="Nothing that waits is like this."><button type="button" className="btn" onClick={() => set({ op: undefined, q: undefined })}>Show all</button></Nothing> : (
        <div className="relative overflow-x-auto rounded-lg border"><table className="w-full">
          <thead><tr className="border-b bg-panel text-left text-[13px] text-dim">{["waits for", "run", "since", "times out", ""].map((h) => <th key={h} className={`px-3 py-1.5 font-medium ${h === "since" || h === "times out" ? "max-md:hidden" : ""}`}>{h || <span className="sr-only">act</span>}</th>)}</tr></thead>
          <tbody>{rows.map((wait) => <Row key={wait.run.id + wait.w.step} of={wait} onAct={setAct} />)}</tbody>
        </table></div>
      )}
      {rows.some(({ w }) => w.op === "callback") && <p className="mt-2 text-[13px] text-dim">Only its handler knows the address that settles a callback; <em className="not-italic font-medium">Complete</em> and <em className="not-italic font-medium">Fail</em> do the same by hand.</p>}
      {waiting.data?.more && <p className="mt-2 text-dim">The {oldest ? "oldest" : "newest"} {LOOK} waiting runs are looked at; <Link to="/runs" search={{ status: "waiting" } as never}>the list of runs</Link> has all of them.</p>}
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => { setAct(null); say(words); void waiting.refetch(); }} />}
      {said}
    </div>
  );
}

function Row({ of: { run, w }, onAct }: { of: Wait; onAct: (act: Act) => void }) {
  const now = useNow();
  const name = w.name ?? w.step;
  const who = run.key ?? `…${run.id.slice(-8)}`;
  // Words of its own for who hears the page: which of the rows it is.
  const button = (act: Act, label: string) => <button type="button" className={`btn ${act.danger ? "danger" : ""}`} aria-label={`${label.replace("…", "")}: ${name}, ${who}`} onClick={() => onAct(act)}>{label}</button>;
  return (
    <tr className="border-b last:border-b-0">
      <td className="px-3 py-1.5"><span className="text-dim">{w.name ? w.op : `${w.op} of step`}</span> <code className="breaks">{visible(name)}</code>
        <span className="block text-[13px] text-dim md:hidden">{w.since && <>since <Ago at={w.since} />, </>}{w.until ? <>until <Ago at={w.until} /></> : "however long it takes"}</span></td>
      <td className="px-3 py-1.5"><Link to="/runs/$id" params={{ id: run.id }} search={{ step: w.step } as never} className="breaks">{visible(who)}</Link> <Link to="/functions/$name" params={{ name: run.function }} className="text-dim">{run.function}</Link></td>
      <td className={`px-3 py-1.5 max-md:hidden ${w.since && now - Date.parse(w.since) > LONG ? "text-warn" : "text-dim"}`}>{w.since ? <Ago at={w.since} /> : ""}</td><td className="px-3 py-1.5 text-dim max-md:hidden">{w.until ? <Ago at={w.until} /> : "never"}</td>
      <td className="px-3 py-1.5"><span className="flex justify-end gap-2 max-md:flex-col max-md:items-end">
        {w.op === "signal" ? <><CopyButton text={() => addressOf(BASE, run, name)} label={`Copy the address that takes ${name}, with an API key`} icon={Link2} />{button(signal(run, name), "Send signal")}</>
          : w.op === "event" ? button(publish({ name }), "Send event")
          : <>{button(complete(run, w.step), "Complete…")}{button(failStep(run, w.step), "Fail…")}</>}
      </span></td>
    </tr>
  );
}
