// What the API speaks of, from its description; payloads are text (see envelope.ts).
import type { Raw } from "../json/text.ts";
import type { components } from "./schema";

type Schemas = components["schemas"];
type WithRaw<T, K extends string> = Omit<T, K> & { [P in K]: Raw | null };

export type Run = WithRaw<Schemas["Run"], "input" | "output" | "error" | "custom_status">;
export type ListedRun = Schemas["ListedRun"];
export type Attention = Schemas["Attention"];
export type WaitingFor = Schemas["WaitingFor"];
export type Entry = Omit<WithRaw<Schemas["JournalEntry"], "error" | "last_error">, "value"> & { value?: Raw | null };
export type Attempt = WithRaw<Schemas["Attempt"], "error">;
export type Step = Entry & { failed_attempts: Attempt[] };
export type History = WithRaw<Schemas["HistoryEntry"], "data">;
export type LogLine = WithRaw<Schemas["LogLine"], "fields">;
export type Chunk = WithRaw<Schemas["Chunk"], "data">;
export type Signal = Schemas["Signal"];
export type Endpoint = Schemas["Endpoint"];
export type EndpointHealth = Schemas["EndpointHealth"];
export type Invocation = Schemas["RecentInvocation"];
export type InvocationPart = Schemas["InvocationPart"];
export type WholeInvocation = Schemas["WholeInvocation"];
export type Invocations = Schemas["RecentInvocations"];
export type Deployment = Schemas["Deployment"];
export type Probe = Schemas["Probe"];
export type Registered = Schemas["Registered"];
export type Setting = WithRaw<Schemas["Setting"], "value">;
/** The schema of its inputs and its triggers are text; a gateway that does not tell them leaves them out. */
export type Fn = Omit<Schemas["Function"], "settings" | "input_schema" | "triggers"> & { settings: Setting[]; input_schema?: Raw | null; triggers?: Raw | null };
export type ListedEvent = Schemas["ListedEvent"];
export type EventMatch = Schemas["EventMatch"];
export type Event = ListedEvent & { data: Raw | null; matches: EventMatch[] };
/** Its input is left out of lists. */
export type Schedule = Omit<Schemas["Schedule"], "input"> & { input?: Raw | null };
/** Its state is text. */
export type Held = Omit<Schemas["Object"], "state"> & { state: Raw };
export type ListedObject = Schemas["ListedObject"];
export type ScheduleMoment = Schemas["ScheduleMoment"];
/** The value of its key is text of JSON, as all that is called `value` is. */
export type Limit = Schemas["Limit"];
export type HeldAt = Schemas["HeldAt"];
export type MetricsSeries = Schemas["MetricsSeries"];
export type GatewayBody = Schemas["Gateway"];
export type ErrorGroup = Schemas["ErrorGroup"];
export type Bulk = Schemas["Bulk"];
export type BulkDryRun = Schemas["BulkDryRun"];
export type ApiKey = Schemas["ApiKey"];
export type Namespace = Schemas["Namespace"];
export type AuditEntry = Schemas["AuditEntry"];
export type Secret = Schemas["Secret"];
/** `runs`: those that a refusal is about. */
export type ProblemBody = Schemas["Problem"] & { runs?: string[] };
export type Page<T> = { data: T[]; next_cursor?: string | null };
