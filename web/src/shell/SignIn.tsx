// Where the gateway asks for a key. It stays in this tab.
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { BASE, key, Problem, request, setLocked } from "../api/client.ts";
import { Failed } from "../ui/bits.tsx";

export function SignIn() {
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const queries = useQueryClient();
  const submit = async (event: React.FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const given = String(new FormData(event.currentTarget).get("key") ?? "").trim();
    setBusy(true);
    key.set(given);
    try {
      await request("/v1/runs?limit=1");
      queries.clear();
      setLocked(false);
    } catch (problem) {
      // A key that may not read runs is a key all the same.
      if (problem instanceof Problem && problem.status === 403) setLocked(false);
      else { key.set(null); setError(problem); }
    }
    setBusy(false);
  };
  return (
    <main className="grid min-h-dvh place-items-center p-4">
      <form onSubmit={submit} className="w-full max-w-sm rounded-lg border bg-panel p-6">
        <h1 className="flex items-center gap-2"><img src={new URL("assets/icon.svg", BASE).href} alt="" width={18} height={18} />Sign in to Stepwell</h1>
        <label className="mt-4 block font-medium">API key
          <input name="key" type="password" required autoFocus autoComplete="current-password" spellCheck={false} placeholder="sw_…" className="field mt-1 block w-full font-mono" />
        </label>
        <p className="mt-1 text-[13px] text-dim">It stays in this tab and is sent to this gateway alone.</p>
        {error !== null && <Failed error={error} />}
        <button className="btn primary mt-4 w-full justify-center" disabled={busy}>{busy ? "Signing in…" : "Sign in"}</button>
        <p className="mt-4 border-t pt-3 text-[13px] text-dim">No key yet? <code>stepwell key create --name me --scope admin</code> makes one.</p>
      </form>
    </main>
  );
}
