// Starts a run of a function: its input byte for byte, and the call to do the same elsewhere.
import { useNavigate } from "@tanstack/react-router";
import { useQueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { BASE, key as apiKey, send, type Call } from "../api/client.ts";
import type { Run } from "../api/types.ts";
import { JsonEditor } from "../json/Editor.tsx";
import { SchemaForm } from "../json/Form.tsx";
import { beginning, faults, formOf } from "../json/schema.ts";
import { fault, type Raw } from "../json/text.ts";
import { object } from "../acts/act.ts";
import { shown } from "../acts/calls.ts";
import { Failed } from "../ui/bits.tsx";
import { CallTabs } from "../acts/ActDialog.tsx";

/** `schema`: of its inputs, where the function says one. `keyed`: its runs need a key, which says which object. */
export function StartForm({ name, schema = null, keyed = false }: { name: string; schema?: Raw | null; keyed?: boolean }) {
  const form = useMemo(() => (schema ? formOf(schema) : null), [schema]);
  const [input, setInput] = useState(() => (schema ? beginning(schema) : "{}"));
  const [asJson, setAsJson] = useState(form === null);
  const [tried, setTried] = useState(false);
  const [key, setKey] = useState("");
  const [delay, setDelay] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const [showCall, setShowCall] = useState(false);
  const navigate = useNavigate();
  const queries = useQueryClient();
  const given = (text: string) => (text.trim() ? JSON.stringify(text.trim()) : undefined);
  const call: Call = { method: "POST", path: `/v1/functions/${encodeURIComponent(name)}/runs`, body: object({ input, key: given(key), delay: given(delay) })! };
  const cli = ["run", "start", name, "--input", input, ...(key.trim() ? ["--key", key.trim()] : []), ...(delay.trim() ? ["--delay", delay.trim()] : [])];
  const start = async () => {
    if (fault(input) || busy) return;
    setTried(true);
    // As JSON anything may be sent: the handler has the last word.
    if (!asJson && form && faults(form, input).size) return;
    setBusy(true);
    setError(null);
    try {
      const run = await send<Run>(call);
      await queries.invalidateQueries({ queryKey: ["runs"] });
      await navigate({ to: "/runs/$id", params: { id: run.id } });
    } catch (problem) { setError(problem); setBusy(false); }
  };
  return (
    <form onSubmit={(e) => { e.preventDefault(); void start(); }} onKeyDown={(e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); void start(); } }}>
      <div className="mb-1 flex items-center gap-3"><p className="font-medium">Input</p>
        {form && <div role="group" aria-label="Input as" className="ml-auto flex overflow-hidden rounded-md border border-edge text-[13px]">
          {(["Form", "JSON"] as const).map((way) => <button key={way} type="button" aria-pressed={asJson === (way === "JSON")} onClick={() => setAsJson(way === "JSON")} className="px-2.5 py-0.5 hover:bg-hover aria-pressed:bg-accent-bg aria-pressed:font-semibold aria-pressed:text-accent">{way}</button>)}
        </div>}
      </div>
      {form && !asJson ? <SchemaForm form={form} input={input} onChange={setInput} tried={tried} /> : <>
        <JsonEditor label="Input" value={input} onChange={setInput} />
        {form && !fault(input) && faults(form, input).size > 0 && <ul className="text-xs text-warn">{[...faults(form, input)].map(([field, what]) => <li key={field}><code>{field}</code>: {what}</li>)}</ul>}
      </>}
      <div className="my-3 grid grid-cols-2 gap-3">
        <label className="font-medium">Key<input required={keyed} className="field mt-1 block w-full font-normal" placeholder={keyed ? "which object" : "optional, one live run each"} value={key} onChange={(e) => setKey(e.target.value)} autoComplete="off" /></label>
        {!keyed && <label className="font-medium">Delay<input className="field mt-1 block w-full font-normal" placeholder="optional: 30s, 7d" value={delay} onChange={(e) => setDelay(e.target.value)} autoComplete="off" /></label>}
      </div>
      {error !== null && <Failed error={error} />}
      <div className="flex items-center gap-2">
        <button className="btn primary" disabled={busy || fault(input) !== null}>{busy ? "Starting…" : "Start the run"}</button>
        <button type="button" className="btn bare text-accent" aria-expanded={showCall} onClick={() => setShowCall(!showCall)}>{showCall ? "Hide the call" : "Show me the call"}</button>
      </div>
      {showCall && <div className="mt-2"><CallTabs text={(tool) => shown(tool, BASE, call, cli, apiKey.get() !== null)} /></div>}
    </form>
  );
}
