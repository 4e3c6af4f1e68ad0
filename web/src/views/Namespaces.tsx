// The tenants of this gateway: what each may have, how much of it is taken, and who may call in its name.
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useSearch } from "@tanstack/react-router";
import { CirclePlus } from "lucide-react";
import type { ReactNode } from "react";
import { changeNamespace, createNamespace, removeNamespace } from "../acts/namespace.ts";
import type { Act } from "../acts/act.ts";
import { data, read } from "../api/client.ts";
import type { Namespace, Page } from "../api/types.ts";
import { one, type Search } from "../router.tsx";
import { ENDED, word } from "../run/status.ts";
import { inWhole } from "../run/time.ts";
import { Facts, Failed, Loading } from "../ui/bits.tsx";
import { StatusIcon } from "../ui/Status.tsx";
import { Ago, Moment } from "../ui/Time.tsx";
import { Keys } from "./Keys.tsx";
import { CELL, Table } from "./Table.tsx";

/** Who looks after all of them is `admin` in it. */
const DEFAULT = "default";
const Any = ({ children = "any number" }: { children?: ReactNode }) => <span className="text-dim">{children}</span>;
const number = (n: number) => n.toLocaleString("en");

export function Namespaces({ onAct }: { onAct: (act: Act) => void }) {
  const name = one((useSearch({ strict: false }) as Search).name);
  return name ? <OneNamespace name={name} onAct={onAct} /> : <All onAct={onAct} />;
}

