// What the reader has chosen for this browser.
import { useSyncExternalStore } from "react";

export type Prefs = { theme: "system" | "light" | "dark"; utc: boolean; paused: boolean; narrow: boolean };

const KEY = "stepwell.prefs";
const told = new Set<() => void>();
let prefs: Prefs = { theme: "system", utc: false, paused: false, narrow: false };
try {
  // Paused is for a moment, not for the next visit.
  prefs = { ...prefs, ...JSON.parse(localStorage.getItem(KEY) ?? "{}"), paused: false };
} catch { /* What is kept is not ours: the defaults will do. */ }

export function setPrefs(change: Partial<Prefs>) {
  prefs = { ...prefs, ...change };
  try { localStorage.setItem(KEY, JSON.stringify(prefs)); } catch { /* Nothing may be kept here; then it holds for this page. */ }
  for (const tell of told) tell();
}

const subscribe = (tell: () => void) => { told.add(tell); return () => { told.delete(tell); }; };
export const usePrefs = () => useSyncExternalStore(subscribe, () => prefs);

const dark = matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const theme = prefs.theme === "system" ? (dark.matches ? "dark" : "light") : prefs.theme;
  document.documentElement.dataset.theme = theme;
}
dark.addEventListener("change", paint);
told.add(paint);
paint();
