"""A `stepwell dev --ephemeral`, handlers beside it, and calls to both, for the tests from outside."""

import http.client, json, os, pathlib, socket, subprocess, time, urllib.parse

HERE = pathlib.Path(__file__).resolve().parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A program that listens on a port of its own, and ends with the `with` block."""

    def __init__(self, name, command, log_dir, **env):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = pathlib.Path(log_dir) / f"{name}.log"
        command = [part.replace("PORT", str(self.port)) for part in map(str, command)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, env={**os.environ, "PORT": str(self.port), **env},
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_until_up(self, path="/", seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if self.request("GET", path)[0] != 503:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{self.process.args} does not answer; it said:\n{self.log.read_text()[-3000:]}")

    def request(self, method, path, body=None, headers=None):
        """One exchange on a connection of its own: the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Gateway(Process):
    def __init__(self, binary, log_dir):
        super().__init__("gateway", [binary, "dev", "--ephemeral", "--port", "PORT"], log_dir)
        self.wait_until_up("/readyz")

    def call(self, method, path, body=None, expect=range(200, 300)):
        """A call of the API: the document that answers it."""
        payload = None if body is None else json.dumps(body)
        status, text = self.request(method, path, payload, {"content-type": "application/json"})
        assert status in expect, f"{method} {path}: {status} {text.decode()}"
        return json.loads(text) if text else None

    def run(self, function, body=None):
        """Starts a run: its id."""
        return self.call("POST", f"/v1/functions/{urllib.parse.quote(function)}/runs", body or {})["id"]

    def until(self, run, holds, seconds=30):
        """The run as soon as `holds` of it."""
        end = time.monotonic() + seconds
        while True:
            view = self.call("GET", f"/v1/runs/{run}")
            if holds(view):
                return view
            assert time.monotonic() < end, f"{run} does not come to that: {view}"
            time.sleep(0.05)
