// What is around every view: where one can go, whether it is live, how it looks.
import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useNavigate, useRouterState } from "@tanstack/react-router";
import { Activity, BookOpen, Bug, CalendarClock, ChartLine, CircleQuestionMark, Clock3, SquareFunction, Gauge, Hourglass, KeyRound, Layers, Monitor, Moon, PanelLeft, Pause, Play, Radio, Search as SearchIcon, Settings, Sun, Waypoints, WifiOff, Zap } from "lucide-react";
import { lazy, Suspense, useEffect, useState, useSyncExternalStore } from "react";
import { BASE, data, key, lock, read } from "../api/client.ts";
import { useShortcuts } from "./shortcuts.ts";
import { setPrefs, usePrefs } from "../ui/prefs.ts";
import { SignIn } from "./SignIn.tsx";
import { DEFAULT, useNamespace } from "./tenant.ts";

const Palette = lazy(async () => ({ default: (await import("./Palette.tsx")).Palette }));
const Shortcuts = lazy(async () => ({ default: (await import("./Shortcuts.tsx")).Shortcuts }));

const NAV = [
  ["Monitor", [["/", "Overview", Gauge], ["/runs", "Runs", Activity], ["/waiting", "Waiting", Hourglass], ["/errors", "Errors", Bug], ["/events", "Events", Zap]]],
  ["Build", [["/functions", "Functions", SquareFunction], ["/endpoints", "Endpoints", Radio], ["/schedules", "Schedules", CalendarClock]]],
  ["Operate", [["/charts", "Metrics", ChartLine], ["/limits", "Limits", Waypoints], ["/bulk", "Bulk operations", Layers], ["/settings", "Settings", Settings]]],
] as const;

/** Whether the gateway answers, and its version. */
function useHealth() {
  return useQuery({
    queryKey: ["health"],
    queryFn: ({ signal }) => data<{ version: string }>(read("/healthz", { signal })),
    refetchInterval: (query) => (query.state.status === "error" ? 1000 : 10_000),
    retry: false,
  });
}

