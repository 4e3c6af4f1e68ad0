// In which namespace the reader is.
import { useQuery } from "@tanstack/react-query";
import { data, key, read } from "../api/client.ts";
import type { Namespace, Page } from "../api/types.ts";

/** The one that everybody begins with. */
export const DEFAULT = "default";

/** The namespace of the key; undefined: it is not known yet. Who sees several is in the first. */
export function useNamespace(): string | undefined {
  const asked = key.get() !== null;
  const own = useQuery({ queryKey: ["namespace of"], enabled: asked, retry: false, staleTime: Infinity, queryFn: ({ signal }) => data<Page<Namespace>>(read("/v1/namespaces", { params: { query: { limit: 2 } }, signal })) });
  if (asked && own.isPending) return undefined;
  const [first, ...more] = own.data?.data ?? [];
  return first && !more.length ? first.name : DEFAULT;
}
