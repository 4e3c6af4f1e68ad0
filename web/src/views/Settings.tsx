// Who may call the gateway, what calls are made with, and what the gateway is.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { CircleCheck } from "lucide-react";
import { lazy, Suspense, useState } from "react";
import { removeSecret, setSecret } from "../acts/settings.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import type { Act } from "../acts/act.ts";
import { BASE, data, read } from "../api/client.ts";
import type { GatewayBody, Namespace, Page, Secret } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { bytes, inWhole } from "../run/time.ts";
import { Facts, Failed, Loading, Nothing } from "../ui/bits.tsx";
import { useSaid } from "../ui/Said.tsx";
import { Ago } from "../ui/Time.tsx";
import { Keys } from "./Keys.tsx";
import { LiveRuns, useLive } from "./Live.tsx";
import { CELL, Part, Table } from "./Table.tsx";

const Namespaces = lazy(async () => ({ default: (await import("./Namespaces.tsx")).Namespaces }));
const Audit = lazy(async () => ({ default: (await import("./Audit.tsx")).Audit }));

const PARTS = [["keys", "API keys"], ["secrets", "Secrets for calls"], ["namespaces", "Namespaces"], ["audit", "Audit log"], ["gateway", "This gateway"]] as const;

export function Settings() {
  const { part = "keys" } = useParams({ strict: false }) as { part?: string };
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  const done = async (words: string, answer: unknown) => {
    setAct(null);
    say(words);
    // A new namespace shows where its first key is made; one that is gone has nothing to show, and is not asked for again.
    if (act?.id === "make-namespace") await navigate({ to: "/settings/$part", params: { part }, search: { name: (answer as Namespace).name } as never });
    if (act?.id === "remove-namespace") await navigate({ to: "/settings/$part", params: { part }, search: {} as never });
    void queries.invalidateQueries({ queryKey: ["settings"] });
  };
  return (
    <div className="mx-auto max-w-5xl p-4">
      <h1>Settings</h1>
      <nav aria-label="Settings" className="mb-4 mt-2 flex gap-1 overflow-x-auto border-b">
        {PARTS.map(([id, name]) => <Link key={id} to="/settings/$part" params={{ part: id }} aria-current={part === id ? "page" : undefined} className="whitespace-nowrap border-b-2 border-transparent px-2.5 py-1.5 text-dim no-underline hover:text-fg aria-[current=page]:border-accent aria-[current=page]:font-semibold aria-[current=page]:text-accent">{name}</Link>)}
      </nav>
      <Suspense fallback={<Loading what="the settings" rows={4} />}>
        {part === "keys" ? <Keys onAct={setAct} /> : part === "secrets" ? <Secrets onAct={setAct} /> : part === "namespaces" ? <Namespaces onAct={setAct} /> : part === "audit" ? <Audit /> : part === "gateway" ? <Gateway /> : <Nothing title="There are no such settings." />}
      </Suspense>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={done} />}
      {said}
    </div>
  );
}

function Secrets({ onAct }: { onAct: (act: Act) => void }) {
  const secrets = useQuery({ queryKey: ["settings", "secrets"], queryFn: ({ signal }) => data<Page<Secret>>(read("/v1/secrets", { params: { query: { limit: 200 } }, signal })), refetchInterval: 10_000 });
  return (
    <Part add={setSecret()} onAct={onAct} what={<>A <code>call</code> that the gateway makes itself names a secret in a header: <code className="breaks">{`"authorization": {"secret": "stripe", "prefix": "Bearer "}`}</code>. Values are never shown.</>}>
      {secrets.isError ? <Failed error={secrets.error} again={() => secrets.refetch()} /> : !secrets.data ? <Loading what="the secrets" rows={4} /> : !secrets.data.data.length ? <Nothing title="There are no secrets yet.">A call that names one which is not set pauses its run.</Nothing> : (
        <Table heads={["name", "first set", "value set", ""]}>{secrets.data.data.map((s) => (
          <tr key={s.name} className="border-b last:border-b-0">
            <td className={CELL}><code className="breaks">{visible(s.name)}</code></td><td className={`${CELL} text-dim`}><Ago at={s.created_at} /></td><td className={CELL}><Ago at={s.updated_at} /></td>
            <td className={CELL}><span className="flex justify-end gap-2"><button type="button" className="btn" aria-label={`Set anew: ${s.name}`} onClick={() => onAct(setSecret(s.name))}>Set anew</button><button type="button" className="btn danger" aria-label={`Delete ${s.name}`} onClick={() => onAct(removeSecret(s))}>Delete</button></span></td>
          </tr>
        ))}</Table>
      )}
      {secrets.data?.next_cursor && <p className="mt-2 text-dim">The first 200 are shown.</p>}
    </Part>
  );
}

function Gateway() {
  const health = useQuery({ queryKey: ["health"], queryFn: ({ signal }) => data<{ version: string }>(read("/healthz", { signal })) });
  const ready = useQuery({ queryKey: ["ready"], retry: false, refetchInterval: 5000, queryFn: ({ signal }) => read("/readyz", { signal }).then(() => true) });
  const gateway = useQuery({ queryKey: ["gateway"], retry: false, refetchInterval: 5000, queryFn: ({ signal }) => data<GatewayBody>(read("/v1/gateway", { signal })) });
  const live = useLive();
  const g = gateway.data;
  const page = (path: string, words: string) => <a href={new URL(path, BASE).href}>{words}</a>;
  return (
    <Facts facts={[
      ["Version", health.data ? <code>{health.data.version}</code> : health.isError ? "It does not answer." : "…"],
      ["Ready", ready.data && !ready.isError ? <span className="inline-flex items-center gap-1.5 font-medium text-good"><CircleCheck size={15} aria-hidden />it takes requests</span> : ready.isError ? <Failed error={ready.error} /> : "…"],
      ["Address", <code className="breaks">{BASE}</code>],
      ["Nodes", g ? <ul aria-label="Nodes">{g.nodes.map((n) => <li key={n.id}><code>{n.id}</code> <span className="text-dim">drives {n.groups} of 256 groups{n.id === g.node ? ", and answers this page" : ""}</span></li>)}</ul> : gateway.isError ? <Failed error={gateway.error} /> : "…"],
      ["Live runs", live && <div className="flex flex-wrap gap-x-5"><LiveRuns of={live} /><span className="text-dim">counted <Ago at={live.at} past /></span></div>],
      ["Kept", g && <>Ended runs, their history and logs for {inWhole(g.retention)}; they go by whole weeks.</>],
      ["A run may have", g && <>{g.limits.steps.toLocaleString("en")} steps, {bytes(g.limits.value_bytes)} in one value, {bytes(g.limits.journal_bytes)} in all, {g.limits.untaken_signals.toLocaleString("en")} signals that nobody has taken</>],
      ["An object", g && <>{g.limits.object_fields.toLocaleString("en")} fields, {bytes(g.limits.object_bytes)} in all</>],
      ["More", <span className="flex flex-wrap gap-x-4">{page("metrics", "Metrics for Prometheus")}{page("docs", "API reference")}{page("openapi.json", "OpenAPI document")}{page("problems", "Problems")}</span>],
    ]} />
  );
}
