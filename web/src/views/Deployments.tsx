// The deployments of an endpoint: how many runs each still has, and what can be done about them.
import { useInfiniteQuery } from "@tanstack/react-query";
import { CircleCheck, CircleDot, Hourglass } from "lucide-react";
import type { ReactNode } from "react";
import { prune, repin } from "../acts/endpoint.ts";
import type { Act } from "../acts/act.ts";
import { data, read } from "../api/client.ts";
import type { Deployment, Endpoint, Page } from "../api/types.ts";
import { Failed, Id, Loading } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Ago } from "../ui/Time.tsx";

export function Deployments({ endpoint: e, onAct }: { endpoint: Endpoint; onAct: (act: Act) => void }) {
  const { paused } = usePrefs();
  const list = useInfiniteQuery({
    queryKey: ["endpoint", e.name, "deployments"], initialPageParam: null as string | null, getNextPageParam: (page: Page<Deployment>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<Deployment>>(read("/v1/endpoints/{endpoint}/deployments", { params: { path: { endpoint: e.name }, query: { limit: 200, cursor: pageParam ?? undefined } }, signal })),
    refetchInterval: paused ? false : 4000,
  });
  // The newest first: that is where runs go.
  const all = (list.data?.pages.flatMap((page) => page.data) ?? []).sort((a, b) => Number(b.current) - Number(a.current) || (a.created_at < b.created_at ? 1 : -1));
  const retire = prune(e, all);
  return (
    <section aria-labelledby="deployments" className="mt-6">
      <div className="mb-2 flex flex-wrap items-center gap-3"><h2 id="deployments">Deployments</h2>
        {e.draining && <p className="text-warn">No new runs start here; {left(all)}.</p>}
        {retire && <button type="button" className="btn ml-auto" title={retire.sentence.replaceAll("`", "")} onClick={() => onAct(retire)}>{retire.label}</button>}
      </div>
      {list.isError && !list.data ? <Failed error={list.error} /> : !list.data ? <Loading what="the deployments" rows={3} /> : (
        <ul aria-label="Deployments" className="overflow-hidden rounded-lg border">{all.map((d) => <li key={d.id} className="border-b px-4 py-2.5 last:border-b-0"><One endpoint={e} deployment={d} all={all} onAct={onAct} /></li>)}</ul>
      )}
      {list.hasNextPage && <div className="pt-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
    </section>
  );
}

const runs = (n: number) => `${n.toLocaleString("en")} run${n === 1 ? "" : "s"}`;

function left(all: Deployment[]): string {
  const live = all.reduce((sum, d) => sum + (d.runs?.live ?? 0), 0);
  return live ? `${runs(live)} ${live === 1 ? "is" : "are"} left` : "none is left, and its handler can be switched off";
}

function One({ endpoint, deployment: d, all, onAct }: { endpoint: Endpoint; deployment: Deployment; all: Deployment[]; onAct: (act: Act) => void }) {
  const move = repin(endpoint, d, all);
  return (
    <div className="flex flex-wrap items-start gap-x-6 gap-y-2">
      <div className="min-w-0 flex-1">
        <div className="flex flex-wrap items-center gap-x-3">
          <State of={d} />{d.version && <span className="font-medium">version <code>{d.version}</code></span>}<Id id={d.id} />
        </div>
        <p className="breaks text-[13px] text-dim">{d.functions.join(", ")}</p>
        <p className="breaks text-[13px] text-dim">registered <Ago at={d.created_at} />, {d.sdk && <>{d.sdk}, </>}by <code>{d.transport}</code>{d.url !== endpoint.url && <>, at <code>{d.url}</code></>}</p>
        {d.fallback && <p className="breaks text-[13px] text-warn">{d.fallback}</p>}
      </div>
      <div className="flex items-center gap-5">
        {d.runs && <dl className="flex gap-4 text-right">
          <Count name="live" of={d.runs.live} title="Runs that were last invoked on it, or are pinned to it." /><Count name="stay" of={d.runs.pinned} title="Of these, runs that stay on it; the others go on with the newest deployment." />
          <Count name="at work" of={d.runs.running} title="Of these, runs with an exchange that is open now." />
        </dl>}
        <span className="w-34 text-right">{move && <button type="button" className="btn" title={move.sentence.replaceAll("`", "")} onClick={() => onAct(move)}>{move.label}</button>}</span>
      </div>
    </div>
  );
}

const Count = ({ name, of, title }: { name: string; of: number; title: string }) => (
  <div className="w-14" title={title}><dd className={`tnum text-base ${of ? "font-semibold" : "text-dim"}`}>{of.toLocaleString("en")}</dd><dt className="text-xs text-dim">{name}</dt></div>
);

/** Icon, colour and word. */
function State({ of: d }: { of: Deployment }): ReactNode {
  const [Icon, tone, word] = d.current ? [CircleDot, "text-accent", "Newest"] as const : d.drained ? [CircleCheck, "text-good", "Drained"] as const : [Hourglass, "text-warn", d.runs ? `${runs(d.runs.pinned)} left` : "In use"] as const;
  return <span className={`inline-flex items-center gap-1.5 whitespace-nowrap font-medium ${tone}`} title={d.drained ? "No live run needs it: its handler can be switched off, and it can be pruned." : undefined}><Icon size={15} aria-hidden />{word}</span>;
}
