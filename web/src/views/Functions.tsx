// The functions, and where each is hosted.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { data, read } from "../api/client.ts";
import type { Fn, Page } from "../api/types.ts";
import { asString, elements, fields, visible } from "../json/text.ts";
import { Failed, Loading, Nothing } from "../ui/bits.tsx";

/** What starts it by itself, in a few words. */
function begun(f: Fn): string {
  const events = elements(f.triggers ?? undefined).map((t) => asString(fields(t).get("event") ?? "")).filter((name) => name !== null);
  return events.length ? `started by ${[...new Set(events)].map(visible).join(", ")}` : "";
}

export function Functions() {
  const functions = useQuery({ queryKey: ["functions"], queryFn: ({ signal }) => data<Page<Fn>>(read("/v1/functions", { params: { query: { limit: 200 } }, signal })), refetchInterval: 10_000 });
  return (
    <div className="mx-auto max-w-5xl p-4">
      <h1 className="mb-3">Functions</h1>
      {functions.isError ? <Failed error={functions.error} again={() => functions.refetch()} /> : !functions.data ? <Loading what="the functions" /> : !functions.data.data.length ? (
        <Nothing title="There are no functions yet.">They come with <Link to="/endpoints">an endpoint</Link>: the URL of a handler.</Nothing>
      ) : (
        <ul className="overflow-hidden rounded-lg border">
          {functions.data.data.map((f) => (
            <li key={f.name} className="flex items-center gap-4 border-b px-4 py-2 last:border-b-0 hover:bg-hover">
              <Link to="/functions/$name" params={{ name: f.name }} className="min-w-0 truncate font-medium">{f.name}</Link>
              <span className="min-w-0 flex-1 basis-0 truncate text-[13px] text-dim">{begun(f)}</span>
              <Link to="/endpoints/$name" params={{ name: f.endpoint_name }} className="truncate text-[13px]">{f.endpoint_name}</Link>
              <Link to="/runs" search={{ function: f.name } as never} className="text-[13px]">Runs</Link>
            </li>
          ))}
        </ul>
      )}
      {functions.data?.next_cursor && <p className="mt-2 text-dim">The first 200 are shown.</p>}
    </div>
  );
}
