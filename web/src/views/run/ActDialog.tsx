// An act before it is done: what will happen, what it takes, and the call itself.
import { Tabs } from "radix-ui";
import { useNavigate } from "@tanstack/react-router";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { BASE, key, send } from "../../api/client.ts";
import { JsonEditor } from "../../json/Editor.tsx";
import { fault } from "../../json/text.ts";
import type { Act, Field, Values } from "../../run/acts.ts";
import { shown, TOOLS } from "../../run/calls.ts";
import { CopyButton, Failed } from "../../ui/bits.tsx";
import { Dialog } from "../../ui/Dialog.tsx";

const first = (field: Field) => ("initial" in field ? (field.initial ?? "") : "");

export function ActDialog({ act, onClose, onDone }: { act: Act; onClose: () => void; onDone: (said: string) => void }) {
  const [values, setValues] = useState<Values>(() => Object.fromEntries(act.fields.map((f) => [f.name, first(f)])));
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const [call, setCall] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const navigate = useNavigate();
  const queries = useQueryClient();
  useEffect(() => { form.current?.querySelector<HTMLElement>("input, select, textarea, button[type=submit]")?.focus(); }, []);
  const ready = act.fields.every((f) => f.kind === "json" ? !fault(values[f.name] ?? "") : f.kind === "text" && f.required ? values[f.name]?.trim() : true);
  const submit = async () => {
    if (!ready || busy) return;
    setBusy(true);
    setError(null);
    try {
      const answer = await send<{ id?: string } | null>(act.call(values));
      await queries.invalidateQueries({ queryKey: ["runs"] });
      onDone(act.done);
      if (act.leads && answer?.id) await navigate({ to: "/runs/$id", params: { id: answer.id } });
    } catch (problem) {
      // What was typed stays, beside what the gateway says against it.
      setError(problem);
      setBusy(false);
    }
  };
  return (
    <Dialog title={act.label.replace("…", "")} onClose={onClose}>
      <form ref={form} onSubmit={(e) => { e.preventDefault(); void submit(); }} onKeyDown={(e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); void submit(); } }}>
        <p className="mb-3">{act.sentence}</p>
        {act.fields.map((field) => <Input key={field.name} field={field} value={values[field.name] ?? ""} set={(value) => setValues((v) => ({ ...v, [field.name]: value }))} />)}
        <button type="button" className="btn bare -ml-1.5 text-accent" aria-expanded={call} onClick={() => setCall(!call)}>{call ? "Hide the call" : "Show me the call"}</button>
        {call && <CallTabs text={(tool) => shown(tool, BASE, act.call(values), act.cli(values), key.get() !== null)} />}
        {error !== null && <Failed error={error} />}
        <footer className="mt-4 flex justify-end gap-2 border-t pt-3">
          <button type="button" className="btn" onClick={onClose}>Back</button>
          <button type="submit" disabled={!ready || busy} className={`btn primary ${act.danger ? "danger" : ""}`}>{busy ? "Sending…" : act.doIt}</button>
        </footer>
      </form>
    </Dialog>
  );
}

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

function Input({ field, value, set }: { field: Field; value: string; set: (value: string) => void }) {
  switch (field.kind) {
    case "json":
      return <div className="mb-3"><p className="mb-1 font-medium">{field.label}</p><JsonEditor label={field.label} value={value} onChange={set} /></div>;
    case "text":
      return (
        <label className="mb-3 block font-medium">{field.label}
          <input className="field mt-1 block w-full font-normal" value={value} required={field.required} placeholder={field.placeholder} onChange={(e) => set(e.target.value)} autoComplete="off" spellCheck={false} />
        </label>
      );
    case "step":
      return (
        <div className="mb-3">
          <label className="block font-medium">{field.label}
            <select className="field mt-1 block w-full font-normal" value={value} onChange={(e) => set(e.target.value)}>
              <option value="">{field.none}</option>{field.steps.map((id) => <option key={id} value={id}>{id}</option>)}
            </select>
          </label>
          <Kept steps={field.steps} from={value} />
        </div>
      );
    case "flag":
      return <label className="mb-3 flex items-center gap-2"><input type="checkbox" checked={value === "true"} onChange={(e) => set(String(e.target.checked))} />{field.label}</label>;
  }
}

/** Which steps keep their values, by name. */
function Kept({ steps, from }: { steps: string[]; from: string }) {
  const at = from ? steps.indexOf(from) : 0;
  const names = (of: string[]) => (of.length > 6 ? `${of.slice(0, 5).join(", ")} and ${of.length - 5} more` : of.join(", "));
  if (!steps.length) return null;
  return (
    <p className="breaks mt-1 text-[13px] text-dim">
      {at > 0 ? <>Kept: <span className="text-good">{names(steps.slice(0, at))}</span>. </> : "Nothing is kept. "}Run again: <span className="text-warn">{names(steps.slice(at))}</span> and what follows.
    </p>
  );
}
