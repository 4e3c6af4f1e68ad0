// What can be done with many runs of the list: those that were chosen, or all that its filters find.
import { X } from "lucide-react";
import { useMemo, useState } from "react";
import { createPortal } from "react-dom";
import type { Act } from "../acts/act.ts";
import { ActDialog } from "../acts/ActDialog.tsx";
import { bulkActs, fitting, type Many } from "../acts/bulk.ts";
import { isByEnd } from "../run/order.ts";
import { momentAgo } from "../run/since.ts";
import { Menu } from "../ui/Menu.tsx";
import type { Filters } from "./RunList.tsx";

/** The filters of the list, as an act on many takes them. A list in the order of ends has no run that lives. */
const manyOf = ({ since, sort, ...rest }: Filters): Many => ({ ...rest, ...(since ? { started_after: momentAgo(since) } : {}), ...(isByEnd(sort) ? { ended_after: new Date(0).toISOString() } : {}) });

/** Acts on every run that the filters find, also where the list does not show it yet. */
export function AllOfThem({ filters }: { filters: Filters }) {
  const [act, setAct] = useState<Act | null>(null);
  // It stands in a form, and a form has no other in it.
  return <><Menu acts={bulkActs(manyOf(filters))} front={0} onAct={setAct} label="All that match…" />{act && createPortal(<ActDialog act={act} onClose={() => setAct(null)} onDone={() => setAct(null)} />, document.body)}</>;
}

/** `statuses`: how those stand that are in sight; one for each. */
export function Chosen({ picked, statuses, most, clear }: { picked: ReadonlySet<string>; statuses: string; most: number; clear: () => void }) {
  const [act, setAct] = useState<Act | null>(null);
  const acts = useMemo(() => bulkActs({ run: [...picked] }, fitting(statuses.split(" ").filter(Boolean))), [picked, statuses]);
  return (
    <div role="toolbar" aria-label="What to do with the chosen runs" className="absolute inset-x-4 bottom-4 z-10 mx-auto flex w-fit max-w-full flex-wrap items-center gap-2 rounded-lg border bg-bg px-3 py-2 shadow-xl">
      <span className="font-medium" role="status">{picked.size.toLocaleString("en")} chosen{picked.size >= most ? ", which is the most" : ""}</span>
      <Menu acts={acts} front={4} onAct={setAct} />
      <button type="button" className="btn bare" aria-label="Choose none" title="Choose none (Esc)" onClick={clear}><X size={15} aria-hidden /></button>
      {act && <ActDialog act={act} onClose={() => setAct(null)} onDone={() => { setAct(null); clear(); }} />}
    </div>
  );
}