function All({ onAct }: { onAct: (act: Act) => void }) {
  const list = useInfiniteQuery({
    queryKey: ["settings", "namespaces"], initialPageParam: null as string | null, getNextPageParam: (page: Page<Namespace>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<Namespace>>(read("/v1/namespaces", { params: { query: { limit: 100, cursor: pageParam ?? undefined } }, signal })),
    refetchInterval: 10_000,
  });
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  // Nobody else is shown this one.
  const looksAfter = all.some((n) => n.name === DEFAULT);
  const add = createNamespace();
  return (
    <>
      <div className="mb-3 flex flex-wrap items-center gap-3">
        <p className="min-w-60 flex-1 text-dim">A namespace is a tenant: its endpoints, functions, runs, secrets and keys are its own. Which one a call is about is said by its key.{list.data && !looksAfter && <> You see the one of your key; admins of <code>{DEFAULT}</code> make them and set their limits.</>}</p>
        {looksAfter && <button type="button" className="btn primary" onClick={() => onAct(add)}><CirclePlus size={15} aria-hidden />{add.label.replace("…", "")}</button>}
      </div>
      {list.isError && !list.data ? <Failed error={list.error} again={() => list.refetch()} /> : !list.data ? <Loading what="the namespaces" rows={4} /> : <>
        {list.isError && <Failed error={list.error} />}
        <Table heads={["name", "live runs", "starts", "requests", "hosts", "changed"]}>{all.map((n) => (
          <tr key={n.name} className="border-b last:border-b-0">
            <td className={CELL}><Link to="/settings/$part" params={{ part: "namespaces" }} search={{ name: n.name } as never} className="font-medium">{n.name}</Link></td>
            <td className={CELL}>{typeof n.limits.live_runs === "number" ? <span className="tnum whitespace-nowrap">at most {number(n.limits.live_runs)}</span> : <Any />}</td>
            <td className={CELL}>{n.limits.starts ? <code className="whitespace-nowrap">{n.limits.starts}</code> : <Any />}</td>
            <td className={CELL}>{n.limits.requests ? <code className="whitespace-nowrap">{n.limits.requests}</code> : <Any />}</td>
            <td className={CELL}><Hosts of={n} most={2} /></td>
            <td className={`${CELL} text-dim`}><Ago at={n.updated_at} /></td>
          </tr>
        ))}</Table>
        {list.hasNextPage && <div className="p-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
      </>}
    </>
  );
}

function Hosts({ of, most }: { of: Namespace; most: number }) {
  if (!of.hosts) return <Any>anywhere</Any>;
  if (!of.hosts.length) return <span className="text-warn">nowhere</span>;
  return <span>{of.hosts.slice(0, most).map((host) => <code key={host} className="breaks mr-3">{host}</code>)}{of.hosts.length > most && <span className="text-dim">and {of.hosts.length - most} more</span>}</span>;
}

function OneNamespace({ name, onAct }: { name: string; onAct: (act: Act) => void }) {
  const own = useQuery({ queryKey: ["settings", "namespaces", name], queryFn: ({ signal }) => data<Namespace>(read("/v1/namespaces/{namespace}", { params: { path: { namespace: name } }, signal })), refetchInterval: 5000 });
  const up = <p className="mb-2 text-[13px] text-dim"><Link to="/settings/$part" params={{ part: "namespaces" }}>Namespaces</Link> / {name}</p>;
  if (own.isError && !own.data) return <>{up}<Failed error={own.error} again={() => own.refetch()} /></>;
  if (!own.data) return <Loading what="the namespace" rows={4} />;
  const n = own.data;
  return (
    <>
      {up}
      <div className="mb-3 flex flex-wrap items-center gap-2"><h2 className="mr-auto text-base">{n.name}</h2>
        <button type="button" className="btn" onClick={() => onAct(changeNamespace(n))}>Change limits…</button>
        {n.name !== DEFAULT && <button type="button" className="btn danger" onClick={() => onAct(removeNamespace(n))}>Delete…</button>}</div>
      {own.isError && <Failed error={own.error} />}
      {n.name === DEFAULT && <p className="mb-3 text-dim">Admins of this one look after all namespaces. It stays.</p>}
      <Facts facts={[
        ["Live runs", <Taken of={n} />],
        ["Starts", n.limits.starts ? <><code>{n.limits.starts}</code> <span className="text-dim">at one node</span></> : <Any />],
        ["Requests", n.limits.requests ? <><code>{n.limits.requests}</code> <span className="text-dim">at one node</span></> : <Any />],
        ["Hosts", <Hosts of={n} most={100} />],
        ["Ended runs", <Kept of={n} />],
        ["Made", <Moment at={n.created_at} />], ["Changed", n.updated_at !== n.created_at && <Moment at={n.updated_at} />],
      ]} />
      <section aria-labelledby="keys" className="mt-6"><h2 id="keys" className="mb-2">Its keys</h2><Keys namespace={n.name} onAct={onAct} /></section>
    </>
  );
}

/** How long its ended runs are kept, where that is shorter than the gateway keeps them. */
function Kept({ of: n }: { of: Namespace }) {
  const kept = ENDED.flatMap((end) => (n.retention[end] ? [[end, inWhole(n.retention[end])] as const] : []));
  if (!kept.length) return <Any>kept as long as the gateway keeps them</Any>;
  if (kept.length === ENDED.length && kept.every(([, length]) => length === kept[0]![1])) return <>kept for {kept[0]![1]}</>;
  return <>{kept.map(([end, length]) => <span key={end} className="mr-4 whitespace-nowrap"><span className="mr-1 inline-block align-[-2px]"><StatusIcon status={end} /></span>{word(end).toLowerCase()} {length}</span>)}{kept.length < ENDED.length && <Any>others as long as the gateway keeps them</Any>}</>;
}

/** So many are counted where there is no limit. */
const COUNTED = 10_000;

/** How many live, and of how many. */
function Taken({ of: n }: { of: Namespace }) {
  const live = n.live_runs ?? 0;
  const most = n.limits.live_runs;
  if (typeof most !== "number") return <span className="tnum">{live >= COUNTED && "at least "}{number(live)} <Any>of any number</Any></span>;
  const full = live >= most;
  return (
    <span className="flex items-center gap-2 whitespace-nowrap"><span aria-hidden className="h-1.5 w-32 overflow-hidden rounded-full bg-hover"><span className={`block h-full rounded-full ${full ? "bg-warn" : "bg-accent"}`} style={{ width: `${Math.min(1, live / most) * 100}%` }} /></span>
      <span className="tnum">{number(live)} <span className="text-dim">of {number(most)}</span></span>{full && <span className="font-medium text-warn">All taken: starts are refused</span>}</span>
  );
}
