// Go to anything: a view, a function, an endpoint, a run by its id or key.
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useEffect, useMemo, useRef, useState } from "react";
import { data, read } from "../api/client.ts";
import type { Endpoint, Fn, ListedRun, Page } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { Dialog } from "../ui/Dialog.tsx";
import { setPrefs, usePrefs } from "../ui/prefs.ts";
import { inWords, searchOf } from "../run/views.ts";
import { StatusIcon } from "../ui/Status.tsx";
import { useViews } from "../ui/views.ts";
import { useNamespace } from "./tenant.ts";

type Item = { id: string; group: string; label: string; detail?: string; status?: string; go: () => void };
const RUN = /run_[0-9a-z]{26}/;
const EVENT = /evt_[0-9a-z]{26}/;
const FINGERPRINT = /^[0-9a-f]{32}$/;

export function Palette({ onClose }: { onClose: () => void }) {
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState(0);
  const navigate = useNavigate();
  const listRef = useRef<HTMLUListElement>(null);
  const search = text.trim();
  const functions = useQuery({ queryKey: ["functions", "palette"], queryFn: () => data<Page<Fn>>(read("/v1/functions", { params: { query: { limit: 200 } } })), staleTime: 30_000 });
  const endpoints = useQuery({ queryKey: ["endpoints", "palette"], queryFn: () => data<Page<Endpoint>>(read("/v1/endpoints", { params: { query: { limit: 200 } } })), staleTime: 30_000 });
  const runs = useQuery({
    queryKey: ["runs", "palette", search], enabled: search.length >= 2,
    queryFn: ({ signal }) => data<Page<ListedRun>>(read("/v1/runs", { params: { query: { q: search, limit: 8 } }, signal })),
  });
  const prefs = usePrefs();
  const [views] = useViews(useNamespace());
  const items = useMemo(() => {
    const fits = (...words: string[]) => words.some((w) => w.toLowerCase().includes(search.toLowerCase()));
    const all: Item[] = [];
    const id = RUN.exec(search)?.[0];
    if (id) all.push({ id, group: "Run", label: `Open ${id}`, go: () => navigate({ to: "/runs/$id", params: { id } }) });
    const event = EVENT.exec(search)?.[0];
    if (event) all.push({ id: event, group: "Event", label: `Open ${event}`, go: () => navigate({ to: "/events/$id", params: { id: event } }) });
    if (FINGERPRINT.test(search)) all.push({ id: search, group: "Error", label: `Open ${search}`, go: () => navigate({ to: "/errors/$fingerprint", params: { fingerprint: search } }) });
    for (const [to, label] of [["/", "Overview"], ["/runs", "Runs"], ["/waiting", "Waiting"], ["/errors", "Errors"], ["/events", "Events"], ["/functions", "Functions"], ["/endpoints", "Endpoints"], ["/schedules", "Schedules"], ["/charts", "Metrics"], ["/limits", "Limits"], ["/bulk", "Bulk operations"], ["/settings", "Settings"]] as const)
      if (fits(label)) all.push({ id: to, group: "Views", label, go: () => navigate({ to }) });
    for (const view of views) if (fits(view.name, "my views")) all.push({ id: view.name, group: "My views", label: view.name, detail: inWords(view.search), go: () => navigate({ to: "/runs", search: searchOf(view.search) as never }) });
    for (const [part, label] of [["keys", "API keys"], ["secrets", "Secrets for calls"], ["namespaces", "Namespaces"], ["audit", "Audit log"]] as const)
      if (fits(label)) all.push({ id: part, group: "Settings", label, go: () => navigate({ to: "/settings/$part", params: { part } }) });
    for (const run of runs.data?.data ?? []) if (run.id !== id) all.push({ id: run.id, group: "Runs", label: run.key ?? run.id, detail: run.function, status: run.status, go: () => navigate({ to: "/runs/$id", params: { id: run.id } }) });
    for (const f of functions.data?.data ?? []) if (fits(f.name)) all.push({ id: `f ${f.name}`, group: "Functions", label: f.name, detail: f.endpoint_name, go: () => navigate({ to: "/functions/$name", params: { name: f.name } }) });
    for (const e of endpoints.data?.data ?? []) if (fits(e.name, e.url ?? "pull")) all.push({ id: e.id, group: "Endpoints", label: e.name, detail: e.url ?? "pull", go: () => navigate({ to: "/endpoints/$name", params: { name: e.name } }) });
    if (fits("copy the link to this page")) all.push({ id: "link", group: "This page", label: "Copy the link to this page", go: () => { void navigator.clipboard?.writeText(location.href).catch(() => { /* The browser forbids it; it is in the address bar. */ }); } });
    const paused = prefs.paused ? "Go on with what is live" : "Pause what is live";
    if (fits(paused)) all.push({ id: "live", group: "This page", label: paused, go: () => setPrefs({ paused: !prefs.paused }) });
    const times = prefs.utc ? "Times in your time zone" : "Times in UTC";
    if (fits(times)) all.push({ id: "utc", group: "This page", label: times, go: () => setPrefs({ utc: !prefs.utc }) });
    for (const theme of ["light", "dark", "system"] as const) if (fits(`theme ${theme}`)) all.push({ id: theme, group: "Theme", label: `Theme: ${theme}`, go: () => setPrefs({ theme }) });
    return all.slice(0, 60);
  }, [search, runs.data, functions.data, endpoints.data, views, prefs, navigate]);
  useEffect(() => setChosen(0), [search]);
  useEffect(() => { listRef.current?.children[chosen]?.scrollIntoView({ block: "nearest" }); }, [chosen]);
  const pick = (item: Item | undefined) => { if (item) { onClose(); item.go(); } };
  return (
    <Dialog title="Search, or go to" onClose={onClose}>
      <input role="combobox" aria-expanded aria-controls="palette" aria-activedescendant={items[chosen] ? `palette-${chosen}` : undefined} aria-label="Search" autoFocus
        className="field w-full py-1.5" placeholder="A run's id or key, a function, an endpoint, a view" value={text} onChange={(e) => setText(e.target.value)}
        onKeyDown={(e) => {
          const move = { ArrowDown: 1, ArrowUp: -1 }[e.key];
          if (move) { e.preventDefault(); setChosen((c) => Math.max(0, Math.min(items.length - 1, c + move))); }
          if (e.key === "Enter") { e.preventDefault(); pick(items[chosen]); }
        }} />
      <ul id="palette" role="listbox" aria-label="Found" ref={listRef} className="mt-2 h-80 overflow-auto">
        {items.map((item, i) => (
          <li key={item.group + item.id} id={`palette-${i}`} role="option" aria-selected={i === chosen} onMouseMove={() => setChosen(i)} onClick={() => pick(item)}
            className="flex cursor-pointer items-center gap-2 rounded px-2 py-1.5 aria-selected:bg-accent-bg">
            {item.status && <StatusIcon status={item.status} />}
            <span className="min-w-0 truncate">{visible(item.label)}</span>{item.detail && <span className="min-w-0 truncate text-dim">{visible(item.detail)}</span>}
            <span className="ml-auto text-xs text-dim">{item.group}</span>
          </li>
        ))}
        {!items.length && <li role="option" aria-selected={false} aria-disabled className="px-2 py-8 text-center text-dim">{runs.isFetching ? "Searching…" : "Nothing is called so."}</li>}
      </ul>
    </Dialog>
  );
}
