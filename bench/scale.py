#!/usr/bin/env python3
"""How lists and views behave when the tables are full: the same reads on a small installation and,
in the same gateway, on a large one. Prints the median of each read in both, and their ratio.

    bench/scale.py [--done 1000000] [--live 100000] [--times 15] [--keep DIR] [--sql]

The runs are copies of runs that a handler has really made, one of each function and status, written
by SQL into the tables of a private Postgres (fsync on). STEPWELL names the binary; by default it is
the release build. `--keep` leaves the database in a directory, and takes it up again; `--sql` opens
psql at the end.
"""

import argparse, base64, http.client, json, os, pathlib, signal, socket, statistics, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = pathlib.Path(__file__).resolve().parent
FUNCTIONS = [f"shop.f{n:02}" for n in range(12)]
# Of a hundred thousand each. Statuses as in a shop where little goes wrong; functions from busy to rare.
DONE = {"completed": 97_000, "failed": 2_000, "cancelled": 700, "terminated": 290, "timed_out": 10}
LIVE = {"waiting": 98_800, "scheduled": 1_000, "retrying": 150, "paused": 50}
SHARE = [400, 250, 150, 100, 50, 25, 12, 8, 4, 2, 1, 0]


def answer(call):
    steps, how = call["steps"], (call["input"] or {}).get("how")
    if call["cancel"]:
        return {"error": {"type": "Cancelled", "message": "undone"}}
    if "reserve" not in steps:
        return {"ops": [{"op": "run", "id": "reserve", "value": {"stock": 41}}]}
    if how == "completed":
        return {"result": {"ok": True}}
    if how == "failed":
        return {"error": {"type": "Declined", "message": "the card was declined"}}
    if how == "retrying":
        return {"ops": [{"op": "run", "id": "charge", "error": {"type": "Busy", "message": "503 Service Unavailable"}}]}
    if how == "timed_out":
        return {"ops": [{"op": "sleep", "id": "nap", "for": "30d"}], "await": "nap"}
    return {"ops": [{"op": "signal", "id": "approval", "name": "approved"}], "await": "approval"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps(answer(call)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Gateway:
    def __init__(self, binary, data):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", int(os.environ.get("PORT", "0"))))
            self.port = probe.getsockname()[1]
        self.data = pathlib.Path(data)
        self.log = open(self.data / "gateway.log", "wb")
        command = [binary, "dev", "--port", str(self.port), "--data-dir", str(self.data), "--log-filter", "warn"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.used = time.monotonic()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        self.until("it is ready", lambda: self.call("GET", "/readyz", None)[0] == 200)

    def until(self, what, holds, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if holds():
                    return
            except OSError:
                self.connection.close()
            if self.process.poll() is not None:
                sys.exit(f"the gateway has ended; see {self.log.name}")
            time.sleep(0.05)
        sys.exit(f"never: {what}")

    def call(self, method, path, body):
        # The gateway closes a connection that has been idle for long.
        if time.monotonic() - self.used > 20:
            self.connection.close()
        self.used = time.monotonic()
        self.connection.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
        response = self.connection.getresponse()
        return response.status, response.read()

    def json(self, method, path, body=None):
        status, text = self.call(method, path, body)
        if status >= 300:
            sys.exit(f"{method} {path}: {status} {text.decode()}")
        return json.loads(text) if text else None

    def database(self):
        """The address of its private Postgres."""
        sockets = (self.data / "postgres" / "postmaster.pid").read_text().splitlines()[4]
        password = base64.b64decode((self.data / "postgres-password").read_text().strip())
        password = base64.urlsafe_b64encode(password).decode().rstrip("=")
        return f"postgres://stepwell:{password}@localhost:5432/stepwell?host={sockets}"

    def sql(self, text):
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", self.database()]
        done = subprocess.run(command, input="set search_path = stepwell;\n" + text, text=True, capture_output=True)
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout.strip()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=120)


def templates(gw, url):
    """One run of each function and status: (function, status, id)."""
    functions = [{"name": name, "retry": {"initial": "2d", "max_interval": "30d"}} for name in FUNCTIONS]
    gw.json("POST", "/v1/endpoints", {"name": "shop", "url": url, "discover": False, "functions": functions})
    made = []
    for name in FUNCTIONS:
        for status in [*DONE, *LIVE]:
            body = {"input": {"how": status}, "tags": {"customer": "c0"}}
            if status == "scheduled":
                body["delay"] = "30d"
            if status == "timed_out":
                body["timeouts"] = {"run": "1s"}
            made.append((name, status, gw.json("POST", f"/v1/functions/{name}/runs", body)["id"]))
    acts = {"cancelled": "cancel", "terminated": "terminate", "paused": "pause"}

    def is_now(run, status):
        return gw.json("GET", f"/v1/runs/{run}")["status"] == status

    for _, status, run in made:
        if status in acts:
            gw.until(f"{run} waits", lambda: is_now(run, "waiting"))
            gw.json("POST", f"/v1/runs/{run}/{acts[status]}", {"reason": "a template"})
    for _, status, run in made:
        gw.until(f"{run} is {status}", lambda: is_now(run, status))
    # What lists show is written a moment later.
    for _, status, run in made:
        gw.until(f"{run} is listed as {status}", lambda: any(r["id"] == run for r in gw.json("GET", f"/v1/runs?q={run}&status={status}")["data"]))
    return made


FILL = """
create temp table pick (i integer primary key, run_id uuid, shard smallint);
insert into pick select i - 1, x.run_id, x.shard from (
  select row_number() over () as i, u.run_id, shard_of(u.run_id) as shard from (
    select run_id, n from (values {picks}) as t(run_id, n)) u, generate_series(1, u.n)) x;
create temp table fresh as
select g, pick.run_id as old, pick.shard as old_shard, at, x.shard::smallint as shard,
       (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex((random() * 4095)::integer), 3, '0')
        || lpad(to_hex(32768 | (x.shard << 2) | (random() * 3)::integer), 4, '0')
        || lpad(to_hex((random() * 281474976710655)::bigint), 12, '0'))::uuid as run_id
  from (select g, now() - {before} - (random() * {span}) as at, (random() * 4095)::integer as shard,
               (floor(random() * {choices}))::integer as choice
          from generate_series({first}, {last}) g) x
  join pick on pick.i = x.choice;
create index on fresh (old);
analyze fresh;
insert into {table} ({columns})
select {values} from fresh f join {table} t on t.shard = f.old_shard and t.run_id = f.old;
insert into journal (run_id, at, due, ref, n, seq, epoch, cp, ns, dep, ms, shard, kind, flags, step, body)
select f.run_id, f.at + (j.at - o.at), f.at + (j.due - o.at), j.ref, j.n, j.seq, j.epoch, j.cp, j.ns, j.dep, j.ms, f.shard, j.kind, j.flags, j.step, j.body
  from fresh f
  join (select shard, run_id, min(at) as at from journal group by 1, 2) o on o.shard = f.old_shard and o.run_id = f.old
  join journal j on j.shard = f.old_shard and j.run_id = f.old;
insert into run_keys (shard, ns, fn, key, run_id, status, ended_at)
select shard, ns, fn, key, run_id, {keys} from {table} t where key is not null and key like 'order-%' on conflict do nothing;
"""


def runid(text):
    """The UUID of a run's id: base32 of Crockford behind the prefix."""
    number = 0
    for letter in text.split("_")[1]:
        number = number * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(letter)
    return f"{number:032x}"


def fill(gw, made, shares, table, first, last, live):
    weights = {run: shares[status] * SHARE[FUNCTIONS.index(name)] // 1000 for name, status, run in made if status in shares}
    weights = {run: max(1, weight) if SHARE[FUNCTIONS.index(name)] > 0 else 0 for (name, status, run) in made if status in shares for weight in [weights[run]]}
    picks = ", ".join(f"('{runid(run)}'::uuid, {weight})" for run, weight in weights.items() if weight)
    of_table = gw.sql(f"select string_agg(column_name, ',' order by ordinal_position) from information_schema.columns where table_schema = 'stepwell' and table_name = '{table}'")
    columns = of_table.split(",")
    new = {"run_id": "f.run_id", "shard": "f.shard", "created_at": "f.at", "status_at": "f.at + (t.status_at - t.created_at)", "ended_at": "f.at + (t.ended_at - t.created_at)",
           "wake_at": "case when isfinite(t.wake_at) then now() + interval '30 days' else t.wake_at end",
           "key": "case when f.g % 2 = 0 then 'order-' || f.g end",
           "tags": "jsonb_build_object('customer', 'c' || f.g % 10000, 'region', case f.g % 2 when 0 then 'eu' else 'us' end)"}
    gw.sql(FILL.format(picks=picks, choices=sum(weights.values()), first=first, last=last, table=table, columns=of_table,
                       values=", ".join(new.get(c, f"t.{c}") for c in columns),
                       before="interval '2 minutes'", span="interval '3 days'", keys="null, null" if live else "status, ended_at"))


def reads(gw, url):
    """What is read: by name, the paths that belong together."""
    page = gw.json("GET", "/v1/runs?limit=1&status=completed")["data"][0]
    middle = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 36 * 3600))
    deep = gw.json("GET", f"/v1/runs?limit=50&started_before={middle}").get("next_cursor")
    day = time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime(time.time() - 86400))
    waits = gw.json("GET", "/v1/runs?status=waiting&limit=50")["data"]
    attention = [f"/v1/runs?limit=6&status={s}" for s in ("paused", "parked", "retrying")] + [f"/v1/runs?limit=6&status=failed&started_after={day}"]
    lists = {
        "first page": "", "first page of 200": "limit=200", "a page in the middle": f"cursor={deep}" if deep else "",
        "completed": "status=completed", "failed": "status=failed", "failed, timed out": "status=failed&status=timed_out",
        "timed out (rare)": "status=timed_out", "waiting": "status=waiting", "paused (rare)": "status=paused", "parked (none)": "status=parked",
        "busy function": "function=shop.f00", "rare function": "function=shop.f10", "function without runs": "function=shop.f11",
        "rare function, failed": "function=shop.f10&status=failed",
        "a key": "key=order-4710", "a tag": "tag=customer:c7", "two tags": "tag=customer:c7&tag=region:us", "common tag": "tag=region:eu",
        "children of a run": f"parent={page['id']}", "of the last hour": "started_after=" + time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime(time.time() - 3600)),
        "q: a run's id": f"q={page['id']}", "q: a key": "q=order-4710", "q: a function": "q=f10", "q: a tag": "q=c77", "q: nothing is so": "q=nothing-is-so",
    }
    all_of = {name: [f"/v1/runs?{query}"] for name, query in lists.items()}
    all_of["overview, whole"] = ["/v1/runs?limit=8", "/v1/endpoints?limit=200", *attention]
    all_of["waiting, whole"] = ["/v1/runs?status=waiting&limit=50", *[f"/v1/runs/{run['id']}" for run in waits]]
    all_of["functions, endpoints"] = ["/v1/functions?limit=200", "/v1/endpoints?limit=200"]
    all_of["deployments"] = ["/v1/endpoints/shop/deployments?limit=200"]
    all_of["a run"] = [f"/v1/runs/{page['id']}", f"/v1/runs/{page['id']}/journal", f"/v1/runs/{page['id']}/history"]
    return all_of


