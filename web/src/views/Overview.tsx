// What needs a person, how the endpoints are, what ran last; on an empty install the way to a first run.
import { useQuery } from "@tanstack/react-query";
import { Link, useSearch } from "@tanstack/react-router";
import { CircleCheck } from "lucide-react";
import { useMemo, type ReactNode } from "react";
import { data, read } from "../api/client.ts";
import type { ErrorGroup, Page } from "../api/types.ts";
import { Failed, Loading } from "../ui/bits.tsx";
import type { Search } from "../router.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Status } from "../ui/Status.tsx";
import { Ago } from "../ui/Time.tsx";
import { MEANING, type Status as Known } from "../run/status.ts";
import { Line, useEndpoints } from "./Endpoints.tsx";
import { DEMO } from "./Demo.tsx";
import { LiveRuns, useLive } from "./Live.tsx";
import { Onboarding } from "./Onboarding.tsx";
import { pageOf, Row } from "./RunList.tsx";

const ATTENTION: Known[] = ["paused", "parked", "retrying", "failed"];
const SHOWN = 5;
/** How many runs are looked through for those whose errors nobody ignores. */
const LOOKED = 100;

/** The kinds of errors that somebody has said nobody need look at. */
function useIgnored(paused: boolean) {
  const ignored = useQuery({
    queryKey: ["errors", "ignored, all"], refetchInterval: paused ? false : 30_000,
    queryFn: ({ signal }) => data<Page<ErrorGroup>>(read("/v1/errors", { params: { query: { state: ["ignored"], limit: 200 } as never }, signal })),
  });
  const kinds = useMemo(() => new Set(ignored.data?.data.map((e) => e.fingerprint)), [ignored.data]);
  return { kinds, known: !ignored.isPending };
}

export function Overview() {
  const { paused } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const every = paused ? false : 4000;
  const runs = useQuery({ queryKey: ["runs", "last"], queryFn: ({ signal }) => pageOf({}, null, signal, 8), refetchInterval: every });
  const endpoints = useEndpoints();
  const live = useLive();
  const ignored = useIgnored(paused);
  const attention = useQuery({
    queryKey: ["runs", "attention", [...ignored.kinds]], enabled: ignored.known, refetchInterval: every,
    queryFn: async ({ signal }) => {
      // Failures are of today; what is live is shown however old it is.
      const pages = await Promise.all(ATTENTION.map((status) => pageOf({ status: [status], since: status === "failed" ? 864e5 : undefined }, null, signal, ignored.kinds.size ? LOOKED : SHOWN + 1)));
      let left = 0;
      const groups = ATTENTION.map((status, i) => {
        const rows = pages[i]!.data.filter((run) => !run.fingerprint || !ignored.kinds.has(run.fingerprint));
        left += pages[i]!.data.length - rows.length;
        return { status, rows: rows.slice(0, SHOWN), more: rows.length > SHOWN || Boolean(pages[i]!.next_cursor) };
      });
      return { groups: groups.filter((g) => g.rows.length), left };
    },
  });
  const own = endpoints.data?.data.filter((e) => e.name !== DEMO);
  if (own && search.begin === "own") return <Onboarding endpoints={own} started={false} />;
  if (runs.data && endpoints.data && (!runs.data.data.length || !endpoints.data.data.length)) return <Onboarding endpoints={endpoints.data.data} started={runs.data.data.length > 0} />;
  return (
    <div className="mx-auto flex max-w-6xl flex-col gap-6 p-4">
      <h1 className="sr-only">Overview</h1>
      {own?.length === 0 && <p className="flex flex-wrap items-center gap-x-4 gap-y-2 rounded-lg border border-accent bg-accent-bg px-4 py-2.5">Only the demo is here so far.<Link to="/" search={{ begin: "own" } as never} className="btn ml-auto">Start with your own handler</Link></p>}
      {live && <section aria-label="Live runs" className="flex flex-wrap items-center gap-x-5 gap-y-1 rounded-lg border bg-panel px-4 py-2.5"><span className="text-[13px] text-dim">Live on this gateway <Ago at={live.at} past /></span><LiveRuns of={live} /><Link to="/charts" className="ml-auto text-[13px]">Metrics</Link></section>}
      <Section title="Needs a look">
        {attention.isError ? <Failed error={attention.error} again={() => attention.refetch()} /> : !attention.data ? <Loading what="what needs a look" rows={3} /> : <>{!attention.data.groups.length ? (
          <p className="flex items-center gap-2 rounded-lg border px-4 py-3 text-good"><CircleCheck size={17} aria-hidden />Nothing is paused, parked or retrying, and nothing has failed in the last 24 hours{attention.data.left > 0 && " but by errors that are ignored"}.</p>
        ) : attention.data.groups.map(({ status, rows, more }) => (
          <div key={status} className="mb-3 overflow-hidden rounded-lg border">
            <div className="flex flex-wrap items-center gap-x-3 border-b bg-panel px-4 py-1.5"><Status status={status} /><span className="text-[13px] text-dim">{MEANING[status]}</span>
              {(status === "failed" || status === "paused") && <Link to="/errors" search={{ status, ...(status === "failed" ? { since: "24h" } : {}) } as never} className="ml-auto text-[13px]">By error</Link>}
              <Link to="/runs" search={{ status, ...(status === "failed" ? { since: "24h" } : {}) } as never} className={`text-[13px] ${status === "failed" || status === "paused" ? "" : "ml-auto"}`}>{more ? "Show all" : "In the list"}</Link></div>
            <ul className="[&>li:last-child_a]:border-b-0">{rows.map((run) => <li key={run.id} className="h-10"><Row run={run} /></li>)}</ul>
          </div>
        ))}
          {attention.data.left > 0 && <p className="mt-1 text-[13px] text-dim">Runs with an error that is <Link to="/errors" search={{ state: "ignored" } as never} className="underline">ignored</Link> are left out.</p>}
        </>}
      </Section>
      <Section title="Endpoints" more={<Link to="/endpoints">All</Link>}>
        {endpoints.isError ? <Failed error={endpoints.error} /> : !endpoints.data ? <Loading what="the endpoints" rows={2} /> : <ul className="overflow-hidden rounded-lg border">{[...endpoints.data.data].sort((a, b) => Number(a.state === "healthy") - Number(b.state === "healthy")).slice(0, SHOWN).map((e) => <li key={e.id} className="border-b last:border-b-0"><Line endpoint={e} /></li>)}</ul>}
      </Section>
      <Section title="Last runs" more={<Link to="/runs">All</Link>}>
        {runs.isError ? <Failed error={runs.error} /> : !runs.data ? <Loading what="the runs" rows={4} /> : <ul className="overflow-hidden rounded-lg border [&>li:last-child_a]:border-b-0">{runs.data.data.map((run) => <li key={run.id} className="h-10"><Row run={run} /></li>)}</ul>}
      </Section>
    </div>
  );
}

const Section = ({ title, more, children }: { title: string; more?: ReactNode; children: ReactNode }) => (
  <section aria-label={title}><h2 className="mb-2 flex items-baseline gap-3">{title}<span className="text-[13px] font-normal">{more}</span></h2>{children}</section>
);
