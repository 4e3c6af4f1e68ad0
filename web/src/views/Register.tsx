// Registers a handler: first what the gateway finds at the URL, in words, then the registration.
import { useQueryClient } from "@tanstack/react-query";
import { CircleCheck, CircleMinus, CircleX } from "lucide-react";
import { useState } from "react";
import { BASE, key, send, type Call } from "../api/client.ts";
import type { Probe, Registered } from "../api/types.ts";
import { shown } from "../acts/calls.ts";
import { CopyButton, Failed } from "../ui/bits.tsx";
import { Dialog } from "../ui/Dialog.tsx";
import { CallTabs } from "../acts/ActDialog.tsx";

export function Register({ onClose }: { onClose: () => void }) {
  return <Dialog title="Register a handler" onClose={onClose}><RegisterForm onDone={onClose} /></Dialog>;
}

/** The name of an endpoint that was given none, as the command line makes it. */
export function nameOf(url: string): string {
  try {
    const { hostname, port } = new URL(url);
    return `${hostname.replaceAll(/[^\w.-]+/g, "")}${port ? `-${port}` : ""}`;
  } catch { return "handler"; }
}

/** `onMade` is told that a secret is about to be shown, which must not go away by itself. */
export function RegisterForm({ onDone, onMade, focus = true }: { onDone: () => void; onMade?: () => void; focus?: boolean }) {
  const [url, setUrl] = useState("http://127.0.0.1:3000/");
  const [name, setName] = useState("");
  const [functions, setFunctions] = useState("");
  const [secret, setSecret] = useState("");
  const [probe, setProbe] = useState<Probe | null>(null);
  const [made, setMade] = useState<Registered | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState<"probe" | "register" | null>(null);
  const [showCall, setShowCall] = useState(false);
  const queries = useQueryClient();
  const names = functions.split(/[\s,]+/).filter(Boolean);
  const body = (dry: boolean) => JSON.stringify({
    name: name.trim() || nameOf(url.trim()), url: url.trim(), ...(secret.trim() ? { secret: secret.trim() } : {}),
    ...(names.length ? { functions: names.map((n) => ({ name: n })), discover: false } : {}), ...(dry ? { dry_run: true } : {}),
  });
  const call: Call = { method: "POST", path: "/v1/endpoints", body: body(false) };
  const cli = ["endpoint", "register", url.trim(), ...(name.trim() ? ["--name", name.trim()] : []), ...names.flatMap((n) => ["--function", n]), ...(names.length ? ["--no-discover"] : [])];
  const act = async (what: "probe" | "register") => {
    setBusy(what);
    setError(null);
    try {
      const answer = await send<Registered>({ ...call, body: body(what === "probe") });
      setProbe(answer.probe);
      if (what === "register") {
        if (answer.secret) onMade?.();
        await Promise.all([queries.invalidateQueries({ queryKey: ["endpoints"] }), queries.invalidateQueries({ queryKey: ["functions"] })]);
        if (answer.secret) setMade(answer);
        else onDone();
      }
    } catch (problem) { setError(problem); }
    setBusy(null);
  };
  if (made) return (
    <div>
      <p className="mb-2"><strong>{made.endpoint?.name}</strong> is registered, with {made.deployment?.functions.join(", ")}.</p>
      <p className="mb-1">The gateway signs its calls with this secret. It is shown this once; give it to the handler, so that it can tell the gateway from others.</p>
      <p className="flex items-center gap-1 rounded-md border bg-panel px-3 py-1.5"><code className="breaks min-w-0 flex-1">{made.secret}</code><CopyButton text={made.secret!} label="Copy the secret" /></p>
      <footer className="mt-4 flex justify-end border-t pt-3"><button type="button" className="btn primary" onClick={onDone}>Done</button></footer>
    </div>
  );
  return (
    <form onSubmit={(e) => { e.preventDefault(); void act("register"); }}>
      <label className="block font-medium">URL<input autoFocus={focus} required type="url" className="field mt-1 block w-full font-mono font-normal" value={url} onChange={(e) => { setUrl(e.target.value); setProbe(null); }} /></label>
      <div className="my-3 grid gap-3 sm:grid-cols-2">
        <label className="font-medium">Name<input className="field mt-1 block w-full font-normal" placeholder={nameOf(url)} value={name} onChange={(e) => setName(e.target.value)} autoComplete="off" /></label>
        <label className="font-medium">Functions<input className="field mt-1 block w-full font-normal" placeholder="empty: the handler says" value={functions} onChange={(e) => { setFunctions(e.target.value); setProbe(null); }} autoComplete="off" /></label>
      </div>
      <label className="mb-3 block font-medium">Signing secret<input className="field mt-1 block w-full font-mono font-normal" placeholder="whsec_…, empty: a new one" value={secret} onChange={(e) => setSecret(e.target.value)} autoComplete="off" spellCheck={false} /></label>
      {probe && <Stages probe={probe} />}
      {error !== null && <Failed error={error} />}
      <button type="button" className="btn bare -ml-1.5 text-accent" aria-expanded={showCall} onClick={() => setShowCall(!showCall)}>{showCall ? "Hide the call" : "Show me the call"}</button>
      {showCall && <CallTabs text={(tool) => shown(tool, BASE, call, cli, key.get() !== null)} />}
      <footer className="mt-4 flex justify-end gap-2 border-t pt-3">
        <button type="button" className="btn" disabled={busy !== null} onClick={() => act("probe")}>{busy === "probe" ? "Trying…" : "Try it"}</button>
        <button className="btn primary" disabled={busy !== null}>{busy === "register" ? "Registering…" : "Register"}</button>
      </footer>
    </form>
  );
}

const STAGES: Record<string, string> = { dns: "The name resolves", connect: "It can be reached", tls: "TLS", status: "It answers well", signature: "The signature is accepted", functions: "Functions" };

/** What the gateway found, stage by stage, with a way out for what failed. */
export function Stages({ probe }: { probe: Probe }) {
  return (
    <ol aria-label="What was found" className="my-3 overflow-hidden rounded-lg border">
      {probe.stages.map((s) => {
        const [Icon, tone, word] = s.ok === null || s.ok === undefined ? [CircleMinus, "text-dim", "not tried"] as const : s.ok ? [CircleCheck, "text-good", "fine"] as const : [CircleX, "text-bad", "failed"] as const;
        return (
          <li key={s.name} className="flex gap-2 border-b px-3 py-1.5 last:border-b-0">
            <Icon size={15} className={`mt-0.5 shrink-0 ${tone}`} aria-label={word} role="img" />
            <div className="min-w-0 flex-1"><span className="font-medium">{STAGES[s.name] ?? s.name}</span> <span className="breaks text-dim">{s.detail}</span>
              {s.fix && <p className="breaks text-bad">{s.fix.charAt(0).toUpperCase() + s.fix.slice(1)}{/[.?!]$/.test(s.fix) ? "" : "."}</p>}</div>
          </li>
        );
      })}
    </ol>
  );
}
