// The fields of a dialog.
import { useQuery } from "@tanstack/react-query";
import { X } from "lucide-react";
import { useId, useState, type ReactNode } from "react";
import { data, Problem, read, request } from "../api/client.ts";
import type { Deployment, Fn, Page } from "../api/types.ts";
import { JsonEditor } from "../json/Editor.tsx";
import { pretty } from "../json/text.ts";
import { Failed } from "../ui/bits.tsx";
import { edited, lines, type Field, type Option } from "./act.ts";

type Set = (value: string) => void;
const FIELD = "field mt-1 block w-full font-normal";

export function Input({ field, value, set }: { field: Field; value: string; set: Set }) {
  switch (field.kind) {
    case "json":
      return <div className="mb-3"><p className="mb-1 font-medium">{field.label}</p><JsonEditor label={field.label} value={value} onChange={set} /></div>;
    case "text":
      return <Labelled label={field.label} hint={field.hint}>{(about) => <input className={FIELD} value={value} required={field.required} placeholder={field.placeholder} onChange={(e) => set(e.target.value)} autoComplete="off" spellCheck={false} {...about} />}</Labelled>;
    case "secret":
      return <Labelled label={field.label} hint={field.hint}>{(about) => <input type="password" className={`${FIELD} font-mono`} value={value} required={!field.optional} onChange={(e) => set(e.target.value)} autoComplete="off" spellCheck={false} {...about} />}</Labelled>;
    case "lines":
      return <Labelled label={field.label} hint={field.hint}>{(about) => <textarea rows={2} className={`${FIELD} font-mono text-[13px]`} value={value} placeholder={field.placeholder} onChange={(e) => set(e.target.value)} autoComplete="off" spellCheck={false} {...about} />}</Labelled>;
    case "step":
      return (
        <div className="mb-3">
          <label className="block font-medium">{field.label}
            <select className={FIELD} value={value} onChange={(e) => set(e.target.value)}>
              <option value="">{field.none}</option>{field.steps.map((id) => <option key={id} value={id}>{id}</option>)}
            </select>
          </label>
          <Kept steps={field.steps} from={value} />
        </div>
      );
    case "select": return <Select label={field.label} options={field.options} value={value} set={set} />;
    case "deployment": return <Deployments field={field} value={value} set={set} />;
    case "many": return <Many label={field.label} options={field.options} value={value} set={set} />;
    case "flag":
      return <label className="mb-3 flex items-center gap-2"><input type="checkbox" checked={value === "true"} onChange={(e) => set(String(e.target.checked))} />{field.label}</label>;
    case "edits": return <Edits field={field} value={value} set={set} />;
  }
}

/** A control below its name, with what there is to say about it. */
function Labelled({ label, hint, children }: { label: string; hint?: string; children: (about: { "aria-describedby"?: string }) => ReactNode }) {
  const id = useId();
  return (
    <div className="mb-3"><label className="block font-medium">{label}{children(hint ? { "aria-describedby": id } : {})}</label>
      {hint && <p id={id} className="breaks mt-1 text-xs text-dim">{hint}</p>}</div>
  );
}

const Select = ({ label, options, value, set }: { label: string; options: Option[]; value: string; set: Set }) => (
  <Labelled label={label} hint={options.find((o) => o.value === value)?.detail}>
    {(about) => <select className={FIELD} value={value} onChange={(e) => set(e.target.value)} {...about}>{options.map((o) => <option key={o.value} value={o.value}>{o.label}</option>)}</select>}
  </Labelled>
);

function Many({ label, options, value, set }: { label: string; options: Option[]; value: string; set: Set }) {
  const chosen = lines(value);
  return (
    <fieldset className="mb-3"><legend className="mb-1 font-medium">{label}</legend>
      <div className="grid gap-1">
        {options.map((o) => (
          <label key={o.value} className="flex items-baseline gap-2"><input type="checkbox" checked={chosen.includes(o.value)} className="translate-y-px"
            onChange={(e) => set([...chosen.filter((v) => v !== o.value), ...(e.target.checked ? [o.value] : [])].join("\n"))} />
            <code>{o.label}</code>{o.detail && <span className="text-[13px] text-dim">{o.detail}</span>}</label>
        ))}
      </div>
    </fieldset>
  );
}

