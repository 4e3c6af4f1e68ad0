// How far back a list looks.

/** As it is in the address, in words, and in milliseconds. */
export const SINCE: [string, string, number][] = [["", "Any time", 0], ["15m", "Last 15 minutes", 900e3], ["1h", "Last hour", 3600e3], ["24h", "Last 24 hours", 864e5], ["7d", "Last 7 days", 6048e5]];

/** The moment so many milliseconds ago, by whole minutes, so that a list asked for again is the same list; none: any time. */
export const momentAgo = (since: number | undefined) => (since ? new Date(Math.floor((Date.now() - since) / 60e3) * 60e3).toISOString() : undefined);
