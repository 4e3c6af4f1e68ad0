#!/usr/bin/env python3
"""Two orders through Stepwell, the second through a SIGKILL of the gateway, with proof.

PORT (8484)          where the gateway listens; the order handler takes the next port
DATA_DIR (.stepwell) the gateway's data directory
CI=true              end after the second order instead of serving on
STEPWELL_BIN         a binary to use instead of building one
"""

import base64, collections, json, os, pathlib, secrets, signal, subprocess, sys, time, urllib.error, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PORT = int(os.environ.get("PORT") or 8484)
GATEWAY = f"http://127.0.0.1:{PORT}"
HANDLER = f"http://127.0.0.1:{PORT + 1}/"
DATA_DIR = os.environ.get("DATA_DIR") or ".stepwell"
KEPT = ROOT / ".stepwell-demo"  # logs, and the secret that gateway and handler share
ORDER_LOG = KEPT / "order.log"
BINARY = os.environ.get("STEPWELL_BIN") or str(ROOT / "target/release/stepwell")
CI = os.environ.get("CI", "") not in ("", "0", "false")

COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def bold(text): return paint("1", text)
def dim(text): return paint("2", text)
def green(text): return paint("32", text)
def red(text): return paint("31", text)
def yellow(text): return paint("33", text)


def say(text=""):
    print(text, flush=True)


class Failed(Exception):
    """The demo cannot go on; says why."""


# The processes that this demo starts, and ends.

class Program:
    def __init__(self, name, command, **env):
        self.name, self.log = name, KEPT / f"{name}.log"
        with open(self.log, "ab") as log:
            # In a session of its own: Ctrl-C is for the demo, which ends things in their order.
            self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_until_up(self, url, seconds=90):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failed(f"the {self.name} ended with {self.process.returncode}; it said:\n{self.tail()}")
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except urllib.error.HTTPError as error:
                if error.code != 503:  # it answers, if only to say that it has no such page
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise Failed(f"the {self.name} is not ready after {seconds} s; it said:\n{self.tail()}")

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=70)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_gateway():
    gateway = Program("gateway", [BINARY, "dev", "--port", str(PORT), "--data-dir", DATA_DIR])
    programs.append(gateway)
    gateway.wait_until_up(f"{GATEWAY}/readyz")
    return gateway


programs = []


# Talking to the gateway.