def measure(gw, all_of, times):
    took = {}
    for name, paths in all_of.items():
        samples = []
        for n in range(times + 1):
            began = time.perf_counter()
            for path in paths:
                gw.json("GET", path)
            samples.append((time.perf_counter() - began) * 1000)
            # What is slow need not be said fifteen times.
            if sum(samples) > 20_000:
                break
        took[name] = statistics.median(samples[1:] or samples)
    return took


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--done", type=int, default=1_000_000)
    arguments.add_argument("--live", type=int, default=100_000)
    arguments.add_argument("--times", type=int, default=15)
    arguments.add_argument("--keep")
    arguments.add_argument("--sql", action="store_true")
    wanted = arguments.parse_args()
    binary = os.environ.get("STEPWELL", HERE.parent / "target" / "release" / "stepwell")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    with tempfile.TemporaryDirectory() as thrown_away:
        data = pathlib.Path(wanted.keep or thrown_away)
        data.mkdir(exist_ok=True)
        data.chmod(0o755)
        gw = Gateway(binary, data)
        try:
            run(gw, url, data, wanted)
        finally:
            gw.stop()


def run(gw, url, data, wanted):
    small_file = data / "small.json"
    if small_file.exists():
        small = json.loads(small_file.read_text())
    else:
        made = templates(gw, url)
        fill(gw, made, DONE, "run_done", 0, 999, False)
        fill(gw, made, LIVE, "run_active", 1_000, 1_099, True)
        gw.sql("vacuum analyze")
        small = measure(gw, reads(gw, url), wanted.times)
        began = time.monotonic()
        for first in range(2_000, 2_000 + wanted.done, 100_000):
            fill(gw, made, DONE, "run_done", first, min(first + 100_000, 2_000 + wanted.done) - 1, False)
        for first in range(2_000 + wanted.done, 2_000 + wanted.done + wanted.live, 100_000):
            fill(gw, made, LIVE, "run_active", first, min(first + 100_000, 2_000 + wanted.done + wanted.live) - 1, True)
        gw.sql("vacuum analyze")
        print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
        small_file.write_text(json.dumps(small))
    print(gw.sql("select (select count(*) from run_done) || ' ended and ' || (select count(*) from run_active) || ' live runs, ' || pg_size_pretty(pg_database_size(current_database()))"))
    large = measure(gw, reads(gw, url), wanted.times)
    print(f"{'read':26}{'small ms':>10}{'large ms':>10}{'ratio':>8}")
    for name, took in large.items():
        before = small.get(name)
        print(f"{name:26}{before:10.1f}{took:10.1f}{took / before:8.1f}" if before else f"{name:26}{'':10}{took:10.1f}")
    if wanted.sql:
        subprocess.run(["psql", gw.database()], env={**os.environ, "PGOPTIONS": "-c search_path=stepwell"})


if __name__ == "__main__":
    main()
