// Who did what: every change through the API, what it was about, why, and what came of it.
import { useInfiniteQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { Ban, ChevronRight, CircleCheck, CircleHelp, CircleX, X, type LucideIcon } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { BASE, data, read } from "../api/client.ts";
import type { AuditEntry, Page } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { one, type Search } from "../router.tsx";
import { outcome, placeOf, type Outcome } from "../run/audit.ts";
import { momentAgo, SINCE } from "../run/since.ts";
import { useShortcuts } from "../shell/shortcuts.ts";
import { Facts, Failed, Id, Loading, Nothing } from "../ui/bits.tsx";
import { usePrefs } from "../ui/prefs.ts";
import { Ago, Moment } from "../ui/Time.tsx";

const LOOKS: Record<Outcome, [LucideIcon, string, string]> = {
  done: [CircleCheck, "text-good", "done"], refused: [Ban, "text-warn", "refused"], failed: [CircleX, "text-bad", "failed"], unknown: [CircleHelp, "text-dim", "not known"],
};
const FILTERS = ["by", "action", "target"] as const;

export function Audit() {
  const { paused } = usePrefs();
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const [by, action, target] = FILTERS.map((name) => one(search[name]));
  const since = SINCE.find(([name]) => name === one(search.since));
  const show = (to: Search) => navigate({ to: "/settings/$part", params: { part: "audit" }, search: to as never, replace: true });
  const set = (change: Search) => show({ ...search, ...change });
  const list = useInfiniteQuery({
    queryKey: ["audit", by, action, target, since?.[0]], initialPageParam: null as string | null, getNextPageParam: (page: Page<AuditEntry>) => page.next_cursor ?? null,
    queryFn: ({ pageParam, signal }) => data<Page<AuditEntry>>(read("/v1/audit", { params: { query: {
      by, action, target, limit: 50, cursor: pageParam ?? undefined, since: momentAgo(since?.[2]) } }, signal })),
    refetchInterval: (query) => (paused || (query.state.data?.pages.length ?? 0) > 1 ? false : 5000),
  });
  const all = list.data?.pages.flatMap((page) => page.data) ?? [];
  const filtered = Boolean(by || action || target || since?.[2]);
  return (
    <>
      <p className="mb-3 text-dim">Every change through the API, refused ones too. Starts, signals, updates and events are in the histories of their runs. Kept for 400 days.</p>
      <form role="search" aria-label="Filter the audit log" className="mb-3 flex flex-wrap items-center gap-2" onSubmit={(e) => e.preventDefault()}>
        <Typed label="What it was about" placeholder="A path: /v1/endpoints/shop" value={target ?? ""} set={(text) => set({ target: text || undefined })} first />
        <Typed label="Who" placeholder="A key, jwt:ann, local" value={by ?? ""} set={(text) => set({ by: text || undefined })} />
        <select aria-label="When" className="field" value={one(search.since) ?? ""} onChange={(e) => set({ since: e.target.value || undefined })}>{SINCE.map(([id, label]) => <option key={id} value={id}>{label}</option>)}</select>
        {action && <button type="button" className="btn max-w-80" aria-label={`Remove the filter ${action}`} onClick={() => set({ action: undefined })}><code className="truncate">{action}</code><X size={13} aria-hidden /></button>}
        {filtered && <button type="button" className="btn bare" onClick={() => show({})}>Clear</button>}
      </form>
      {list.isError && <Failed error={list.error} again={() => list.refetch()} />}
      {!list.data ? !list.isError && <Loading what="the audit log" /> : !all.length ? <Nothing title={filtered ? "Nobody has done anything like this." : "Nothing has been changed yet."}>{filtered ? "Names and operations are compared as they are, paths by how they begin." : "What is registered, changed or stopped is noted here, before it is done."}</Nothing> : <>
        <ul aria-label="Audit log" className="overflow-hidden rounded-lg border">{all.map((entry) => <li key={entry.id} className="border-b last:border-b-0"><Line of={entry} set={set} /></li>)}</ul>
        {list.hasNextPage && <div className="p-3 text-center"><button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => list.fetchNextPage()}>Load more</button></div>}
      </>}
    </>
  );
}

