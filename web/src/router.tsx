// The addresses. Filters, tab and selected step are in them: a link shows the same screen.
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, type RouteComponent } from "@tanstack/react-router";
import { BASE } from "./api/client.ts";
import { Shell } from "./shell/Shell.tsx";
import { Runs } from "./views/Runs.tsx";
import { Nothing } from "./ui/bits.tsx";

/** A parameter is text; one that is there twice is a list. */
export type Search = Record<string, string | string[] | undefined>;
export const list = (value: string | string[] | undefined) => (value === undefined ? [] : Array.isArray(value) ? value : [value]);
export const one = (value: string | string[] | undefined) => (Array.isArray(value) ? value[0] : value);

function parseSearch(text: string): Search {
  const out: Search = {};
  for (const [name, value] of new URLSearchParams(text)) {
    const before = out[name];
    out[name] = before === undefined ? value : [...list(before), value];
  }
  return out;
}

function stringifySearch(search: Search): string {
  const out = new URLSearchParams();
  for (const [name, value] of Object.entries(search)) for (const v of list(value)) if (v !== "") out.append(name, v);
  const text = out.toString();
  return text ? `?${text}` : "";
}

const any = (search: Record<string, unknown>) => search as Search;
const root = createRootRoute({ component: Shell, notFoundComponent: () => <Nothing title="There is no such page.">The address may be mistyped.</Nothing>, validateSearch: any });
const at = <P extends string>(path: P, component: RouteComponent) => createRoute({ getParentRoute: () => root, path, component });

const routes = [
  at("/", lazyRouteComponent(() => import("./views/Overview.tsx"), "Overview")), at("/runs", Runs), at("/runs/$id", lazyRouteComponent(() => import("./views/run/Run.tsx"), "Run")),
  at("/waiting", lazyRouteComponent(() => import("./views/Waiting.tsx"), "Waiting")),
  at("/errors", lazyRouteComponent(() => import("./views/Errors.tsx"), "Errors")), at("/errors/$fingerprint", lazyRouteComponent(() => import("./views/Errors.tsx"), "OneError")),
  at("/events", lazyRouteComponent(() => import("./views/Events.tsx"), "Events")), at("/events/$id", lazyRouteComponent(() => import("./views/Event.tsx"), "Event")),
  at("/objects/$function/$key", lazyRouteComponent(() => import("./views/Held.tsx"), "HeldObject")),
  at("/bulk", lazyRouteComponent(() => import("./views/Bulk.tsx"), "Bulks")), at("/bulk/$id", lazyRouteComponent(() => import("./views/Bulk.tsx"), "Bulk")),
  at("/charts", lazyRouteComponent(() => import("./views/Metrics.tsx"), "Metrics")), at("/limits", lazyRouteComponent(() => import("./views/Limits.tsx"), "Limits")),
  at("/schedules", lazyRouteComponent(() => import("./views/Schedules.tsx"), "Schedules")), at("/schedules/$name", lazyRouteComponent(() => import("./views/Schedule.tsx"), "Schedule")),
  at("/functions", lazyRouteComponent(() => import("./views/Functions.tsx"), "Functions")), at("/functions/$name", lazyRouteComponent(() => import("./views/Function.tsx"), "Fn")),
  at("/endpoints", lazyRouteComponent(() => import("./views/Endpoints.tsx"), "Endpoints")), at("/endpoints/$name", lazyRouteComponent(() => import("./views/Endpoint.tsx"), "Endpoint")),
  at("/settings", lazyRouteComponent(() => import("./views/Settings.tsx"), "Settings")), at("/settings/$part", lazyRouteComponent(() => import("./views/Settings.tsx"), "Settings")),
];

export const router = createRouter({
  routeTree: root.addChildren(routes),
  basepath: new URL(BASE).pathname,
  parseSearch, stringifySearch: (search) => stringifySearch(search as Search),
  defaultPreload: false,
});

declare module "@tanstack/react-router" {
  interface Register { router: typeof router }
}
