// Small pieces that many views show.
import { Check, Copy, Lock, TriangleAlert, type LucideIcon } from "lucide-react";
import { useState, type ReactNode } from "react";
import { Link } from "@tanstack/react-router";
import { inWords, key, Problem, setLocked } from "../api/client.ts";
import { parts, type Part } from "../run/why.ts";
import { Ago } from "./Time.tsx";

/** Puts a text into the clipboard. */
export function CopyButton({ text, label, bare = true, icon: Icon = Copy }: { text: string | (() => string); label: string; bare?: boolean; icon?: LucideIcon }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(typeof text === "string" ? text : text());
      setDone(true);
      setTimeout(() => setDone(false), 1500);
    } catch { /* The browser forbids it; the text can be selected. */ }
  };
  return (
    <button type="button" className={`btn ${bare ? "bare" : ""}`} onClick={copy} aria-label={done ? "Copied" : label} title={label}>
      {done ? <Check size={14} aria-hidden /> : <Icon size={14} aria-hidden />}
    </button>
  );
}

/** Words with `code` and moments in them. */
export const Prose = ({ text }: { text: string | Part[] }) => (
  <>{(typeof text === "string" ? parts(text) : text).map((part, i) =>
    typeof part === "string" ? <span key={i}>{part}</span> : "code" in part ? <code key={i} className="breaks rounded bg-hover px-1">{part.code}</code> : <Ago key={i} at={part.at} />)}</>
);

/** How many runs a problem names at most. */
const NAMED = 5;

/** The runs that a problem names, as when something is refused on their account. */
function Concerned({ error }: { error: unknown }) {
  const runs = error instanceof Problem && Array.isArray(error.body.runs) ? error.body.runs.filter((id) => typeof id === "string") : [];
  if (!runs.length) return null;
  return <p className="mt-1 flex flex-wrap gap-x-3">{runs.slice(0, NAMED).map((id) => <Link key={id} to="/runs/$id" params={{ id }} className="text-bad"><code>{id}</code></Link>)}{runs.length > NAMED && <span>and {runs.length - NAMED} more</span>}</p>;
}

/** What one may not read, and how one could: nothing is wrong with it. */
const Refused = ({ error }: { error: Problem }) => (
  <div role="alert" className="px-6 py-10 text-center"><p className="inline-flex items-center gap-2 font-medium"><Lock size={16} aria-hidden />This is not for your key.</p>
    <p className="mt-1 text-dim"><Prose text={inWords(error)} /></p>
    {key.get() !== null && <button type="button" className="btn mt-4" onClick={() => { key.set(null); setLocked(true); }}>Sign in with another key</button>}</div>
);

/** `again`: reads it again, where it was something to be read. */
export function Failed({ error, again }: { error: unknown; again?: () => void }) {
  if (again && error instanceof Problem && error.status === 403) return <Refused error={error} />;
  return (
    <div role="alert" className="my-2 flex gap-2 rounded-md border border-bad bg-bad-bg px-3 py-2 text-bad">
      <TriangleAlert size={16} className="mt-0.5 shrink-0" aria-hidden />
      <div className="breaks min-w-0 flex-1 whitespace-pre-wrap"><Prose text={inWords(error)} /><Concerned error={error} /></div>
      {again && <button type="button" className="btn" onClick={again}>Try again</button>}
    </div>
  );
}

/** Rows that are on their way: never mistaken for none. */
export const Loading = ({ what, rows = 6 }: { what: string; rows?: number }) => (
  <div role="status" className="p-4"><span className="sr-only">Reading {what}…</span>
    {Array.from({ length: rows }, (_, i) => <div key={i} aria-hidden className="my-2.5 h-4 rounded bg-hover" style={{ width: `${90 - ((i * 17) % 40)}%` }} />)}
  </div>
);

export const Nothing = ({ title, children }: { title: string; children?: ReactNode }) => (
  <div className="px-6 py-14 text-center"><p className="font-medium">{title}</p>{children && <div className="mt-1 text-dim">{children}</div>}</div>
);

export const Kbd = ({ children }: { children: ReactNode }) => <kbd className="rounded border border-line bg-panel px-1 text-[11px] text-dim">{children}</kbd>;

/** An id, to be copied. */
export const Id = ({ id, short }: { id: string; short?: boolean }) => (
  <span className="inline-flex items-center gap-0.5"><code className="breaks" title={id}>{short ? `…${id.slice(-8)}` : id}</code><CopyButton text={id} label={`Copy ${id}`} /></span>
);

export const Facts = ({ facts }: { facts: [string, ReactNode][] }) => (
  <dl className="grid grid-cols-[max-content_minmax(0,1fr)] gap-x-5 gap-y-1">
    {facts.filter(([, v]) => v !== null && v !== undefined && v !== false).map(([k, v]) => (
      <div key={k} className="contents"><dt className="text-dim">{k}</dt><dd className="breaks min-w-0">{v}</dd></div>
    ))}
  </dl>
);