def call(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(GATEWAY + path, data=data, method=method,
                                     headers={"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        raise Failed(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from None


def journal(run):
    entries, after = [], 0
    while True:  # in pages, for the form's sake
        page = call("GET", f"/v1/runs/{run}/journal?after={after}&limit=200")
        entries += page["data"]
        if not page.get("next_cursor"):
            return entries
        after = max(entry["seq"] or 0 for entry in entries)


# Showing a run.

class Order:
    """An order that is followed in the terminal."""

    def __init__(self, number):
        self.number, self.began = number, time.monotonic()
        self.settled, self.attempts, self.waits = {}, {}, set()
        body = {"input": {"order": number, "amount": 1999}, "key": f"order-{number}", "tags": {"from": "demo"}}
        self.run = call("POST", "/v1/functions/order/runs", body, **{"idempotency-key": f"demo-{number}"})["id"]
        self.show("▶", f"order {number}", self.run)

    def show(self, mark, what, text="", paint=str):
        say(f"  {dim(f'{time.monotonic() - self.began:6.2f} s')}  {paint(mark)} {what:<10} {text}".rstrip())

    def look(self):
        """Shows what is new in the journal."""
        for entry in sorted(journal(self.run), key=lambda entry: entry["seq"] or 1 << 40):
            self.look_at(entry)

    def look_at(self, entry):
        id, attempts = entry["id"], attempts_of(entry)
        failed = attempts - 1 if entry["seq"] and not entry.get("error") else attempts
        if entry["op"] == "run":
            for attempt in range(self.attempts.get(id, 0) + 1, failed + 1):
                message = (entry.get("last_error") or {}).get("message", "")
                self.show("✕", id, f"attempt {attempt} failed{': ' if message else ''}{message}", red)
            self.attempts[id] = max(self.attempts.get(id, 0), failed)
        if entry["seq"]:
            if id not in self.settled:
                self.settled[id] = entry
                value = json.dumps(entry.get("value"), ensure_ascii=False)
                error = entry.get("error")
                self.show("✕" if error else "✓", id, error["message"] if error else "" if value == "null" else value,
                          red if error else green)
        elif entry["op"] != "run" and id not in self.waits:
            self.waits.add(id)
            what = {"signal": "waits for a signal", "sleep": "sleeps"}.get(entry["op"], "waits")
            self.show("…", id, what, yellow)

    def follow(self, until, seconds=90):
        """Shows the run until `until` holds of it."""
        end = time.monotonic() + seconds
        while True:
            self.look()
            if until(self):
                return
            state = call("GET", f"/v1/runs/{self.run}")
            if state.get("ended_at") or state["status"] == "paused":
                self.look()
                if until(self):
                    return
                raise Failed(f"{self.run} is {state['status']}: {state.get('attention') or state.get('error')}")
            if time.monotonic() > end:
                raise Failed(f"{self.run} is {state['status']} for {seconds} s: {state.get('attention')}")
            time.sleep(0.1)

    def approve_and_finish(self):
        self.follow(lambda order: "approved" in order.waits)
        call("POST", f"/v1/runs/{self.run}/signals/approved", {"payload": {"by": "make demo"}})
        self.show("→", "approved", "signal sent", yellow)
        self.follow(lambda order: "ship" in order.settled)
        state = call("GET", f"/v1/runs/{self.run}?wait=30s")
        if state["status"] != "completed":
            raise Failed(f"{self.run} is {state['status']}: {state.get('attention') or state.get('error')}")
        self.look()
        self.show("■", "completed", json.dumps(state["output"], ensure_ascii=False), green)


def attempts_of(entry):
    """Attempts that have ended: of a pending step those that failed so far."""
    return entry.get("attempts", entry.get("attempt")) or 0


def executed(run):
    """How often the body of each step has really run, as the handler itself wrote it down."""
    lines = [line.split() for line in ORDER_LOG.read_text().splitlines()]
    return collections.Counter(step for of, step in lines if of == run)


def prove(order, before):
    """Compares what is recorded with what was executed, and fails if anything ran twice."""
    entries = journal(order.run)
    after = {entry["id"]: entry for entry in entries if entry["seq"]}
    did, faults = executed(order.run), []
    say(f"  {'step':<10} {'seq':>4} {'attempts recorded':>18} {'bodies executed':>16}")
    for entry in sorted(after.values(), key=lambda entry: entry["seq"]):
        if entry["op"] != "run":
            continue
        id, attempts = entry["id"], attempts_of(entry)
        good = did[id] == attempts
        if not good:
            faults.append(f"{id} was executed {did[id]} times for {attempts} attempts")
        say(f"  {id:<10} {entry['seq']:>4} {attempts:>18} {did[id]:>16}  {green('✓') if good else red('✕')}")
    for id, entry in before.items():
        same = all(after.get(id, {}).get(field) == entry.get(field) for field in ("seq", "op", "value", "error"))
        if not same:
            faults.append(f"{id}, recorded before the kill, is another one after it")
    expected = {"charge": 1, "pack": 3, "ship": 1}
    if did != expected:
        faults.append(f"executed were {dict(did)}, and not {expected}")
    if faults:
        raise Failed("; ".join(faults))
    say(f"  {green('No recorded step ran twice.')} ({ORDER_LOG.relative_to(ROOT)} against the journal)")


def secret():
    """The secret that the handler is registered with; made once."""
    path = KEPT / "secret"
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    return path.read_text()


def demo():
    if not os.environ.get("STEPWELL_BIN"):
        say(bold("Build"))
        subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    KEPT.mkdir(exist_ok=True)
    for log in KEPT.glob("*.log"):
        log.unlink()
    ORDER_LOG.touch()

    say(bold("Start"))
    gateway = start_gateway()
    say(f"  the gateway, with its own Postgres in {DATA_DIR}   {GATEWAY}")
    handler = Program("handler", [sys.executable, "examples/order/order.py"], PORT=str(PORT + 1),
                      ORDER_LOG=str(ORDER_LOG), STEPWELL_SIGNING_SECRET=secret())
    programs.append(handler)
    handler.wait_until_up(HANDLER)
    say(f"  the handler, examples/order/order.py           {HANDLER}")
    # A second between attempts leaves time to see the first fail, and to kill the gateway then.
    function = {"name": "order", "retry": {"initial": "1s", "factor": 1, "jitter": 0}}
    call("POST", "/v1/endpoints", {"name": "shop", "url": HANDLER, "secret": secret(),
                                   "functions": [function], "discover": False})
    say("  registered as `shop`: each call to it is signed, and it checks that")

    # Anything that has not been used in this data directory.
    number = int(time.time())
    say(f"\n{bold('An order')}")
    Order(number).approve_and_finish()

    say(f"\n{bold('Another order, and the gateway is killed in the middle')}")
    order = Order(number + 1)
    order.follow(lambda order: "charge" in order.settled and order.attempts.get("pack"))
    before = {entry["id"]: entry for entry in journal(order.run) if entry["seq"]}
    gateway.process.kill()
    gateway.process.wait()
    order.show("☠", "SIGKILL", f"the gateway (process {gateway.process.pid}) is gone; charge is recorded, pack is not", red)
    began = time.monotonic()
    try:
        call("GET", "/readyz")
        raise Failed("something still answers in its place")
    except urllib.error.URLError:
        pass
    gateway = start_gateway()
    order.show("↻", "started", f"again, ready after {time.monotonic() - began:.1f} s", yellow)
    order.approve_and_finish()

    say(f"\n{bold('The proof')}")
    prove(order, before)

    say(f"\n{bold('Look around')}")
    say(f"  API        {GATEWAY}/v1/runs")
    say(f"  Docs       {GATEWAY}/docs")
    say(f"  Dashboard  {GATEWAY}/")
    say(f"  Start one  curl -X POST {GATEWAY}/v1/functions/order/runs -H 'content-type: application/json' "
        "-d '{\"input\": {\"order\": 7, \"amount\": 700}}'")
    if not CI:
        say(f"\n{dim('It keeps serving. Ctrl-C ends it; the data are kept in ' + DATA_DIR)}")
        while gateway.process.poll() is None:
            time.sleep(0.5)
        raise Failed(f"the gateway ended with {gateway.process.returncode}; it said:\n{gateway.tail()}")


def clean_up():
    """Ends what was started. A killed gateway leaves its Postgres running; the next one stops it."""
    gateways = [program for program in programs if program.name == "gateway"]
    if gateways and gateways[-1].process.poll() == -signal.SIGKILL:
        try:
            start_gateway()
        except Failed as failed:
            say(red(str(failed)))
    for program in reversed(programs):
        program.stop()


def main():
    sys.stdout.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demo()
        return 0
    except KeyboardInterrupt:
        say()
        return 0 if not CI else 130
    except subprocess.CalledProcessError as error:
        return error.returncode
    except (Failed, OSError) as failed:
        say(f"{red('The demo failed:')} {failed}")
        for program in programs:
            say(dim(f"  what the {program.name} said: {program.log}"))
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        clean_up()


if __name__ == "__main__":
    sys.exit(main())
