#!/usr/bin/env bash
# Stepwell and Restate by turns on this machine: the same function of N steps, wrk with 128
# connections, each its own server, handler and disk. Prints runs/s of each turn and the ratio.
#
#   bench/peer.sh [SECONDS] [ROUNDS]     how long each turn is measured (default 6), how often (2)
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-6}
rounds=${2:-2}
port=${PORT:-8585}
connections=${CONNECTIONS:-128}
dir=$(mktemp -d)
chmod 755 "$dir"
bin=${CARGO_TARGET_DIR:-target}/release
peer=target/bench-peer

for tool in wrk node npm; do
  command -v "$tool" >/dev/null || { echo "bench: $tool is missing" >&2; exit 1; }
done
cargo build --release --quiet --bin stepwell --example bench_handler
mkdir -p "$peer"
cp bench/peer/package.json bench/peer/package-lock.json bench/peer/handler.mjs "$peer/"
[[ -d $peer/node_modules ]] || (cd "$peer" && npm ci --ignore-scripts --no-audit --no-fund >/dev/null)

pids=()
stop() {
  kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap stop EXIT

# until_ok CURL-ARGUMENTS…: repeats until it succeeds.
until_ok() {
  for _ in $(seq 300); do
    curl -fs -o "$dir/answer" "$@" && return
    sleep 0.1
  done
  echo "bench: $* does not answer" >&2
  return 1
}

"$bin/stepwell" dev --port "$port" --data-dir "$dir/stepwell" --log-filter warn >"$dir/stepwell.log" 2>&1 &
pids+=($!)
"$bin/examples/bench_handler" "127.0.0.1:$((port + 1))" &
pids+=($!)
until_ok "http://127.0.0.1:$port/readyz"
until_ok -X POST "http://127.0.0.1:$port/v1/endpoints" -H 'content-type: application/json' \
  -d "{\"name\":\"bench\",\"url\":\"http://127.0.0.1:$((port + 1))/\",\"functions\":[{\"name\":\"steps\"}],\"discover\":false}"

# One node, as it comes, on loopback alone and without telemetry.
RESTATE_DISABLE_TELEMETRY=true DO_NOT_TRACK=1 RESTATE_LISTEN_MODE=tcp RESTATE_BIND_IP=127.0.0.1 \
  RESTATE_LOG_FILTER=warn RESTATE_BASE_DIR="$dir/restate" \
  "$peer/node_modules/.bin/restate-server" --no-logo >"$dir/restate.log" 2>&1 &
pids+=($!)
(cd "$peer" && exec node handler.mjs "$((port + 2))") >"$dir/peer-handler.log" 2>&1 &
pids+=($!)
until_ok "http://127.0.0.1:9070/health"
until_ok -X POST "http://127.0.0.1:9070/deployments" -H 'content-type: application/json' \
  -d "{\"uri\":\"http://127.0.0.1:$((port + 2))\"}"
until_ok --max-time 5 -X POST "http://127.0.0.1:8080/bench/steps" -H 'content-type: application/json' -d 1

cat >"$dir/start.lua" <<'LUA'
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = os.getenv("BODY")
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("FIGURES %d %d %d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
LUA

# turn BODY URL: runs a second.
turn() {
  BODY=$1 wrk -t1 -c"$connections" -d1 -s "$dir/start.lua" "$2" >/dev/null
  BODY=$1 wrk -t1 -c"$connections" -d"$seconds" -s "$dir/start.lua" "$2" |
    awk '/FIGURES/ { printf "%.0f %d\n", $2 / ($3 / 1e6), $4 }'
}

printf '%6s %6s %12s %12s %8s %s\n' steps round stepwell restate ratio 'errors (each)'
for steps in 1 10 100; do
  for round in $(seq "$rounds"); do
    read -r ours our_errors < <(turn "{\"input\":$steps}" "http://127.0.0.1:$port/v1/functions/steps/runs?wait=30s")
    read -r theirs their_errors < <(turn "$steps" "http://127.0.0.1:8080/bench/steps")
    awk -v s="$steps" -v r="$round" -v a="$ours" -v b="$theirs" -v e="$our_errors $their_errors" \
      'BEGIN { printf "%6d %6d %12.0f %12.0f %8.1f %s\n", s, r, a, b, a / b, e }'
  done
done
