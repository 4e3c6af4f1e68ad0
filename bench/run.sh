#!/usr/bin/env bash
# End to end: wrk starts runs and waits for their ends; a Rust handler answers one step at a time;
# Postgres is private, with fsync on. All on this machine.
#
#   bench/run.sh [SECONDS]     how long each line is measured (default 5)
#   TRANSPORT=duplex bench/run.sh     over respond (default), checkpoint, duplex or stream
#   BYTES=1 bench/run.sh       bytes sent to the handler a step, for runs of 10 to 10,000 steps
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
port=${PORT:-8585}
handler_port=$((port + 1))
export TRANSPORT=${TRANSPORT:-respond}
dir=$(mktemp -d)
chmod 755 "$dir"
bin=${CARGO_TARGET_DIR:-target}/release

command -v wrk >/dev/null || { echo "bench: wrk is missing (Debian: apt-get install wrk)" >&2; exit 1; }
cargo build --release --quiet --bin stepwell --example bench_handler

stop() {
  kill "${gateway:-}" "${handler:-}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap stop EXIT

"$bin/stepwell" dev --port "$port" --data-dir "$dir/data" --log-filter warn >"$dir/gateway.log" 2>&1 &
gateway=$!
"$bin/examples/bench_handler" "127.0.0.1:$handler_port" &
handler=$!
for _ in $(seq 300); do
  curl -fs "http://127.0.0.1:$port/readyz" >/dev/null && break
  sleep 0.1
done
curl -fsS -X POST "http://127.0.0.1:$port/v1/endpoints" -H 'content-type: application/json' \
  -d "{\"name\":\"bench\",\"url\":\"http://127.0.0.1:$handler_port/\",\"functions\":[{\"name\":\"steps\"}],\"transports\":[\"$TRANSPORT\"],\"discover\":false}" >/dev/null

sent() {
  curl -fsS "http://127.0.0.1:$port/metrics" |
    awk '/^stepwell_invocation_sent_bytes_total/ { n += $2 } END { printf "%d", n }'
}
if [ -n "${BYTES:-}" ]; then
  printf '%10s %6s %14s\n' transport steps bytes/step
  for steps in 10 100 1000 10000; do
    before=$(sent)
    curl -fsS -X POST "http://127.0.0.1:$port/v1/functions/steps/runs?wait=280s" \
      -H 'content-type: application/json' -d "{\"input\":$steps}" >/dev/null
    awk -v t="$TRANSPORT" -v s="$steps" -v b="$(($(sent) - before))" \
      'BEGIN { printf "%10s %6d %14.1f\n", t, s, b / s }'
  done
  exit
fi

cat >"$dir/start.lua" <<'LUA'
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{"input":' .. os.getenv("STEPS") .. '}'
wrk.path = "/v1/functions/steps/runs?wait=30s"
local bad = 0
function response(status) if status ~= 200 then bad = bad + 1 end end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("FIGURES %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
LUA

printf '%6s %12s %10s %10s %10s %10s %7s\n' steps connections runs/s steps/s p50_ms p99_ms errors
for steps in 1 10 100; do
  for connections in 1 32 128; do
    STEPS=$steps wrk -t1 -c"$connections" -d1 -s "$dir/start.lua" "http://127.0.0.1:$port" >/dev/null
    figures=$(STEPS=$steps wrk -t1 -c"$connections" -d"$seconds" -s "$dir/start.lua" "http://127.0.0.1:$port" | grep FIGURES)
    read -r _ requests micros p50 p99 errors <<<"$figures"
    awk -v s="$steps" -v c="$connections" -v r="$requests" -v u="$micros" -v a="$p50" -v b="$p99" -v e="$errors" \
      'BEGIN { rate = r / (u / 1e6); printf "%6d %12d %10.0f %10.0f %10.2f %10.2f %7d\n", s, c, rate, rate * s, a / 1000, b / 1000, e }'
  done
done