export function Shell() {
  const locked = useSyncExternalStore(lock.subscribe, lock.get);
  const prefs = usePrefs();
  const [sheet, setSheet] = useState<"palette" | "help" | null>(null);
  const health = useHealth();
  const namespace = useNamespace();
  const tenant = namespace === DEFAULT ? undefined : namespace;
  const path = useRouterState({ select: (s) => s.location.pathname });
  const navigate = useNavigate();
  useEffect(() => {
    const name = path === "/" ? "Overview" : path === "/charts" ? "Metrics" : path.split("/")[1]!;
    document.title = `${name.charAt(0).toUpperCase()}${name.slice(1)} · Stepwell`;
  }, [path]);
  useShortcuts({
    "mod+k": () => setSheet("palette"), "mod+b": () => setPrefs({ narrow: !prefs.narrow }),
    "?": () => setSheet("help"), p: () => setPrefs({ paused: !prefs.paused }),
    "g o": () => navigate({ to: "/" }), "g r": () => navigate({ to: "/runs" }), "g w": () => navigate({ to: "/waiting" }), "g x": () => navigate({ to: "/errors" }), "g v": () => navigate({ to: "/events" }),
    "g f": () => navigate({ to: "/functions" }), "g e": () => navigate({ to: "/endpoints" }), "g c": () => navigate({ to: "/schedules" }), "g b": () => navigate({ to: "/bulk" }), "g m": () => navigate({ to: "/charts" }), "g l": () => navigate({ to: "/limits" }), "g s": () => navigate({ to: "/settings" }),
  });
  if (locked) return <SignIn />;
  return (
    <div className="grid h-dvh grid-rows-[auto_auto_minmax(0,1fr)] md:grid-rows-[auto_minmax(0,1fr)] md:grid-cols-[auto_minmax(0,1fr)]">
      <a href="#main" onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }} className="sr-only focus:not-sr-only focus:absolute focus:left-2 focus:top-2 focus:z-10 focus:bg-bg focus:px-2">Skip to the content</a>
      <header className="col-span-full flex items-center gap-2 border-b px-3 py-1.5">
        <button type="button" className="btn bare hidden md:inline-flex" aria-label="Sidebar" aria-expanded={!prefs.narrow} title="Sidebar (Ctrl B)" onClick={() => setPrefs({ narrow: !prefs.narrow })}><PanelLeft size={16} aria-hidden /></button>
        <Link to="/" className="flex items-center gap-2 font-semibold text-fg no-underline"><img src={new URL("assets/icon.svg", BASE).href} alt="" width={16} height={16} /><span className="max-sm:sr-only">Stepwell</span></Link>
        <button type="button" onClick={() => setSheet("palette")} title="Search, or go to (Ctrl K)" className="field mx-auto min-w-0 flex w-full max-w-md items-center gap-2 text-left text-dim hover:bg-hover">
          <SearchIcon size={14} aria-hidden /><span className="flex-1 truncate">Paste an id, or go to…</span><kbd className="hidden text-[11px] sm:inline">Ctrl K</kbd>
        </button>
        <Live lost={health.isError} />
        <Theme />
        <button type="button" className="btn bare hidden sm:inline-flex" title={prefs.utc ? "Times are in UTC" : "Times are in your time zone"} onClick={() => setPrefs({ utc: !prefs.utc })}><Clock3 size={15} aria-hidden />{prefs.utc ? "UTC" : "Local"}</button>
        <button type="button" className="btn bare" aria-label="Keyboard shortcuts" title="Keyboard shortcuts (?)" onClick={() => setSheet("help")}><CircleQuestionMark size={16} aria-hidden /></button>
      </header>
      <nav aria-label="Views" className={`flex gap-1 overflow-auto border-b px-2 py-1 md:flex-col md:border-b-0 md:border-r md:py-3 ${prefs.narrow ? "md:w-12" : "md:w-48"}`}>
        {NAV.map(([group, items]) => (
          <div key={group} className="flex gap-1 md:mb-3 md:flex-col">
            {!prefs.narrow && <span className="hidden px-2 pb-1 text-[11px] font-semibold uppercase tracking-wide text-dim md:block">{group}</span>}
            {items.map(([to, name, Icon]) => (
              <Link key={to} to={to} activeOptions={{ exact: to === "/" }} title={name} className="flex items-center gap-2 rounded-md px-2 py-1 text-fg no-underline hover:bg-hover aria-[current=page]:bg-accent-bg aria-[current=page]:font-semibold aria-[current=page]:text-accent">
                <Icon size={16} aria-hidden className="shrink-0" /><span className={prefs.narrow ? "md:sr-only" : ""}>{name}</span>
              </Link>
            ))}
          </div>
        ))}
        <div className="ml-auto flex items-center gap-3 px-2 text-[13px] md:ml-0 md:mt-auto md:flex-col md:items-start md:gap-1">
          <a href={new URL("docs", BASE).href} className="flex items-center gap-2" title="API reference"><BookOpen size={14} aria-hidden /><span className={prefs.narrow ? "md:sr-only" : ""}>API reference</span></a>
          {key.get() && <button type="button" className="btn bare -ml-1.5" title="Sign out" onClick={() => { key.set(null); location.reload(); }}><KeyRound size={14} aria-hidden /><span className={prefs.narrow ? "md:sr-only" : ""}>Sign out</span></button>}
          {tenant && !prefs.narrow && <Link to="/settings/$part" params={{ part: "namespaces" }} search={{ name: tenant } as never} className="breaks max-md:hidden">Namespace {tenant}</Link>}
          {health.data && !prefs.narrow && <span className="hidden text-dim md:inline">Version {health.data.version}</span>}
        </div>
      </nav>
      <main id="main" tabIndex={-1} className="min-h-0 min-w-0 overflow-auto outline-none"><Outlet /></main>
      <Suspense>
        {sheet === "palette" && <Palette onClose={() => setSheet(null)} />}
        {sheet === "help" && <Shortcuts onClose={() => setSheet(null)} />}
      </Suspense>
    </div>
  );
}

function Live({ lost }: { lost: boolean }) {
  const { paused } = usePrefs();
  if (lost) return <span role="status" className="inline-flex items-center gap-1.5 whitespace-nowrap px-1.5 font-medium text-bad"><WifiOff size={15} aria-hidden /><span className="max-sm:sr-only">The gateway is away</span></span>;
  return (
    <button type="button" className="btn bare" aria-pressed={paused} title={paused ? "Go on (P)" : "Pause (P)"} onClick={() => setPrefs({ paused: !paused })}>
      {paused ? <><Play size={14} aria-hidden /><span className="font-medium text-warn">Paused</span></> : <><Pause size={14} aria-hidden /><span className="text-good max-sm:sr-only">Live</span></>}
    </button>
  );
}

function Theme() {
  const { theme } = usePrefs();
  const [Icon, next] = { system: [Monitor, "light"], light: [Sun, "dark"], dark: [Moon, "system"] }[theme] as [typeof Sun, "light" | "dark" | "system"];
  return <button type="button" className="btn bare" aria-label={`Theme: ${theme}`} title={`Theme: ${theme}`} onClick={() => setPrefs({ theme: next })}><Icon size={16} aria-hidden /></button>;
}
