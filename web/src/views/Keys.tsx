// API keys: who may call the gateway, and what each may do.
import { useQuery } from "@tanstack/react-query";
import { Ban } from "lucide-react";
import { useState } from "react";
import { createKey, replaceKey, revokeKey } from "../acts/settings.ts";
import type { Act } from "../acts/act.ts";
import { data, read } from "../api/client.ts";
import type { ApiKey, Page } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { CopyButton, Failed, Loading, Nothing } from "../ui/bits.tsx";
import { Ago } from "../ui/Time.tsx";
import { CELL, Part, Table } from "./Table.tsx";

/** `namespace`: of another than the caller's own. */
export function Keys({ namespace, onAct }: { namespace?: string; onAct: (act: Act) => void }) {
  const [all, setAll] = useState(false);
  const keys = useQuery({ queryKey: ["settings", "keys", namespace], queryFn: ({ signal }) => data<Page<ApiKey>>(read("/v1/keys", { params: { query: { limit: 200, namespace } }, signal })), refetchInterval: 10_000 });
  const gone = (keys.data?.data ?? []).filter((k) => k.revoked_at).length;
  const shown = (keys.data?.data ?? []).filter((k) => all || !k.revoked_at);
  return (
    <Part what={namespace ? "Whoever has one of these acts in this namespace alone." : "Whoever calls the API from elsewhere needs a key; a handler needs none. What a key has done is in the history of runs, and in the audit log, under its name."} add={createKey(namespace)} onAct={onAct}>
      {keys.isError ? <Failed error={keys.error} again={() => keys.refetch()} /> : !keys.data ? <Loading what="the keys" rows={4} /> : <>
        {!shown.length ? <Nothing title={gone ? "All keys are revoked." : "There are no keys yet."}>{namespace ? "Nobody can call the gateway in its name yet." : "Without one, only this machine can call the gateway."}</Nothing> : (
          <Table heads={["name", "scopes", "created", "last used", ""]}>{shown.map((k) => (
            <tr key={k.id} className={`border-b last:border-b-0 ${k.revoked_at ? "text-dim" : ""}`}>
              <td className={CELL}><span className="breaks font-medium">{visible(k.name)}</span> <span className="inline-flex items-center text-[13px] text-dim"><code title={k.id}>…{k.id.slice(-6)}</code><CopyButton text={k.id} label={`Copy the id of ${k.name}`} /></span></td>
              <td className={CELL}>{k.scopes.map((s) => <code key={s} className={`mr-1.5 whitespace-nowrap rounded px-1 ${s === "admin" && !k.revoked_at ? "bg-warn-bg text-warn" : "bg-hover"}`}>{s}</code>)}</td>
              <td className={`${CELL} text-dim`}><Ago at={k.created_at} /></td>
              <td className={CELL}>{k.last_used_at ? <Ago at={k.last_used_at} /> : <span className="text-dim">never</span>}</td>
              <td className={`${CELL} text-right`}>{k.revoked_at ? <span className="inline-flex items-center gap-1.5 whitespace-nowrap"><Ban size={14} aria-hidden />revoked <Ago at={k.revoked_at} /></span> : <span className="inline-flex gap-2"><button type="button" className="btn" aria-label={`Replace ${k.name}`} onClick={() => onAct(replaceKey(k, namespace))}>Replace</button><button type="button" className="btn danger" aria-label={`Revoke ${k.name}`} onClick={() => onAct(revokeKey(k, namespace))}>Revoke</button></span>}</td>
            </tr>
          ))}</Table>
        )}
        {gone > 0 && <label className="mt-2 flex items-center gap-2 text-dim"><input type="checkbox" checked={all} onChange={(e) => setAll(e.target.checked)} />Show {gone} revoked key{gone === 1 ? "" : "s"} too</label>}
        {keys.data.next_cursor && <p className="mt-2 text-dim">The first 200 are shown.</p>}
      </>}
    </Part>
  );
}
