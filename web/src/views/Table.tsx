// Lists of settings: what a part is, the button that adds to it, and its table.
import { CirclePlus } from "lucide-react";
import type { ReactNode } from "react";
import type { Act } from "../acts/act.ts";

/** A part: what it is, the button that adds to it, and its list. */
export function Part({ what, add, onAct, children }: { what: ReactNode; add: Act; onAct: (act: Act) => void; children: ReactNode }) {
  return (
    <>
      <div className="mb-3 flex flex-wrap items-center gap-3"><p className="min-w-60 flex-1 text-dim">{what}</p><button type="button" className="btn primary" onClick={() => onAct(add)}><CirclePlus size={15} aria-hidden />{add.label.replace("…", "")}</button></div>
      {children}
    </>
  );
}

/** It scrolls to the side where it is wider than the page. */
export const Table = ({ heads, children }: { heads: string[]; children: ReactNode }) => (
  <div className="relative overflow-x-auto rounded-lg border"><table className="w-full">
    <thead><tr className="border-b bg-panel text-left text-[13px] text-dim">{heads.map((h) => <th key={h} className="px-3 py-1.5 font-medium">{h || <span className="sr-only">act</span>}</th>)}</tr></thead>
    <tbody>{children}</tbody>
  </table></div>
);
export const CELL = "px-3 py-1.5";
