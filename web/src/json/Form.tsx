// A form for an input that a schema describes. What it makes is JSON text, the same that the editor has.
import { JsonEditor } from "./Editor.tsx";
import { put, wrong, type FormField } from "./schema.ts";
import { asString, fault, fields, type Raw } from "./text.ts";

/** `input` is an object, or no JSON at all yet. */
export function SchemaForm({ form, input, onChange, tried }: { form: FormField[]; input: Raw; onChange: (input: Raw) => void; tried: boolean }) {
  if (fault(input) || !input.trim().startsWith("{")) return <p className="rounded-md border bg-panel px-3 py-2 text-dim">The JSON is no object, which the form could fill. <button type="button" className="btn bare text-accent" onClick={() => onChange("{}")}>Begin anew</button></p>;
  const values = fields(input);
  return <div className="flex flex-col gap-3">{form.map((f) => <One key={f.name} field={f} value={values.get(f.name)} tried={tried} set={(value) => onChange(put(input, f.name, value))} />)}</div>;
}

function One({ field: f, value, set, tried }: { field: FormField; value: Raw | undefined; set: (value: Raw | null) => void; tried: boolean }) {
  // What has not been filled in yet is no fault until somebody tries to start.
  const fault = tried || value !== undefined ? wrong(f, value) : null;
  const id = `field-${f.name}`;
  const about = { "aria-invalid": fault !== null, "aria-describedby": fault ? `${id}-fault` : f.hint ? `${id}-hint` : undefined } as const;
  const name = <>{f.label}{f.required ? <span className="font-normal text-dim"> (required)</span> : null}</>;
  const below = <>
    {f.hint && <span id={`${id}-hint`} className="mt-0.5 block text-xs font-normal text-dim">{f.hint}</span>}
    {fault && <span id={`${id}-fault`} className="mt-0.5 block text-xs font-normal text-bad">{fault}</span>}
  </>;
  if (f.kind === "json") return (
    <div><p className="mb-1 font-medium">{name}</p>
      {value === undefined ? <button type="button" className="btn" onClick={() => set("null")}>Fill in {f.label}</button> : <>
        <JsonEditor label={f.label} value={value} onChange={set} />
        {!f.required && <button type="button" className="btn bare -ml-1.5 text-accent" onClick={() => set(null)}>Leave it out</button>}
      </>}{below}</div>
  );
  return <label className="block font-medium">{name}<Control field={f} value={value} set={set} about={about} />{below}</label>;
}

function Control({ field: f, value, set, about }: { field: FormField; value: Raw | undefined; set: (value: Raw | null) => void; about: object }) {
  const look = "field mt-1 block w-full font-normal";
  switch (f.kind) {
    case "boolean": case "choice": {
      const options = f.kind === "boolean" ? ["true", "false"] : f.options;
      const known = value === undefined || options.includes(value.trim());
      return (
        <select className={look} value={value?.trim() ?? ""} onChange={(e) => set(e.target.value || null)} {...about}>
          <option value="">{f.required ? "choose one" : "leave it out"}</option>{!known && <option value={value!.trim()}>{value}</option>}
          {options.map((o) => <option key={o} value={o}>{asString(o) ?? o}</option>)}
        </select>
      );
    }
    case "number": case "integer":
      // As text, for a number field of the browser would round what it holds.
      return <input className={look} inputMode="decimal" value={value === undefined ? "" : (asString(value) ?? value)} onChange={(e) => set(e.target.value.trim() === "" ? null : number(e.target.value))} autoComplete="off" {...about} />;
    default:
      return <input className={look} value={value === undefined ? "" : (asString(value) ?? value)} onChange={(e) => set(e.target.value === "" && !f.required ? null : JSON.stringify(e.target.value))} autoComplete="off" {...about} />;
  }
}

/** What is typed as a number; what is none yet is kept as a string, so that all of it stays JSON. */
function number(typed: string): Raw {
  const text = typed.trim();
  return fault(text) === null && /^[-\d]/.test(text) ? text : JSON.stringify(text);
}
