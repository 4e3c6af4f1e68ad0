// One endpoint: how it is, what was found when it was tried, its deployments, what can be done.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { data, read, send, type Call } from "../api/client.ts";
import type { Deployment, Endpoint as Body, EndpointHealth, Page, Probe } from "../api/types.ts";
import type { Act } from "../acts/act.ts";
import { Facts, Failed, Id, Loading, Prose } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Ago, Moment } from "../ui/Time.tsx";
import { Health } from "./Endpoints.tsx";
import { Stages } from "./Register.tsx";
import { ActDialog } from "../acts/ActDialog.tsx";

export function Endpoint() {
  const { name } = useParams({ strict: false }) as { name: string };
  const { paused } = usePrefs();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [act, setAct] = useState<Act | null>(null);
  const every = paused ? false : 3000;
  const path = { params: { path: { endpoint: name } } };
  const endpoint = useQuery({ queryKey: ["endpoint", name], queryFn: ({ signal }) => data<Body>(read("/v1/endpoints/{endpoint}", { ...path, signal })), refetchInterval: every });
  const health = useQuery({ queryKey: ["endpoint", name, "health"], queryFn: ({ signal }) => data<EndpointHealth>(read("/v1/endpoints/{endpoint}/health", { ...path, signal })), refetchInterval: every });
  const deployments = useQuery({ queryKey: ["endpoint", name, "deployments"], queryFn: ({ signal }) => data<Page<Deployment>>(read("/v1/endpoints/{endpoint}/deployments", { ...path, signal })) });
  const probe = useMutation({ mutationFn: () => send<Probe>({ method: "POST", path: `/v1/endpoints/${encodeURIComponent(name)}/probe` }), onSettled: () => queries.invalidateQueries({ queryKey: ["endpoint", name] }) });
  if (endpoint.isError) return <div className="p-4"><Failed error={endpoint.error} again={() => endpoint.refetch()} /><Link to="/endpoints" className="btn">All endpoints</Link></div>;
  if (!endpoint.data) return <Loading what="the endpoint" />;
  const e = endpoint.data;
  const acts = actsOn(e);
  return (
    <div className="mx-auto max-w-5xl p-4">
      <p className="text-[13px] text-dim"><Link to="/endpoints">Endpoints</Link></p>
      <div className="flex flex-wrap items-center gap-x-4 gap-y-2"><h1 className="breaks">{e.name}</h1><Health state={e.state} />
        <div className="ml-auto flex flex-wrap gap-2">
          <button type="button" className="btn" disabled={probe.isPending} onClick={() => probe.mutate()}>{probe.isPending ? "Trying…" : "Try it"}</button>
          {acts.map((a) => <button key={a.id} type="button" className={`btn ${a.danger ? "danger" : ""}`} title={a.sentence} onClick={() => setAct(a)}>{a.label}</button>)}
        </div>
      </div>
      {health.data?.state === "unhealthy" && (
        <section aria-label="What is wrong" className="mt-3 rounded-lg border border-bad bg-bad-bg px-4 py-3">
          <p className="breaks"><Prose text={health.data.detail ?? "It does not answer as it should."} /></p>
          <p className="text-dim">{health.data.since && <>Unhealthy since <Ago at={health.data.since} />. </>}Its runs are parked. {health.data.failed_probes} probe{health.data.failed_probes === 1 ? " has" : "s have"} failed since{health.data.probing ? "; one is out now" : health.data.next_probe_at ? <>; the next is <Ago at={health.data.next_probe_at} /></> : null}.</p>
        </section>
      )}
      {probe.isError && <Failed error={probe.error} />}
      {probe.data && <Stages probe={probe.data} />}
      <div className="mt-4"><Facts facts={[["URL", <code>{e.url}</code>], ["Id", <Id id={e.id} />], ["Functions", e.functions.map((f) => <Link key={f} to="/functions/$name" params={{ name: f }} className="mr-3">{f}</Link>)],
        ["Extra headers", e.headers.length > 0 && e.headers.map((h) => <code key={h} className="mr-3">{h}</code>)], ["Registered", <Moment at={e.created_at} />]]} /></div>
      <h2 className="mb-2 mt-6">Deployments</h2>
      {deployments.isError ? <Failed error={deployments.error} /> : !deployments.data ? <Loading what="the deployments" rows={3} /> : (
        <ul className="overflow-hidden rounded-lg border">{deployments.data.data.map((d) => (
          <li key={d.id} className="border-b px-4 py-2 last:border-b-0">
            <div className="flex flex-wrap items-center gap-x-4"><Id id={d.id} />{d.current && <span className="rounded bg-good-bg px-2 text-[13px] font-medium text-good">current</span>}
              {d.version && <span>version <code>{d.version}</code></span>}{d.sdk && <span className="text-dim">{d.sdk}</span>}<span className="text-dim">by {d.transport}</span><span className="ml-auto text-[13px] text-dim"><Ago at={d.created_at} /></span></div>
            <p className="breaks text-[13px] text-dim">{d.functions.join(", ")}</p>
            {d.fallback && <p className="breaks text-[13px] text-warn">{d.fallback}</p>}
          </li>
        ))}</ul>
      )}
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={() => {
        setAct(null);
        if (act.id === "remove") void navigate({ to: "/endpoints" });
        else void queries.invalidateQueries({ queryKey: ["endpoint", name] });
        void queries.invalidateQueries({ queryKey: ["endpoints"] });
      }} />}
    </div>
  );
}

/** What can be done with an endpoint. */
function actsOn(e: Body): Act[] {
  const post = (verb: string): Call => ({ method: "POST", path: `/v1/endpoints/${encodeURIComponent(e.name)}/${verb}` });
  const plain = { fields: [], done: "Done." };
  return [
    { ...plain, id: "sync", label: "Sync", doIt: "Sync", sentence: "The handler is asked for its functions again; what has changed becomes a new deployment.", call: () => post("sync"), cli: () => ["endpoint", "sync", e.name] },
    e.state === "disabled"
      ? { ...plain, id: "enable", label: "Enable", doIt: "Enable", sentence: "Its runs are invoked again.", call: () => post("enable"), cli: () => ["endpoint", "enable", e.name] }
      : { ...plain, id: "disable", label: "Disable", doIt: "Disable", danger: true, sentence: "Its runs are not invoked any more, and are parked, until it is enabled again.", call: () => post("disable"), cli: () => ["endpoint", "disable", e.name] },
    { ...plain, id: "remove", label: "Remove", doIt: "Remove the endpoint", danger: true, sentence: "The endpoint is forgotten. This is refused while it has live runs.", call: () => ({ method: "DELETE", path: `/v1/endpoints/${encodeURIComponent(e.name)}` }), cli: () => ["endpoint", "rm", e.name] },
  ];
}
