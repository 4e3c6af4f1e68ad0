// A payload, as text: never markup, never rounded, long ones by their head.
import { Download, WrapText } from "lucide-react";
import { useMemo, useState } from "react";
import { bytes } from "../run/time.ts";
import { CopyButton } from "../ui/bits.tsx";
import { asString, pretty, tokens, visible, type Raw } from "./text.ts";

/** How much of a payload is shown before all of it is asked for. */
const HEAD = 256 * 1024;
/** Beyond this, colours cost more than they tell. */
const COLOURED = 48 * 1024;

export function Json({ raw, name, tall }: { raw: Raw; name: string; tall?: boolean }) {
  const [all, setAll] = useState(false);
  const [wrap, setWrap] = useState(true);
  const [asIs, setAsIs] = useState(false);
  // A text of several lines is read as one; its JSON is a click away.
  const lines = useMemo(() => (raw.length < HEAD && raw.includes("\\n") ? asString(raw) : null), [raw]);
  const cut = !all && raw.length > HEAD;
  const shown = useMemo(() => {
    const text = cut ? raw.slice(0, HEAD) : raw;
    if (lines !== null && !asIs) return visible(lines);
    // A head is no JSON any more; it is shown as it came.
    return visible(asIs || cut ? text : pretty(text));
  }, [raw, cut, asIs, lines]);
  const pieces = useMemo(() => (shown.length <= COLOURED && (lines === null || asIs) ? tokens(shown) : null), [shown, lines, asIs]);
  return (
    <div className="overflow-hidden rounded-md border bg-panel">
      <div className="flex items-center gap-1 border-b px-2 py-0.5 text-dim">
        <span className="flex-1 truncate text-xs">{lines !== null && !asIs ? "text" : "JSON"}, {bytes(new Blob([raw]).size)}{cut ? `; the first ${bytes(HEAD)} are shown` : ""}</span>
        {cut && <button type="button" className="btn bare text-xs" onClick={() => setAll(true)}>Load all</button>}
        <button type="button" className="btn bare text-xs" aria-pressed={asIs} onClick={() => setAsIs(!asIs)} title="As it came, without line breaks of ours">Raw</button>
        <button type="button" className="btn bare" aria-pressed={wrap} onClick={() => setWrap(!wrap)} aria-label="Wrap lines" title="Wrap lines"><WrapText size={14} aria-hidden /></button>
        <CopyButton text={raw} label={`Copy ${name}`} />
        <button type="button" className="btn bare" aria-label={`Download ${name}`} title="Download" onClick={() => save(raw, `${name.replaceAll(/[^\w.-]+/g, "-")}.json`)}><Download size={14} aria-hidden /></button>
      </div>
      <pre tabIndex={0} aria-label={name} dir="auto"
        className={`overflow-auto px-3 py-2 ${tall ? "max-h-[70vh]" : "max-h-80"} ${wrap ? "breaks whitespace-pre-wrap" : ""}`}>
        {pieces ? pieces.map((t, i) => (t.kind === "mark" ? t.text : <span key={i} className={t.kind}>{t.text}</span>)) : shown}
      </pre>
    </div>
  );
}

/** Hands a text to the browser as a file. */
export function save(text: string, name: string, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
