// Saved views, kept in this browser for each namespace by itself.
import { useCallback, useMemo, useSyncExternalStore } from "react";
import { parsed, type SavedView } from "../run/views.ts";

const keyOf = (namespace: string) => `stepwell.views.${namespace}`;
const told = new Set<() => void>();
const tell = () => { for (const t of told) t(); };
const subscribe = (t: () => void) => {
  told.add(t);
  // Another tab has changed them.
  addEventListener("storage", t);
  return () => { told.delete(t); removeEventListener("storage", t); };
};
const kept = (namespace: string | undefined): string | null => {
  try { return namespace === undefined ? null : localStorage.getItem(keyOf(namespace)); } catch { return null; }
};

/** The views of a namespace, and how they are changed; that says whether they could be kept. */
export function useViews(namespace: string | undefined): [SavedView[], (change: (views: SavedView[]) => SavedView[]) => boolean] {
  const text = useSyncExternalStore(subscribe, () => kept(namespace));
  const views = useMemo(() => parsed(text), [text]);
  const change = useCallback((by: (views: SavedView[]) => SavedView[]) => {
    if (namespace === undefined) return false;
    try { localStorage.setItem(keyOf(namespace), JSON.stringify(by(parsed(kept(namespace))))); } catch { return false; }
    tell();
    return true;
  }, [namespace]);
  return [views, change];
}
