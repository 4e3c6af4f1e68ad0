// The endpoints: where handlers are, and how well each is.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { CircleArrowDown, CircleCheck, CircleOff, CirclePlus, CircleX } from "lucide-react";
import { useState } from "react";
import { data, read } from "../api/client.ts";
import type { Endpoint, Page } from "../api/types.ts";
import { Failed, Loading, Nothing, Prose } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Ago } from "../ui/Time.tsx";
import { Register } from "./Register.tsx";

export function useEndpoints() {
  const { paused } = usePrefs();
  return useQuery({ queryKey: ["endpoints"], queryFn: ({ signal }) => data<Page<Endpoint>>(read("/v1/endpoints", { params: { query: { limit: 200 } }, signal })), refetchInterval: paused ? false : 4000 });
}

const LOOKS = { healthy: [CircleCheck, "text-good", "Healthy"], unhealthy: [CircleX, "text-bad", "Unhealthy"], disabled: [CircleOff, "text-dim", "Disabled"] } as const;
/** `draining`: it takes no new runs, however well it is. */
export function Health({ state, draining }: { state: string; draining?: boolean }) {
  const [Icon, tone, word] = draining && state === "healthy" ? [CircleArrowDown, "text-warn", "Draining"] as const : LOOKS[state as keyof typeof LOOKS] ?? [CircleOff, "text-dim", state];
  return <span className={`inline-flex items-center gap-1.5 whitespace-nowrap font-medium ${tone}`}><Icon size={15} aria-hidden />{word}</span>;
}

export function Endpoints() {
  const [registering, setRegistering] = useState(false);
  const endpoints = useEndpoints();
  return (
    <div className="mx-auto max-w-5xl p-4">
      <div className="mb-3 flex items-center"><h1 className="flex-1">Endpoints</h1><button type="button" className="btn primary" onClick={() => setRegistering(true)}><CirclePlus size={15} aria-hidden />Register a handler</button></div>
      {endpoints.isError ? <Failed error={endpoints.error} again={() => endpoints.refetch()} /> : !endpoints.data ? <Loading what="the endpoints" /> : !endpoints.data.data.length ? (
        <Nothing title="There are no endpoints yet.">An endpoint is the URL of a handler: an HTTP server with your functions.</Nothing>
      ) : (
        <ul className="overflow-hidden rounded-lg border">{endpoints.data.data.map((e) => <li key={e.id} className="border-b last:border-b-0"><Line endpoint={e} /></li>)}</ul>
      )}
      {registering && <Register onClose={() => setRegistering(false)} />}
    </div>
  );
}

export function Line({ endpoint: e }: { endpoint: Endpoint }) {
  return (
    <div className="px-4 py-2 hover:bg-hover">
      <div className="flex flex-wrap items-center gap-x-4"><span className="w-24"><Health state={e.state} draining={e.draining} /></span><Link to="/endpoints/$name" params={{ name: e.name }} className="font-medium">{e.name}</Link>
        <code className="min-w-0 flex-1 truncate text-dim">{e.url ?? `pull, ${e.polls ?? 0} polling`}</code><span className="text-[13px] text-dim">{e.functions.length} function{e.functions.length === 1 ? "" : "s"}</span></div>
      {e.state === "unhealthy" && <p className="breaks mt-0.5 text-[13px] text-bad sm:pl-28"><Prose text={e.detail ?? ""} />{e.since && <>, since <Ago at={e.since} /></>}{e.next_probe_at && <>; looked at again <Ago at={e.next_probe_at} /></>}.</p>}
    </div>
  );
}