/** A filter that is typed; it holds when nothing has been typed for a moment. */
function Typed({ label, placeholder, value, set, first }: { label: string; placeholder: string; value: string; set: (text: string) => void; first?: boolean }) {
  const [text, setText] = useState(value);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text.trim() === value) return;
    const later = setTimeout(() => set(text.trim()), 300);
    return () => clearTimeout(later);
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [text]);
  useShortcuts(first ? { f: () => field.current?.focus(), "/": () => field.current?.focus() } : {});
  return <input ref={field} type="search" aria-label={label} placeholder={placeholder} className={`field ${first ? "min-w-56 flex-1" : "w-52"}`} value={text} onChange={(e) => setText(e.target.value)} autoComplete="off" spellCheck={false} />;
}

function Line({ of: e, set }: { of: AuditEntry; set: (change: Search) => void }) {
  const [Icon, tone, word] = LOOKS[outcome(e)];
  const place = placeOf(e.target);
  const method = e.action.split(" ")[0]!;
  return (
    <details className="group">
      <summary className="grid cursor-pointer list-none [&::-webkit-details-marker]:hidden grid-cols-[auto_minmax(0,1fr)_auto] items-baseline gap-x-3 px-3 py-1.5 hover:bg-hover lg:grid-cols-[auto_96px_minmax(0,160px)_minmax(0,1fr)_80px]">
        <ChevronRight size={14} aria-hidden className="mt-1 self-start text-dim group-open:rotate-90" />
        <span className={`whitespace-nowrap font-medium max-lg:hidden ${tone}`}><Icon size={15} aria-hidden className="mr-1.5 inline align-[-3px]" />{word}</span>
        <span className="truncate max-lg:hidden"><code>{visible(e.by)}</code></span>
        <span className="min-w-0"><span className="block truncate"><span className={`mr-1.5 lg:hidden ${tone}`}><Icon size={14} aria-hidden className="inline" /><span className="sr-only">{word}</span></span><code className="text-dim">{method}</code> <code className="font-medium">{visible(e.target)}</code></span>
          <span className="block truncate text-[13px] text-dim lg:hidden">{visible(e.by)}</span>
          {e.reason && <span className="block truncate text-[13px] text-dim">{visible(e.reason)}</span>}</span>
        <span className="text-right text-[13px] text-dim"><Ago at={e.at} /></span>
      </summary>
      <div className="border-t bg-panel px-4 py-3 sm:pl-9">
        <Facts facts={[
          ["When", <Moment at={e.at} />],
          ["Who", <><code>{visible(e.by)}</code>{e.from && <> <span className="text-dim">from</span> <code>{visible(e.from)}</code></>}</>],
          ["Forwarded for", e.forwarded_for && <><code>{visible(e.forwarded_for)}</code> <span className="text-dim">as the request says; nobody has checked it</span></>],
          ["Operation", <code>{visible(e.action)}</code>], ["Path", <code>{visible(e.target)}</code>], ["Reason", e.reason && visible(e.reason)],
          ["Answer", typeof e.status === "number" ? <>{e.status}{e.code && <> <a href={new URL(`problems/${encodeURIComponent(e.code)}`, BASE).href}><code>{e.code}</code></a></>}</>
            : "Not known. It is under way, or its node died meanwhile; what it was about tells whether it was done."],
          ["Request", <Id id={e.request_id} />],
        ]} />
        <div className="mt-3 flex flex-wrap gap-2">
          {place && <Link to={place.to.split("?")[0] as never} search={Object.fromEntries(new URLSearchParams(place.to.split("?")[1] ?? "")) as never} className="btn">Show <code>{place.name}</code></Link>}
          <button type="button" className="btn" onClick={() => set({ by: e.by })}>All by <code>{visible(e.by)}</code></button>
          <button type="button" className="btn" onClick={() => set({ action: e.action })}>All of this operation</button>
          <button type="button" className="btn" onClick={() => set({ target: e.target })}>All under this path</button>
        </div>
      </div>
    </details>
  );
}
