// The invocations of an endpoint minute by minute, in figures and words.

/** How many minutes are told. */
export const MINUTES = 60;

/** Counts of the last hour, one for each minute, the oldest first; a minute without any is not told. */
export function byMinute(minutes: { at: string; count: number }[], now: number): number[] {
  const last = Math.floor(now / 60_000);
  const counts = Array.from({ length: MINUTES }, () => 0);
  for (const { at, count } of minutes) {
    const place = MINUTES - 1 - (last - Math.floor(Date.parse(at) / 60_000));
    // A clock that is a little behind the gateway's counts them as of now.
    if (place >= 0) counts[Math.min(place, MINUTES - 1)]! += count;
  }
  return counts;
}

/** A part of a whole in percent: `0 %`, `0.2 %`, `12 %`; what is not none is never written as none. */
export function percent(part: number, whole: number): string {
  if (!part || !whole) return "0 %";
  const of = (100 * part) / whole;
  return of < 0.1 ? "under 0.1 %" : `${of < 10 ? of.toFixed(1) : Math.round(of)} %`;
}
