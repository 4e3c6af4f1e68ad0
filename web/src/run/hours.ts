/** Counts of the last hours, the oldest first, in words: how many, and when most. */
export function busiest(hours: number[]): string {
  const all = hours.reduce((sum, n) => sum + n, 0);
  const within = `in the last ${hours.length} hours`;
  if (!all) return `No run ${within}`;
  const most = Math.max(...hours);
  // Of several hours with as many the last counts.
  const ago = hours.length - 1 - hours.lastIndexOf(most);
  const when = ago === 0 ? "in the last hour" : `${ago} hour${ago === 1 ? "" : "s"} ago`;
  return `${all.toLocaleString("en")} run${all === 1 ? "" : "s"} ${within}, most of them ${when}`;
}
