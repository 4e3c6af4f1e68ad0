// Moments: relative, with the moment itself to be had; all by one clock.
import { useSyncExternalStore } from "react";
import { absolute, relative } from "../run/time.ts";
import { usePrefs } from "./prefs.ts";

const told = new Set<() => void>();
let now = Date.now();
let ticking: ReturnType<typeof setInterval> | null = null;
const subscribe = (tell: () => void) => {
  told.add(tell);
  ticking ??= setInterval(() => { now = Date.now(); for (const t of told) t(); }, 1000);
  return () => {
    told.delete(tell);
    if (!told.size && ticking) { clearInterval(ticking); ticking = null; }
  };
};

/** The moment, by the second. */
export const useNow = () => useSyncExternalStore(subscribe, () => now);

/** `past`: it cannot be to come, whatever the clocks say. */
export function Ago({ at, past }: { at: string; past?: boolean }) {
  const { utc } = usePrefs();
  const moment = Date.parse(at);
  const now = useNow();
  return <time dateTime={at} title={absolute(at, utc)} className="tnum whitespace-nowrap">{relative(moment, past ? Math.max(now, moment) : now)}</time>;
}

/** `clock`: the time of day alone, the whole moment on top of it. */
export function Moment({ at, clock }: { at: string; clock?: boolean }) {
  const { utc } = usePrefs();
  return <time dateTime={at} title={clock ? absolute(at, utc) : absolute(at, !utc)} className="tnum whitespace-nowrap">{clock ? (absolute(at, utc).split(" ")[1] ?? at) : absolute(at, utc)}</time>;
}
