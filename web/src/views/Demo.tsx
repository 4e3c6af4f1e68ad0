// A run without a handler of one's own: the demo that `stepwell dev` serves itself.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { FlaskConical, Play } from "lucide-react";
import { useState } from "react";
import { BASE, data, key, read, send, type Call } from "../api/client.ts";
import type { Run } from "../api/types.ts";
import { CallTabs } from "../acts/ActDialog.tsx";
import { shown } from "../acts/calls.ts";
import { Failed } from "../ui/bits.tsx";

type Offer = { offered: boolean; endpoint: string | null; function: string | null };
/** The name of its endpoint. */
export const DEMO = "stepwell-demo";
const CALL: Call = { method: "POST", path: "/v1/demo" };

/** What this gateway offers; nothing where it is a server for others. */
export function useOffer() {
  return useQuery({ queryKey: ["demo"], queryFn: ({ signal }) => data<Offer>(read("/v1/demo", { signal })), staleTime: Infinity });
}

export function Demo() {
  const offer = useOffer();
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const [showCall, setShowCall] = useState(false);
  const navigate = useNavigate();
  const queries = useQueryClient();
  const start = async () => {
    setBusy(true);
    setError(null);
    try {
      const run = await send<Run>(CALL);
      await navigate({ to: "/runs/$id", params: { id: run.id } });
      await Promise.all(["runs", "endpoints", "functions"].map((name) => queries.invalidateQueries({ queryKey: [name] })));
    } catch (problem) { setError(problem); setBusy(false); }
  };
  if (!offer.data?.offered) return null;
  return (
    <section aria-labelledby="demo" className="mb-6 rounded-lg border border-accent bg-accent-bg p-4">
      <h2 id="demo" className="flex items-center gap-2"><FlaskConical size={18} className="text-accent" aria-hidden />Try it without writing code</h2>
      <p className="mb-3 mt-1">This gateway has a function of its own to play with: two steps, one that fails the first time and is tried again, three seconds of sleep, and a signal that waits for you. It is a handler like any other, called over HTTP.</p>
      {error !== null && <Failed error={error} />}
      <div className="flex flex-wrap items-center gap-2">
        <button type="button" className="btn primary" disabled={busy} onClick={start}><Play size={14} aria-hidden />{busy ? "Starting…" : "Run the demo"}</button>
        <button type="button" className="btn bare text-accent" aria-expanded={showCall} onClick={() => setShowCall(!showCall)}>{showCall ? "Hide the call" : "Show me the call"}</button>
      </div>
      {showCall && <div className="mt-2 rounded-md bg-bg"><CallTabs text={(tool) => shown(tool, BASE, CALL, ["dev", "--demo"], key.get() !== null)} /></div>}
    </section>
  );
}
