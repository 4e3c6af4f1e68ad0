"""Puts what the gateway really has into most of schemathesis' requests; see api.py."""

import atexit, collections, hashlib, json, os, pathlib

import schemathesis
from schemathesis.core import NOT_SET
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode

THERE = json.loads(pathlib.Path(os.environ["OUTSIDE_THERE"]).read_text())
turns = {}
seen = collections.Counter()


def pick(what, for_whom):
    """Each one in its turn: the runs are sorted so that neighbours are in different states."""
    turn = turns[for_whom] = turns.get(for_whom, -1) + 1
    return what[turn % len(what)]


def is_meant_well(case, location):
    """Whether this part of the request is generated to be valid, and not part of a chain of calls."""
    meta = case.meta
    if meta is None:
        return True
    part = meta.components.get(location)
    return part is None or part.mode == GenerationMode.POSITIVE


def percent(case, of):
    """True for so many of a hundred cases, by their content."""
    text = json.dumps([case.operation.label, case.path_parameters, case.query], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[0] * 100 < of * 256


@schemathesis.hook
def before_call(ctx, case, kwargs):
    path, name = case.operation.path, case.operation.label
    # What is erased is of no use to anybody else.
    if case.path_parameters and is_meant_well(case, ParameterLocation.PATH) and (path.endswith("/erase") or percent(case, 85)):
        real = real_path(path, name, case.path_parameters)
        case.path_parameters.update({key: value for key, value in real.items() if key in case.path_parameters})
    shorten_waits(case)
    if is_meant_well(case, ParameterLocation.BODY) and isinstance(case.body, dict) and percent(case, 70):
        make_sense(case.body)
        for one in case.body.get("runs") or []:
            if isinstance(one, dict):
                make_sense(one)
    if path.startswith("/v1/schedules") and is_meant_well(case, ParameterLocation.BODY) and isinstance(case.body, dict):
        # All of them: without path and query, the content of a case says the same for each.
        make_sense(case.body)
        make_a_schedule(path, case.body)
    if case.headers not in (None, NOT_SET) and is_meant_well(case, ParameterLocation.HEADER) and percent(case, 70):
        for header in ("Idempotency-Key", "Last-Event-ID", "If-Match"):
            if len(case.headers.get(header) or "") < 20:
                case.headers.pop(header, None)
    if path.startswith("/v1/webhooks") and is_meant_well(case, ParameterLocation.BODY) and isinstance(case.body, dict):
        make_a_webhook(name, case.body)
    if (path.startswith("/v1/namespaces") or path == "/v1/keys") and is_meant_well(case, ParameterLocation.BODY) and isinstance(case.body, dict):
        # What hosts there may be no schema says, and which namespaces there are.
        case.body.pop("hosts", None)
        case.body.pop("namespace", None)
    if name == "PUT /v1/objects/{function}/{key}" and is_meant_well(case, ParameterLocation.HEADER) and percent(case, 70):
        case.headers = {**(case.headers or {}), "If-Match": "*"}
    if name.endswith("/repin") and isinstance(case.body, dict) and is_meant_well(case, ParameterLocation.BODY):
        case.body.pop("deployment", None)
    if name.endswith("/rerun") and isinstance(case.body, dict) and is_meant_well(case, ParameterLocation.BODY) and percent(case, 70):
        case.body.pop("from_step", None)
        case.body.pop("edits", None)
    if name in ("POST /v1/limits/pause", "POST /v1/limits/resume") and isinstance(case.body, dict) and is_meant_well(case, ParameterLocation.BODY):
        case.body.update({"function": "spare.3", "key": "input.who", "value": "them"})
    if name == "POST /v1/runs/import" and is_meant_well(case, ParameterLocation.BODY):
        # What makes a run no schema says.
        case.body = THERE["document"]
    if name == "POST /v1/bulk" and isinstance(case.body, dict):
        make_a_bulk(case, name)
    if name == "POST /v1/endpoints" and isinstance(case.body, dict) and isinstance(case.body.get("url"), str):
        # Strangers' addresses are none of our business, and slow.
        if is_meant_well(case, ParameterLocation.BODY):
            case.body["url"] = THERE["handler"]


def real_path(path, name, given):
    if name == "DELETE /v1/runs/{id}":
        return {"id": pick(THERE["deletable"], name)}
    if path.endswith("/erase"):
        return {"id": pick(THERE["erasable"], name)}
    if path.startswith("/v1/errors/"):
        return {"fingerprint": pick(THERE["fingerprint"], name)}
    if path.startswith("/v1/bulk/"):
        return {"id": pick(THERE["aborted" if path.endswith("/abort") else "bulk"], name)}
    if path.startswith("/v1/runs/{id}"):
        if name.startswith("GET") and "/updates/" in path:
            run, update = pick(THERE["update"], name)
            return {"id": run, "name": update}
        ids = {"stream": "ended", "result": "run"}.get(path.rsplit("/", 1)[1], "run")
        if path.endswith("/complete"):
            return {"id": pick(THERE["called"], name), "step": pick(["nap", "go"], name + "step")}
        if "{step}" in path:
            state = pick(["completed", "waiting", "completed"], name + "state")
            return {"id": pick(THERE[state], name), "step": pick(THERE["step"][state], name + state)}
        return {"id": pick(THERE[ids], name), "name": pick(["go", "other"], name + "name")}
    if path.startswith("/v1/events/"):
        return {"id": pick(THERE["event"], name)}
    if path.startswith("/v1/schedules/"):
        return {"schedule": pick(THERE["schedule"], name)}
    if "{delivery}" in path:
        webhook, delivery = pick(THERE["delivery"], name)
        return {"webhook": webhook, "delivery": delivery}
    if path.startswith("/v1/webhooks/"):
        # Those with deliveries stay.
        return {"webhook": pick(THERE["webhook"][-4:] if name.startswith("DELETE") else THERE["webhook"], name)}
    if "{deployment}" in path:
        return {"endpoint": "many", "deployment": THERE["deployment"]}
    if path.startswith("/v1/endpoints/") and "{invocation}" in path:
        return {"endpoint": "quiet", "invocation": THERE["invocation"]}
    if path.endswith("/poll"):
        return {"endpoint": "far"}
    if path.startswith("/v1/endpoints/"):
        return {"endpoint": pick(THERE["endpoint"], name)}
    if path.startswith("/v1/namespaces/"):
        return {"namespace": pick(THERE["namespace"], name)}
    if path.startswith("/v1/keys/"):
        return {"id": pick(THERE["key_id"], name)}
    if path.startswith("/v1/secrets/"):
        return {"name": pick(THERE["secret"], name)}
    if path in ("/v1/functions/{name}/pause", "/v1/functions/{name}/resume"):
        return {"name": pick(["spare.1", "spare.2"], name)}
    if path.startswith("/v1/functions/"):
        function = pick(["waits", "echo"], name)
        key = pick(THERE["key"], name + "key")
        return {"name": "go" if "signals" in path else function, "function": function, "key": key}
    if path.startswith("/v1/objects/"):
        return {"function": pick(["counts", "counts", "echo"], name), "key": pick(THERE["object"], name + "key")}
    if path.startswith("/v1/callbacks/"):
        return {"secret": pick(THERE["callback"], name), "step": pick(["paid", "nap", "paid"], name + "step")}
    if path.startswith("/assets/"):
        return {"file": pick(THERE["asset"], name)}
    if path.startswith("/problems/"):
        return {"code": pick(["run-not-found", "internal"], name)}
    return {}


def make_sense(body):
    """What no schema says: the form of durations, ids and secrets, the words there are."""
    for field in ("delay", "start_at", "grace", "timeouts", "retry", "version", "deployment", "secret", "transports", "on_complete"):
        body.pop(field, None)
    for function in body.get("functions") or []:
        for field in ("concurrency", "throttle", "rate_limit", "debounce", "singleton", "triggers", "timeouts"):
            if isinstance(function, dict):
                function.pop(field, None)
    if "scopes" in body:
        body["scopes"] = ["runs:read"]


def make_a_webhook(name, body):
    """The words and the form of its fields; strangers' addresses are none of our business."""
    for field in ("events", "functions", "headers", "retry", "secret", "reason", "since", "until", "event"):
        body.pop(field, None)
    if "url" in body:
        body["url"] = THERE["handler"]
    if "name" in body:
        body["name"] = "w-" + hashlib.sha256(str(body["name"]).encode(errors="replace")).hexdigest()[:8]


def make_a_schedule(path, body):
    """The form of expressions, names and moments."""
    if path.endswith("/backfill"):
        body.update(start="2026-01-01T00:00:00Z", end="2026-01-02T00:00:00Z")
    if path.endswith("}") or path.endswith("schedules"):
        for field in ("time_zone", "every", "anchor", "jitter", "catchup_window", "end_at", "max_running", "key", "note", "tags"):
            body.pop(field, None)
        if "name" in body:
            body["name"] = "s-" + hashlib.sha256(str(body["name"]).encode(errors="replace")).hexdigest()[:8]
        body.update(cron="0 9 * * *", function="echo")
    elif "note" in body:
        body["note"] = "a note"


def make_a_bulk(case, name):
    """Nothing that would take away what others need."""
    if case.meta is not None and case.meta.generation.mode != GenerationMode.POSITIVE:
        case.body["filter"] = {}  # whatever else is wrong with it
        return
    case.body.update({"filter": {"key": [pick(["nobody", "w"], name)]}, "action": pick(["retry-now", "signal", "rerun"], name + "action")})
    for field in ("grace", "deployment", "from_step", "keep_signals", "signal"):
        case.body.pop(field, None)
    if case.body["action"] == "signal":
        case.body["signal"] = {"name": "other", "payload": [1.0]}


def shorten_waits(case):
    """Nobody has the time for a long poll of five minutes."""
    if case.operation.path.endswith("/poll") and is_meant_well(case, ParameterLocation.QUERY):
        case.query = {**({} if case.query in (None, NOT_SET) else case.query), "wait": "20ms"}
    if case.query not in (None, NOT_SET) and is_meant_well(case, ParameterLocation.QUERY) and "wait" in case.query:
        case.query["wait"] = "20ms"
    if case.headers not in (None, NOT_SET) and "Prefer" in case.headers:
        case.headers["Prefer"] = "wait=0"


@schemathesis.hook
def after_call(ctx, case, response):
    seen[f"{case.operation.label} {response.status_code}"] += 1


@atexit.register
def tell():
    pathlib.Path(os.environ["OUTSIDE_SEEN"]).write_text(json.dumps(seen))


@schemathesis.deserializer("application/x-ndjson")
def lines(ctx, response):
    return [json.loads(line) for line in response.content.splitlines() if line]