/** How a deployment is told from others by a person. */
export const named = (d: Deployment) => `${d.version ?? `…${d.id.slice(-8)}`}${d.current ? ", the newest" : ""}`;

function Deployments({ field, value, set }: { field: Extract<Field, { kind: "deployment" }>; value: string; set: Set }) {
  const list = useQuery({
    queryKey: ["function", field.function, "deployments"],
    queryFn: async ({ signal }) => {
      const fn = await data<Fn>(read("/v1/functions/{name}", { params: { path: { name: field.function } }, signal }));
      const page = await data<Page<Deployment>>(read("/v1/endpoints/{endpoint}/deployments", { params: { path: { endpoint: fn.endpoint }, query: { limit: 200 } }, signal }));
      return page.data.filter((d) => d.functions.includes(field.function));
    },
  });
  const options = [{ value: "", label: field.none }, ...(list.data ?? []).map((d) => ({ value: d.id, label: named(d), detail: `${d.id}, ${d.url}` }))];
  // Where the list cannot be read, for want of the function or of a scope, the newest is left.
  return <Select label={field.label} options={options} value={value} set={set} />;
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

/** How much of a value is put into an editor. */
const EDITABLE = 1024 * 1024;

/** Steps that are to have another value than was recorded, each with an editor that begins with that. */
function Edits({ field, value, set }: { field: Extract<Field, { kind: "edits" }>; value: string; set: Set }) {
  const edits = edited(value);
  const list = useId();
  const [step, setStep] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const put = (next: Record<string, string>) => set(Object.keys(next).length ? JSON.stringify(next) : "");
  const add = async () => {
    setBusy(true);
    setError(null);
    try {
      // A step that has no value has nothing to begin with.
      const found = await request(`/v1/runs/${field.run}/values/${encodeURIComponent(step)}`).then((r) => r.text())
        .catch((problem: unknown) => { if (problem instanceof Problem && problem.status === 404) return "null"; throw problem; });
      put({ ...edits, [step]: found.length <= EDITABLE ? pretty(found) : "null" });
      setStep("");
    } catch (problem) { setError(problem); }
    setBusy(false);
  };
  if (!field.steps.length) return null;
  return (
    <fieldset className="mb-3"><legend className="mb-1 font-medium">{field.label}</legend>
      {Object.entries(edits).map(([id, json]) => (
        <div key={id} className="mb-2 rounded-md border px-3 py-2">
          <div className="mb-1 flex items-center gap-2"><code className="breaks min-w-0 flex-1 font-semibold">{id}</code>
            <button type="button" className="btn bare" aria-label={`Leave ${id} as it is`} title="Leave it as it is" onClick={() => { const { [id]: _, ...rest } = edits; put(rest); }}><X size={14} aria-hidden /></button></div>
          <JsonEditor label={`Value of ${id}`} value={json} onChange={(text) => put({ ...edited(value), [id]: text })} />
        </div>
      ))}
      <div className="flex items-center gap-2">
        <input className="field min-w-0 flex-1" aria-label="Step to edit" list={list} value={step} placeholder="a step, to give it another value" onChange={(e) => setStep(e.target.value)} autoComplete="off" spellCheck={false}
          onKeyDown={(e) => { if (e.key === "Enter" && !e.ctrlKey && !e.metaKey) { e.preventDefault(); if (step && !(step in edits)) void add(); } }} />
        <datalist id={list}>{field.steps.filter((id) => !(id in edits)).slice(0, 500).map((id) => <option key={id} value={id} />)}</datalist>
        <button type="button" className="btn" disabled={!step.trim() || step in edits || busy} onClick={add}>{busy ? "Reading…" : "Edit it"}</button>
      </div>
      {error !== null && <Failed error={error} />}
    </fieldset>
  );
}
