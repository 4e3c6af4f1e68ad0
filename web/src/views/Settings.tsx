// Who may call the gateway, what calls are made with, and what the gateway is.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { Ban, CircleCheck, CirclePlus } from "lucide-react";
import { useState, type ReactNode } from "react";
import { createKey, removeSecret, replaceKey, revokeKey, setSecret } from "../acts/settings.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import type { Act } from "../acts/act.ts";
import { BASE, data, read } from "../api/client.ts";
import type { ApiKey, GatewayBody, Page, Secret } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { bytes, inWhole } from "../run/time.ts";
import { CopyButton, Facts, Failed, Loading, Nothing } from "../ui/bits.tsx";
import { useSaid } from "../ui/Said.tsx";
import { Ago } from "../ui/Time.tsx";

const PARTS = [["keys", "API keys"], ["secrets", "Secrets for calls"], ["gateway", "This gateway"]] as const;

export function Settings() {
  const { part = "keys" } = useParams({ strict: false }) as { part?: string };
  const queries = useQueryClient();
  const [act, setAct] = useState<Act | null>(null);
  const [said, say] = useSaid();
  return (
    <div className="mx-auto max-w-5xl p-4">
      <h1>Settings</h1>
      <nav aria-label="Settings" className="mb-4 mt-2 flex gap-1 overflow-x-auto border-b">
        {PARTS.map(([id, name]) => <Link key={id} to="/settings/$part" params={{ part: id }} aria-current={part === id ? "page" : undefined} className="whitespace-nowrap border-b-2 border-transparent px-2.5 py-1.5 text-dim no-underline hover:text-fg aria-[current=page]:border-accent aria-[current=page]:font-semibold aria-[current=page]:text-accent">{name}</Link>)}
      </nav>
      {part === "keys" ? <Keys onAct={setAct} /> : part === "secrets" ? <Secrets onAct={setAct} /> : part === "gateway" ? <Gateway /> : <Nothing title="There are no such settings." />}
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={(words) => { setAct(null); say(words); void queries.invalidateQueries({ queryKey: ["settings"] }); }} />}
      {said}
    </div>
  );
}

/** A part: what it is, the button that adds to it, and its list. */
function Part({ what, add, onAct, children }: { what: ReactNode; add: Act; onAct: (act: Act) => void; children: ReactNode }) {
  return (
    <>
      <div className="mb-3 flex flex-wrap items-center gap-3"><p className="min-w-60 flex-1 text-dim">{what}</p><button type="button" className="btn primary" onClick={() => onAct(add)}><CirclePlus size={15} aria-hidden />{add.label.replace("…", "")}</button></div>
      {children}
    </>
  );
}

const Table = ({ heads, children }: { heads: string[]; children: ReactNode }) => (
  <div className="relative overflow-x-auto rounded-lg border"><table className="w-full">
    <thead><tr className="border-b bg-panel text-left text-[13px] text-dim">{heads.map((h) => <th key={h} className="px-3 py-1.5 font-medium">{h || <span className="sr-only">act</span>}</th>)}</tr></thead>
    <tbody>{children}</tbody>
  </table></div>
);
const CELL = "px-3 py-1.5";

