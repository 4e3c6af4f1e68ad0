// Keys. They do nothing while somebody types, or while a dialog is open.
import { useEffect, useRef } from "react";

const typing = (target: EventTarget | null) =>
  target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName) && !(target instanceof HTMLInputElement && target.type === "checkbox") || target.shadowRoot !== null);

let before: { key: string; at: number } | null = null;

/** The name of a key as it is pressed: `j`, `?`, `mod+k`; after a `g`, `g r`. */
export function named(event: Pick<KeyboardEvent, "key" | "ctrlKey" | "metaKey" | "altKey">, after: string | null): string | null {
  if (event.altKey) return null;
  if (event.ctrlKey || event.metaKey) return `mod+${event.key.toLowerCase()}`;
  return after === "g" ? `g ${event.key}` : event.key;
}

export function useShortcuts(keys: Record<string, (event: KeyboardEvent) => void>) {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.defaultPrevented) return;
      const open = document.querySelector("dialog[open], [role=dialog], [role=menu]");
      const after = before && event.timeStamp - before.at < 1200 ? before.key : null;
      const name = named(event, after);
      if (name === null || (open && name !== "mod+k")) return;
      if (typing(event.target) && !name.startsWith("mod+")) return;
      const act = latest.current[name];
      if (!act) return;
      event.preventDefault();
      act(event);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

// Which key came before is known to all listeners alike, after all of them have heard it.
if (typeof window !== "undefined") addEventListener("keydown", (event) => {
  const heard = { key: event.key, at: event.timeStamp };
  setTimeout(() => { before = typing(event.target) ? null : heard; });
}, true);

/** What the sheet shows. */
export const SHEET: [string, [string, string][]][] = [
  ["Everywhere", [["Ctrl K", "Search, or go to"], ["Ctrl B", "Sidebar"], ["G then O R W X V F E C M L B S", "Overview, runs, waiting, errors, events, functions, endpoints, schedules, metrics, limits, bulk, settings"], ["P", "Pause what is live"], ["?", "This sheet"], ["Esc", "Close"], ["Ctrl Enter", "Confirm a dialog"]]],
  ["Runs and events", [["J K", "Next, previous"], ["Enter", "Open"], ["O", "Open the run in a new tab"], ["X", "Choose the run"], ["F or /", "Filter"], ["1 to 9", "Runs of a status"], ["V", "My views of the runs"]]],
  ["One run", [["T", "Timeline"], ["J", "Journal"], ["I", "Input and output"], ["O", "Live output, where there is one"], ["N", "Retry now"], ["S", "Signal"], ["C", "Cancel"], ["R", "Run again"], ["Esc", "Close the step"]]],
];
