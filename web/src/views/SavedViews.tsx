// The reader's own views of the list: filters that have a name, chosen, renamed and deleted.
import { Popover } from "radix-ui";
import { Check, ChevronDown, Pencil, Star, Trash2 } from "lucide-react";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import type { Search } from "../router.tsx";
import { inWords, NAME, presentOf, renamed, searchOf, textOf, withView, without, type SavedView } from "../run/views.ts";
import { visible } from "../json/text.ts";
import { useShortcuts } from "../shell/shortcuts.ts";
import { useNamespace } from "../shell/tenant.ts";
import { useViews } from "../ui/views.ts";

export function SavedViews({ search }: { search: Search }) {
  const namespace = useNamespace();
  const [views, change] = useViews(namespace);
  const [open, setOpen] = useState(false);
  const [name, setName] = useState("");
  const [refused, setRefused] = useState(false);
  const navigate = useNavigate();
  useShortcuts({ v: () => setOpen(true) });
  const present = presentOf(views, search);
  const given = name.trim();
  const replaces = views.some((v) => v.name === given);
  const keep = (by: (views: SavedView[]) => SavedView[]) => { const done = change(by); setRefused(!done); return done; };
  return (
    <Popover.Root open={open} onOpenChange={(now) => { setOpen(now); setName(""); setRefused(false); }}>
      <Popover.Trigger asChild>
        <button type="button" title="My views (V)" className={`btn bare my-0.5 shrink-0 ${present ? "font-semibold text-accent" : "text-dim"}`}>
          <Star size={14} aria-hidden fill={present ? "currentColor" : "none"} />
          {present ? <><span className="sr-only">My view: </span><span className="max-w-48 truncate">{visible(present.name)}</span></> : <span className="max-sm:sr-only">My views</span>}<ChevronDown size={13} aria-hidden />
        </button>
      </Popover.Trigger>
      <Popover.Portal>
        <Popover.Content align="end" sideOffset={4} collisionPadding={8} aria-label="My views" className="z-20 flex max-h-[min(70dvh,var(--radix-popover-content-available-height))] w-[min(380px,94vw)] flex-col rounded-lg border bg-bg shadow-xl outline-none">
          {views.length > 0 ? (
            <ul aria-label="My views" className="min-h-0 flex-1 overflow-auto p-1">
              {views.map((view) => <One key={view.name} view={view} on={view === present} taken={(to) => views.some((v) => v.name === to)} keep={keep} choose={() => { setOpen(false); void navigate({ to: "/runs", search: searchOf(view.search) as never }); }} />)}
            </ul>
          ) : <p className="px-4 pb-1 pt-4 text-dim">Filters that you come back to can have a name.</p>}
          <div className="border-t px-4 py-3">
            {present ? <p className="text-[13px] text-dim">What is shown is saved as <strong className="breaks text-fg">{visible(present.name)}</strong>.</p> : textOf(search) === "" ? <p className="text-[13px] text-dim">Choose some filters, and give them a name here.</p> : (
              <form onSubmit={(e) => { e.preventDefault(); if (given && keep((all) => withView(all, given, search))) setName(""); }}>
                <label className="block text-[13px] font-medium">A name for what is shown now
                  <span className="mt-1 flex gap-2"><input autoFocus={!views.length} value={name} maxLength={NAME} onChange={(e) => setName(e.target.value)} placeholder="e.g. Checkouts that failed" className="field min-w-0 flex-1 font-normal" />
                    <button className="btn primary" disabled={!given}>{replaces ? "Replace" : "Save"}</button></span>
                </label>
                <p className="breaks mt-1 text-[13px] text-dim">{visible(inWords(textOf(search)))}</p>
              </form>
            )}
            {refused && <p role="alert" className="mt-1 text-[13px] text-bad">This browser keeps nothing for this page.</p>}
            <p className="mt-2 text-[12px] text-dim">Kept in this browser, for the namespace <code>{namespace ?? "…"}</code>.</p>
          </div>
        </Popover.Content>
      </Popover.Portal>
    </Popover.Root>
  );
}

function One({ view, on, taken, keep, choose }: { view: SavedView; on: boolean; taken: (name: string) => boolean; keep: (by: (views: SavedView[]) => SavedView[]) => boolean; choose: () => void }) {
  const [doing, setDoing] = useState<"rename" | "delete" | null>(null);
  const [name, setName] = useState(view.name);
  const name_ = visible(view.name);
  const clash = name.trim() !== view.name && taken(name.trim());
  const back = () => { setDoing(null); setName(view.name); };
  if (doing === "rename") return (
    <li className="px-2 py-1.5">
      <form onSubmit={(e) => { e.preventDefault(); if (name.trim() && !clash && keep((all) => renamed(all, view.name, name))) back(); }}>
        <span className="flex gap-2"><input aria-label={`New name of ${name_}`} aria-invalid={clash} autoFocus maxLength={NAME} value={name} onChange={(e) => setName(e.target.value)} onFocus={(e) => e.target.select()} className="field min-w-0 flex-1" />
          <button className="btn primary" disabled={!name.trim() || clash}>Rename</button><button type="button" className="btn" onClick={back}>Back</button></span>
        {clash && <p role="alert" className="mt-1 text-[13px] text-bad">Another view has this name.</p>}
      </form>
    </li>
  );
  if (doing === "delete") return (
    <li className="flex items-center gap-2 rounded-md bg-bad-bg px-2 py-1.5"><span className="min-w-0 flex-1 truncate text-bad">Delete {name_}?</span>
      <button type="button" className="btn danger" autoFocus onClick={() => keep((all) => without(all, view.name))}>Delete</button><button type="button" className="btn" onClick={back}>Back</button></li>
  );
  return (
    <li className={`group flex items-center rounded-md ${on ? "bg-accent-bg" : "hover:bg-hover"}`}>
      <button type="button" aria-current={on ? "true" : undefined} onClick={choose} className="flex min-w-0 flex-1 items-center gap-2 rounded-md px-2 py-1.5 text-left">
        <Check size={14} aria-hidden className={`shrink-0 text-accent ${on ? "" : "invisible"}`} />
        <span className="min-w-0"><span className={`block truncate ${on ? "font-semibold text-accent" : ""}`}>{name_}</span><span className="block truncate text-[12px] text-dim">{visible(inWords(view.search))}</span></span>
      </button>
      <button type="button" className="btn bare text-dim" aria-label={`Rename ${name_}`} title="Rename" onClick={() => setDoing("rename")}><Pencil size={14} aria-hidden /></button>
      <button type="button" className="btn bare mr-1 text-dim" aria-label={`Delete ${name_}`} title="Delete" onClick={() => setDoing("delete")}><Trash2 size={14} aria-hidden /></button>
    </li>
  );
}
