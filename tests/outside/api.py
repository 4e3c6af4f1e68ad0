"""The live API against its own description, by schemathesis: no 5xx, no status, header or document
that is not described, nothing refused that is described, nothing taken that is not.

    python3 api.py path/to/stepwell [more arguments for `schemathesis run`]

The gateway has runs in every state; hooks.py puts their ids, and those of endpoints and keys, into
most of the requests. The seed is fixed.
"""

import json, os, pathlib, re, subprocess, sys, tempfile, time

from gateway import HERE, Gateway, Process

SEED = 20261123
MANY = 12  # of everything that a request may take away


def ended(run):
    return run["ended_at"] is not None


def stock(gateway, handler, dead):
    """Fills the gateway: what there is, by the names of path parameters and of states."""
    call, run = gateway.call, gateway.run
    old = call("POST", "/v1/endpoints", {"name": "many", "url": handler.url + "/", "discover": False,
                                         "functions": [{"name": "echo"}]})["deployment"]["id"]
    call("POST", "/v1/endpoints", {"name": "many", "url": handler.url + "/"})
    call("POST", "/v1/endpoints", {"name": "dead", "url": dead.url + "/", "functions": [{"name": "parks"}], "discover": False})
    for n in range(MANY):
        call("POST", "/v1/endpoints", {"name": f"spare-{n}", "url": handler.url + "/", "discover": False,
                                       "functions": [{"name": f"spare.{n}", "concurrency": [{"limit": 5, "key": "input.who"}]}]})
    # Nobody else calls it, so that its invocations are not displaced.
    call("POST", "/v1/endpoints", {"name": "quiet", "url": handler.url + "/", "discover": False, "functions": [{"name": "quiet"}]})
    run("quiet")
    call("POST", "/v1/endpoints", {"name": "far", "pull": True, "functions": [{"name": "pulled"}]})
    dead.__exit__()
    keys = [call("POST", "/v1/keys", {"name": f"spare {n}", "scopes": ["runs:read", "admin"]})["id"] for n in range(MANY)]
    for n in range(MANY):
        call("POST", "/v1/namespaces", {"name": f"spare-{n}", "limits": {"live_runs": 9}})
    for n in range(MANY):
        call("POST", "/v1/secrets", {"name": f"spare-{n}", "value": f"value {n}"})
    receiver = handler.url + "/"
    for n in range(MANY):
        call("POST", "/v1/webhooks", {"name": f"spare-{n}", "url": receiver})
    deliveries = [(f"spare-{n}", call("POST", f"/v1/webhooks/spare-{n}/test")["id"]) for n in range(MANY // 2)]
    events = [call("POST", "/v1/events", {"name": "spare", "data": n})["id"] for n in range(MANY)]
    for n in range(MANY):
        call("POST", "/v1/schedules", {"name": f"spare-{n}", "function": "echo", "cron": "0 9 * * *"})
    called = [run("waits", {}) for n in range(MANY)]
    deletable = [run("echo", {}) for n in range(MANY)]
    erasable = [run("echo", {}) for n in range(MANY)]
    bulks = [call("POST", "/v1/bulk", {"filter": {"key": f"nobody-{n}"}, "action": "pause", "reason": "a test"})["id"] for n in range(MANY)]
    # So slow that it does not end by itself; what is aborted may be aborted again.
    slow = [call("POST", "/v1/bulk", {"filter": {"function": "echo"}, "action": "retry-now", "rate": 1})["id"] for n in range(MANY)]
    for id in slow:
        call("POST", f"/v1/bulk/{id}/abort", {})
    objects = ["c/1 ü", *(f"c{n}" for n in range(1, MANY))]
    for key in objects:
        run("counts", {"key": key})
    wanted = {  # by status: how to start one, and what to do to it then
        "completed": ("echo", {"input": {"n": 3544790567247868102, "text": "ü"}, "key": "order/42 ü"}, None),
        "failed": ("fails", {"tags": {"customer": "c7"}}, None),
        "waiting": ("waits", {"key": "w"}, None),
        "retrying": ("retries", {}, None),
        "paused": ("pauses", {}, None),
        "parked": ("parks", {}, None),
        "scheduled": ("echo", {"delay": "1h"}, None),
        "cancelled": ("waits", {}, "cancel"),
        "terminated": ("waits", {}, "terminate"),
        "timed_out": ("waits", {"timeouts": {"run": "1s"}}, None),
    }
    runs = {status: [] for status in wanted}
    for n in range(MANY):
        for status, (function, body, act) in wanted.items():
            if "key" in body and n:
                body = {**body, "key": f"{body['key']}-{n}"}
            runs[status].append(run(function, body))
    runs["retrying"].append(run("breaks"))
    updates = []
    for id in called:
        gateway.until(id, lambda view: view["status"] == "waiting")
    for status, ids in runs.items():
        act = wanted[status][2]
        for id in ids:
            if act:
                gateway.until(id, lambda view: view["status"] == "waiting")
                call("POST", f"/v1/runs/{id}/{act}", {"reason": "a test"})
            view = gateway.until(id, lambda view: view["status"] == status)
            if status == "waiting":
                updates.append((id, call("POST", f"/v1/runs/{id}/updates/sum", {"payload": 1})["id"]))
            assert view["attention"] is not None or status not in ("paused", "parked"), view
    return {
        "secret": [f"spare-{n}" for n in range(MANY)],
        "endpoint": ["many"] + [f"spare-{n}" for n in range(MANY)],
        "function": ["echo", "waits", "fails", "spare.1"],
        "key_id": keys,
        "ended": [id for status in ("completed", "failed", "cancelled", "terminated", "timed_out") for id in runs[status]],
        "run": [id for ids in zip(*runs.values()) for id in ids],
        "completed": runs["completed"],
        "document": call("GET", f"/v1/runs/{runs['completed'][0]}/export"),
        "key": ["order/42 ü", "w"] + [f"w-{n}" for n in range(1, MANY)],
        "step": {"completed": ["first", "scope/second"], "waiting": ["go", "paid", "nap"]},
        "waiting": runs["waiting"],
        "callback": callbacks(handler, called),
        "bulk": bulks,
        "aborted": slow,
        "deletable": deletable,
        "erasable": erasable,
        "fingerprint": [kind["fingerprint"] for kind in call("GET", "/v1/errors")["data"]],
        "event": events,
        "object": objects,
        "namespace": [f"spare-{n}" for n in range(MANY)],
        "webhook": [f"spare-{n}" for n in range(MANY)],
        "delivery": deliveries,
        "schedule": [f"spare-{n}" for n in range(MANY)],
        "update": updates,
        "deployment": old,
        "invocation": call("GET", "/v1/endpoints/quiet/invocations")["data"][0]["id"],
        "called": called,
        "handler": handler.url + "/",
        "asset": sorted(set(re.findall(r"/assets/([\w.-]+)", gateway.request("GET", "/")[1].decode()))),
    }


def callbacks(handler, runs):
    """The secrets in the callback addresses of these runs, which the handler was told."""
    # Two of its threads may share a line.
    said = re.findall(r"(run_\w+) (\S+/v1/callbacks/\S+)", handler.log.read_text())
    return sorted({link.rstrip("/").rsplit("/", 1)[1] for run, link in said if run in runs})


# What chance does not get right: checkpoints and answers need the token of an invocation, `fail` an error in its
# form for a step that nothing has settled yet, `retry-now` a step between two attempts. They are
# tested in tests/it.
UNLIKELY = {"/v1/runs/{id}/checkpoint", "/v1/runs/{id}/answers/{invocation}",
            "/v1/runs/{id}/steps/{step}/fail", "/v1/runs/{id}/steps/{step}/retry-now"}


def look_at_what_was_seen(gateway, seen):
    """Fails if an operation has never done what it is for: then nothing was tested."""
    never = []
    _, text = gateway.request("GET", "/openapi.json")
    for path, methods in json.loads(text)["paths"].items():
        for method in methods:
            name = f"{method.upper()} {path}"
            statuses = {int(key.rsplit(" ", 1)[1]): n for key, n in seen.items() if key.rsplit(" ", 1)[0] == name}
            if os.environ.get("VERBOSE"):
                print(f"  {name}: {statuses}")
            if path == "/openapi.json":  # where the description itself comes from; not tried again
                continue
            if path in UNLIKELY:
                continue
            if not any(200 <= status < 400 for status in statuses):
                never.append(f"{name}: {statuses}")
    assert not never, "these have never worked:\n" + "\n".join(never)


def main(binary, arguments):
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as logs, Gateway(binary, logs) as gateway:
        many = [sys.executable, HERE / "many.py"]
        with Process("many", many, logs).wait_until_up() as handler, Process("dead", many, logs).wait_until_up() as dead:
            there, seen = pathlib.Path(logs) / "there.json", pathlib.Path(logs) / "seen.json"
            there.write_text(json.dumps(stock(gateway, handler, dead)))
            print(f"  the gateway has runs in every state after {time.monotonic() - began:.0f} s", flush=True)
            command = [pathlib.Path(sys.executable).parent / "schemathesis", "--config-file", HERE / "schemathesis.toml",
                       "run", gateway.url + "/openapi.json", "--seed", str(SEED), *arguments]
            env = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "OUTSIDE_THERE": str(there),
                   "OUTSIDE_SEEN": str(seen), "PYTHONHASHSEED": "0"}
            code = subprocess.run(command, cwd=logs, env=env).returncode
            assert gateway.process.poll() is None, "the gateway has ended"
            said = [line for line in gateway.log.read_text().splitlines() if " ERROR " in line or "panicked" in line]
            assert not said, "the gateway's log has errors:\n" + "\n".join(said[:20])
            if not arguments:
                look_at_what_was_seen(gateway, json.loads(seen.read_text()))
    print(f"schemathesis: {'all good' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
