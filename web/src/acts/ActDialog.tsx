// An act before it is done: what will happen, what it takes, and the call itself.
import { Tabs } from "radix-ui";
import { useNavigate } from "@tanstack/react-router";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { BASE, key, send } from "../api/client.ts";
import { CopyButton, Failed, Prose } from "../ui/bits.tsx";
import { Dialog } from "../ui/Dialog.tsx";
import { isReady, type Act, type Field, type Values } from "./act.ts";
import { shown, TOOLS } from "./calls.ts";
import { Input } from "./Fields.tsx";
import { Preview } from "./Preview.tsx";

const first = (field: Field) => ("initial" in field ? (field.initial ?? "") : "");

export function ActDialog({ act, onClose, onDone }: { act: Act; onClose: () => void; onDone: (said: string, answer: unknown) => void }) {
  const [values, setValues] = useState<Values>(() => Object.fromEntries(act.fields.map((f) => [f.name, first(f)])));
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const [call, setCall] = useState(false);
  const [once, setOnce] = useState<{ text: string; what: string; said: string; answer: unknown } | null>(null);
  const form = useRef<HTMLFormElement>(null);
  const navigate = useNavigate();
  const queries = useQueryClient();
  useEffect(() => { form.current?.querySelector<HTMLElement>("input, select, textarea, button[type=submit]")?.focus(); }, []);
  const [known, setKnown] = useState(!act.dry);
  const filled = act.fields.every((f) => isReady(f, values[f.name] ?? ""));
  const ready = filled && known;
  const submit = async () => {
    if (!ready || busy) return;
    setBusy(true);
    setError(null);
    try {
      const answer = await send<{ id?: string } | null>(act.call(values));
      await queries.invalidateQueries({ queryKey: ["runs"] });
      const said = typeof act.done === "string" ? act.done : act.done(answer);
      const secret = act.once?.(answer);
      if (secret) { setOnce({ ...secret, said, answer }); return; }
      onDone(said, answer);
      if (act.leads && answer?.id) await navigate({ to: act.leads, params: { id: answer.id } });
    } catch (problem) {
      // What was typed stays, beside what the gateway says against it.
      setError(problem);
      setBusy(false);
    }
  };
  const title = act.label.replace("…", "");
  if (once) return (
    <Dialog title={title} onClose={() => onDone(once.said, once.answer)}>
      <p className="mb-2"><Prose text={once.what} /></p>
      <p className="flex items-center gap-1 rounded-md border bg-panel px-3 py-1.5"><code className="breaks min-w-0 flex-1">{once.text}</code><CopyButton text={once.text} label="Copy the secret" /></p>
      <footer className="mt-4 flex justify-end border-t pt-3"><button type="button" autoFocus className="btn primary" onClick={() => onDone(once.said, once.answer)}>Done</button></footer>
    </Dialog>
  );
  return (
    <Dialog title={title} onClose={onClose}>
      <form ref={form} onSubmit={(e) => { e.preventDefault(); void submit(); }} onKeyDown={(e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); void submit(); } }}>
        <p className="breaks mb-3"><Prose text={act.sentence} /></p>
        {act.dry && filled && <Preview dry={act.dry} values={values} tell={setKnown} />}
        {act.fields.map((field) => <Input key={field.name} field={field} value={values[field.name] ?? ""} set={(value) => setValues((v) => ({ ...v, [field.name]: value }))} />)}
        <button type="button" className="btn bare -ml-1.5 text-accent" aria-expanded={call} onClick={() => setCall(!call)}>{call ? "Hide the call" : "Show me the call"}</button>
        {call && <CallTabs text={(tool) => shown(tool, BASE, act.call(veiled(act, values)), act.cli(values), key.get() !== null)} />}
        {error !== null && <Failed error={error} />}
        <footer className="sticky -bottom-3 -mx-4 -mb-3 mt-4 flex justify-end gap-2 border-t bg-bg px-4 py-3">
          <button type="button" className="btn" onClick={onClose}>Back</button>
          <button type="submit" disabled={!ready || busy} className={`btn primary ${act.danger ? "danger" : ""}`}>{busy ? "Sending…" : act.doIt}</button>
        </footer>
      </form>
    </Dialog>
  );
}

/** What is shown of the values: secrets are not. */
const veiled = (act: Act, values: Values): Values => ({ ...values, ...Object.fromEntries(act.fields.filter((f) => f.kind === "secret" && values[f.name]).map((f) => [f.name, "…"])) });

/** The same call for several tools. */
export function CallTabs({ text }: { text: (tool: (typeof TOOLS)[number]) => string }) {
  return (
    <Tabs.Root defaultValue="curl" className="mt-1 rounded-md border">
      <Tabs.List aria-label="The call" className="flex gap-1 border-b px-1">
        {TOOLS.map((tool) => <Tabs.Trigger key={tool} value={tool} className="border-b-2 border-transparent px-2 py-1 text-[13px] text-dim data-[state=active]:border-accent data-[state=active]:text-accent">{tool}</Tabs.Trigger>)}
      </Tabs.List>
      {TOOLS.map((tool) => (
        <Tabs.Content key={tool} value={tool} className="relative" tabIndex={-1}>
          <pre tabIndex={0} className="breaks max-h-56 overflow-auto whitespace-pre-wrap px-3 py-2 pr-10">{text(tool)}</pre>
          <span className="absolute right-1 top-1"><CopyButton text={() => text(tool)} label={`Copy for ${tool}`} /></span>
        </Tabs.Content>
      ))}
    </Tabs.Root>
  );
}
