// Which runs an act on many would touch, before it is done: how many, and some of them.
import { useQuery } from "@tanstack/react-query";
import { useEffect } from "react";
import { send } from "../api/client.ts";
import type { BulkDryRun } from "../api/types.ts";
import { visible } from "../json/text.ts";
import { Failed } from "../ui/bits.tsx";
import { Status } from "../ui/Status.tsx";
import type { Act, Values } from "./act.ts";
import { howMany } from "./bulk.ts";

/** So many of them are shown. */
const SHOWN = 5;

/** `tell`: whether it is known, and there are any. */
export function Preview({ dry, values, tell }: { dry: NonNullable<Act["dry"]>; values: Values; tell: (ready: boolean) => void }) {
  const call = dry(values);
  const found = useQuery({ queryKey: ["dry run", call.path, call.body], queryFn: () => send<BulkDryRun>(call), staleTime: 10_000, gcTime: 30_000, placeholderData: (was) => was });
  const count = found.data?.expected;
  const ready = !found.isError && !found.isPlaceholderData && (count?.count ?? 0) > 0;
  useEffect(() => { tell(ready); }, [ready, tell]);
  if (found.isError) return <Failed error={found.error} again={() => found.refetch()} />;
  return (
    <div role="status" className="mb-3 rounded-md border bg-panel px-3 py-2">
      {!count ? <p className="text-dim">Counting the runs…</p> : count.count === 0 ? <p className="font-medium">It would touch no run: none matches.</p> : <>
        <p className="font-medium">It would touch {howMany(count)}.</p>
        <ul aria-label="Some of them" className="mt-1 grid gap-0.5 text-[13px]">{found.data!.sample.slice(0, SHOWN).map((run) => (
          <li key={run.id} className="flex min-w-0 items-center gap-3"><span className="w-28"><Status status={run.status} /></span><span className="truncate">{run.function} <code className="text-dim">{run.key ? visible(run.key) : `…${run.id.slice(-10)}`}</code></span></li>))}
          {count.count > Math.min(SHOWN, found.data!.sample.length) && <li className="text-dim">and others</li>}</ul>
      </>}
    </div>
  );
}
