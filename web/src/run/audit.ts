// Entries of the audit log in words: what came of an act, and where the dashboard shows what it was about.
import type { AuditEntry } from "../api/types.ts";

export type Outcome = "done" | "refused" | "failed" | "unknown";

/** What came of it. An entry without an answer is of a node that died meanwhile, or of an act that is under way. */
export const outcome = ({ status }: Pick<AuditEntry, "status">): Outcome =>
  status === null || status === undefined ? "unknown" : status < 400 ? "done" : status < 500 ? "refused" : "failed";

/** The first words of paths under `/v1` and the view that shows one of them; `$`: its name or id. */
const PLACES: Record<string, string> = {
  runs: "/runs/$", endpoints: "/endpoints/$", functions: "/functions/$", schedules: "/schedules/$", bulk: "/bulk/$",
  namespaces: "/settings/namespaces?name=$", keys: "/settings/keys", secrets: "/settings/secrets", limits: "/limits",
};
/** Names that are no names of things: `/v1/limits/pause`, `/v1/runs/batch`. */
const VERBS = new Set(["batch", "probe"]);

/** Where the dashboard shows what a path is about. Of an object both names are needed. */
export function placeOf(target: string): { to: string; name: string } | null {
  const [version, kind, name, key] = target.replace(/^\//, "").split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  if (version !== "v1" || kind === undefined) return null;
  if (kind === "objects" && name && key) return { to: `/objects/${encodeURIComponent(name)}/${encodeURIComponent(key)}`, name: key };
  const place = PLACES[kind];
  if (!place) return null;
  if (!place.includes("$")) return { to: place, name: kind };
  if (!name || VERBS.has(name)) return null;
  return { to: place.replace("$", encodeURIComponent(name)), name };
}
