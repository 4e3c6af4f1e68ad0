// Acts with a button each, and a menu for those that are rarely wanted.
import { DropdownMenu } from "radix-ui";
import { Ellipsis } from "lucide-react";
import type { Act } from "../acts/act.ts";

export function Menu({ acts, front, onAct, label }: { acts: Act[]; front: number; onAct: (act: Act) => void; label?: string }) {
  const back = acts.slice(front);
  return (
    <>
      {acts.slice(0, front).map((a) => <button key={a.id} type="button" className={`btn ${a.danger ? "danger" : ""}`} title={(a.key ? `${a.sentence} (${a.key.toUpperCase()})` : a.sentence).replaceAll("`", "")} onClick={() => onAct(a)}>{a.label}</button>)}
      {back.length > 0 && (
        <DropdownMenu.Root modal={false}>
          <DropdownMenu.Trigger asChild>{label ? <button type="button" className="btn">{label}</button> : <button type="button" className="btn" aria-label="More"><Ellipsis size={16} aria-hidden /></button>}</DropdownMenu.Trigger>
          <DropdownMenu.Portal><DropdownMenu.Content align="end" sideOffset={4} className="z-20 min-w-40 rounded-md border bg-bg p-1 shadow-xl">
            {back.map((a) => <DropdownMenu.Item key={a.id} onSelect={() => onAct(a)} className={`cursor-pointer rounded px-3 py-1.5 outline-none data-[highlighted]:bg-hover ${a.danger ? "text-bad" : ""}`}>{a.label}</DropdownMenu.Item>)}
          </DropdownMenu.Content></DropdownMenu.Portal>
        </DropdownMenu.Root>
      )}
    </>
  );
}
