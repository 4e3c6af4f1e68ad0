// One endpoint: how it is, what was found when it was tried, its deployments, what can be done.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { data, read, send } from "../api/client.ts";
import type { Endpoint as Body, EndpointHealth, Probe } from "../api/types.ts";
import type { Act } from "../acts/act.ts";
import { actsOnEndpoint } from "../acts/endpoint.ts";
import { Facts, Failed, Id, Loading, Prose } from "../ui/bits.tsx";
import { Menu } from "../ui/Menu.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { useSaid } from "../ui/Said.tsx";
import { Ago, Moment } from "../ui/Time.tsx";
import { Deployments } from "./Deployments.tsx";
import { Health } from "./Endpoints.tsx";
import { Invocations } from "./Invocations.tsx";
import { Stages } from "./Register.tsx";
import { ActDialog } from "../acts/ActDialog.tsx";

export function Endpoint() {
  const { name } = useParams({ strict: false }) as { name: string };
  const { paused } = usePrefs();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const every = paused ? false : 3000;
  const path = { params: { path: { endpoint: name } } };
  const endpoint = useQuery({ queryKey: ["endpoint", name], queryFn: ({ signal }) => data<Body>(read("/v1/endpoints/{endpoint}", { ...path, signal })), refetchInterval: every });
  const health = useQuery({ queryKey: ["endpoint", name, "health"], queryFn: ({ signal }) => data<EndpointHealth>(read("/v1/endpoints/{endpoint}/health", { ...path, signal })), refetchInterval: every });
  const probe = useMutation({ mutationFn: () => send<Probe>({ method: "POST", path: `/v1/endpoints/${encodeURIComponent(name)}/probe` }), onSettled: () => queries.invalidateQueries({ queryKey: ["endpoint", name] }) });
  if (endpoint.isError) return <div className="p-4"><Failed error={endpoint.error} again={() => endpoint.refetch()} /><Link to="/endpoints" className="btn">All endpoints</Link></div>;
  if (!endpoint.data) return <Loading what="the endpoint" />;
  const e = endpoint.data;
  const acts = actsOnEndpoint(e);
  return (
    <div className="mx-auto max-w-5xl p-4">
      <p className="text-[13px] text-dim"><Link to="/endpoints">Endpoints</Link></p>
      <div className="flex flex-wrap items-center gap-x-4 gap-y-2"><h1 className="breaks">{e.name}</h1><Health state={e.state} draining={e.draining} />
        <div className="ml-auto flex flex-wrap gap-2">
          <button type="button" className="btn" disabled={probe.isPending} onClick={() => probe.mutate()}>{probe.isPending ? "Trying…" : "Try it"}</button>
          <Menu acts={acts} front={acts.length - 2} onAct={setAct} />
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
      <div className="mt-4"><Facts facts={[e.pull ? ["Pull", e.polls ? `${e.polls} polling now` : "nobody polls now"] : ["URL", <code>{e.url}</code>], ["Id", <Id id={e.id} />], ["Functions", e.functions.map((f) => <Link key={f} to="/functions/$name" params={{ name: f }} className="mr-3">{f}</Link>)],
        ["Extra headers", e.headers.length > 0 && e.headers.map((h) => <code key={h} className="mr-3">{h}</code>)], ["Registered", <Moment at={e.created_at} />]]} /></div>
      <Deployments endpoint={e} onAct={setAct} />
      <Invocations name={e.name} />
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words, answer) => {
        const renamed = act.id === "edit" ? (answer as Body).name : name;
        setAct(null);
        say(words);
        void queries.invalidateQueries({ queryKey: ["endpoints"] });
        if (act.id === "remove") void navigate({ to: "/endpoints" });
        else if (renamed !== name) void navigate({ to: "/endpoints/$name", params: { name: renamed }, replace: true });
        else void queries.invalidateQueries({ queryKey: ["endpoint"] });
      }} />}
      {said}
    </div>
  );
}
