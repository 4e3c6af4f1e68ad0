// JSON to be edited. The editor proper is loaded when it is first needed; its text is never parsed
// into numbers.
import { useEffect, useRef, useState } from "react";
import { fault, type Raw } from "./text.ts";

export function JsonEditor({ label, value, onChange }: { label: string; value: Raw; onChange: (text: string) => void }) {
  const host = useRef<HTMLDivElement>(null);
  const change = useRef(onChange);
  change.current = onChange;
  const [ready, setReady] = useState(false);
  const wrong = value.trim() === "" ? "It is empty." : fault(value);
  useEffect(() => {
    let gone = false;
    let view: { destroy(): void } | null = null;
    import("./codemirror.ts").then(({ open }) => {
      if (gone || !host.current) return;
      view = open(host.current, label, value, (text) => change.current(text));
      setReady(true);
    }).catch(() => { /* Without it, a plain field does. */ });
    return () => { gone = true; view?.destroy(); };
    // What is typed comes from the editor itself.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [label]);
  return (
    <div>
      <div ref={host} className="json-editor overflow-hidden rounded-md border border-edge focus-within:outline-2 focus-within:outline-accent" hidden={!ready} />
      {!ready && <textarea aria-label={label} className="field w-full font-mono text-[13px]" rows={5} spellCheck={false} value={value} onChange={(e) => onChange(e.target.value)} />}
      <p className={`mt-1 text-xs ${wrong ? "text-bad" : "text-dim"}`} role="status">{wrong ? `Not JSON yet: ${wrong}` : "JSON, sent as it stands."}</p>
    </div>
  );
}