function Keys({ onAct }: { onAct: (act: Act) => void }) {
  const [all, setAll] = useState(false);
  const keys = useQuery({ queryKey: ["settings", "keys"], queryFn: ({ signal }) => data<Page<ApiKey>>(read("/v1/keys", { params: { query: { limit: 200 } }, signal })), refetchInterval: 10_000 });
  const gone = (keys.data?.data ?? []).filter((k) => k.revoked_at).length;
  const shown = (keys.data?.data ?? []).filter((k) => all || !k.revoked_at);
  return (
    <Part what="Whoever calls the API from elsewhere needs a key; a handler needs none. What a key has done is in the history of runs under its name." add={createKey()} onAct={onAct}>
      {keys.isError ? <Failed error={keys.error} again={() => keys.refetch()} /> : !keys.data ? <Loading what="the keys" rows={4} /> : <>
        {!shown.length ? <Nothing title={gone ? "All keys are revoked." : "There are no keys yet."}>Without one, only this machine can call the gateway.</Nothing> : (
          <Table heads={["name", "scopes", "created", "last used", ""]}>{shown.map((k) => (
            <tr key={k.id} className={`border-b last:border-b-0 ${k.revoked_at ? "text-dim" : ""}`}>
              <td className={CELL}><span className="breaks font-medium">{visible(k.name)}</span> <span className="inline-flex items-center text-[13px] text-dim"><code title={k.id}>…{k.id.slice(-6)}</code><CopyButton text={k.id} label={`Copy the id of ${k.name}`} /></span></td>
              <td className={CELL}>{k.scopes.map((s) => <code key={s} className={`mr-1.5 whitespace-nowrap rounded px-1 ${s === "admin" && !k.revoked_at ? "bg-warn-bg text-warn" : "bg-hover"}`}>{s}</code>)}</td>
              <td className={`${CELL} text-dim`}><Ago at={k.created_at} /></td>
              <td className={CELL}>{k.last_used_at ? <Ago at={k.last_used_at} /> : <span className="text-dim">never</span>}</td>
              <td className={`${CELL} text-right`}>{k.revoked_at ? <span className="inline-flex items-center gap-1.5 whitespace-nowrap"><Ban size={14} aria-hidden />revoked <Ago at={k.revoked_at} /></span> : <span className="inline-flex gap-2"><button type="button" className="btn" aria-label={`Replace ${k.name}`} onClick={() => onAct(replaceKey(k))}>Replace</button><button type="button" className="btn danger" aria-label={`Revoke ${k.name}`} onClick={() => onAct(revokeKey(k))}>Revoke</button></span>}</td>
            </tr>
          ))}</Table>
        )}
        {gone > 0 && <label className="mt-2 flex items-center gap-2 text-dim"><input type="checkbox" checked={all} onChange={(e) => setAll(e.target.checked)} />Show {gone} revoked key{gone === 1 ? "" : "s"} too</label>}
        {keys.data.next_cursor && <p className="mt-2 text-dim">The first 200 are shown.</p>}
      </>}
    </Part>
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
  const g = gateway.data;
  const page = (path: string, words: string) => <a href={new URL(path, BASE).href}>{words}</a>;
  return (
    <Facts facts={[
      ["Version", health.data ? <code>{health.data.version}</code> : health.isError ? "It does not answer." : "…"],
      ["Ready", ready.data && !ready.isError ? <span className="inline-flex items-center gap-1.5 font-medium text-good"><CircleCheck size={15} aria-hidden />it takes requests</span> : ready.isError ? <Failed error={ready.error} /> : "…"],
      ["Address", <code className="breaks">{BASE}</code>],
      ["Nodes", g ? <ul aria-label="Nodes">{g.nodes.map((n) => <li key={n.id}><code>{n.id}</code> <span className="text-dim">drives {n.groups} of 256 groups{n.id === g.node ? ", and answers this page" : ""}</span></li>)}</ul> : gateway.isError ? <Failed error={gateway.error} /> : "…"],
      ["Kept", g && <>Ended runs, their history and logs for {inWhole(g.retention)}; they go by whole weeks.</>],
      ["A run may have", g && <>{g.limits.steps.toLocaleString("en")} steps, {bytes(g.limits.value_bytes)} in one value, {bytes(g.limits.journal_bytes)} in all, {g.limits.untaken_signals.toLocaleString("en")} signals that nobody has taken</>],
      ["An object", g && <>{g.limits.object_fields.toLocaleString("en")} fields, {bytes(g.limits.object_bytes)} in all</>],
      ["More", <span className="flex flex-wrap gap-x-4">{page("metrics", "Metrics for Prometheus")}{page("docs", "API reference")}{page("openapi.json", "OpenAPI document")}{page("problems", "Problems")}</span>],
    ]} />
  );
}
