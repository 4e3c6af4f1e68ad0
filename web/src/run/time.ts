// Moments and durations in words.

const UNITS: [ms: number, word: string][] = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "m"], [1000, "s"]];

/** `3 ms`, `1.4 s`, `2m 05s`, `1h 04m`, `3d 2h`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms) || ms < 0) return "0 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9_950 ? 1 : 0)} s`;
  const whole = Math.round(ms / 1000) * 1000;
  const i = UNITS.findIndex(([unit]) => whole >= unit);
  const [big, word] = UNITS[i]!;
  const [small, less] = UNITS[i + 1]!;
  const rest = Math.floor((whole % big) / small);
  const padded = word === "d" ? String(rest) : String(rest).padStart(2, "0");
  return `${Math.floor(whole / big)}${word} ${padded}${less}`;
}

/** `86400s` as `1 d`, `900s` as `15 min`; what is no such length as it is. */
export function inWhole(text: string): string {
  const seconds = Number(/^(\d+)s$/.exec(text)?.[1] ?? NaN);
  if (!seconds) return text;
  const [unit, word] = ([[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]] as const).find(([unit]) => seconds % unit === 0)!;
  return `${seconds / unit} ${word}`;
}

/** The same without a space, as one may type it: `14d`, `90m`. */
export const short = (text: string) => inWhole(text).replace(" min", "m").replace(" ", "");

/** `12 s ago`, `in 3 min`, `now`. */
export function relative(at: number, now: number): string {
  const seconds = Math.round((at - now) / 1000);
  const far = Math.abs(seconds);
  if (far < 1) return "now";
  const [unit, word] = far < 60 ? [1, "s"] : far < 3600 ? [60, "min"] : far < 172_800 ? [3600, "h"] : [86_400, "d"];
  const amount = `${Math.floor(far / (unit as number))} ${word}`;
  return seconds < 0 ? `${amount} ago` : `in ${amount}`;
}

/** A moment in full, in the reader's time zone or in UTC. */
export function absolute(at: string, utc: boolean): string {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return at;
  if (utc) return date.toISOString().replace("T", " ").replace("Z", " UTC");
  const two = (n: number) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

export function bytes(n: number): string {
  if (n < 1024) return `${n} bytes`;
  if (n < 1024 * 1024) return `${(n / 1024).toFixed(1)} KiB`;
  return `${(n / 1024 / 1024).toFixed(1)} MiB`;
}
