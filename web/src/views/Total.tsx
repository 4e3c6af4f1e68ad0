// How many runs the filters find, counted as far as it pays.
import { useQuery } from "@tanstack/react-query";
import { howMany } from "../acts/bulk.ts";
import { data, read } from "../api/client.ts";
import { usePrefs } from "../ui/prefs.ts";
import { queryOf, type Filters } from "./RunList.tsx";

export function Total({ filters }: { filters: Filters }) {
  const { paused } = usePrefs();
  const total = useQuery({
    queryKey: ["runs", "total", JSON.stringify(filters)], retry: false, refetchInterval: paused ? false : 15_000,
    queryFn: ({ signal }) => data<{ count?: { count: number; exact: boolean } }>(read("/v1/runs", { params: { query: { ...queryOf(filters), limit: 1, count: "estimate" } }, signal })),
  });
  const count = total.data?.count;
  return count ? <span className="tnum ml-auto whitespace-nowrap text-[13px] text-dim">{howMany(count)}</span> : null;
}
