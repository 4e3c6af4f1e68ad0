#!/usr/bin/env bash
# Runs every example handler against a real gateway: each is served, and a whole run is driven with
# curl and jq. Takes the binary as its argument.
set -euo pipefail
cd "$(dirname "$0")/.."

stepwell=${1:-target/debug/stepwell}
port=${PORT:-18484}
handler_port=$((port + 1))
work=$(mktemp -d)
pids=()

# Ends what this script started, and only that.
finish() {
  local status=$?
  trap - EXIT
  ((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null
  wait
  ((status)) && tail -n 30 "$work"/*.txt >&2
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# until_up URL: waits until something answers there, whatever it says.
until_up() {
  for ((i = 0; i < 300; i++)); do
    curl --silent --output "$work/answer" --max-time 5 "$@" && return
    sleep 0.1
  done
  echo >&2 "$* does not answer"
  return 1
}

"$stepwell" dev --ephemeral --port "$port" >"$work/gateway.txt" 2>&1 &
pids+=($!)
until_up --fail "http://127.0.0.1:$port/readyz"

STEPWELL_SIGNING_SECRET=whsec_$(head -c 32 /dev/urandom | base64)
export STEPWELL_SIGNING_SECRET STEPWELL_URL=http://127.0.0.1:$port
(cd examples/order && go build -o "$work/order-go" order.go)

try() {
  local name=$1
  shift
  echo "== $name"
  PORT=$handler_port ORDER_LOG=$work/$name.log "$@" >"$work/$name.txt" 2>&1 &
  local pid=$!
  pids+=("$pid")
  until_up "http://127.0.0.1:$handler_port/"
  HANDLER_URL=http://127.0.0.1:$handler_port/ examples/curl-run.sh
  # What really ran: five bodies, three of them attempts at packing.
  if [[ $(cut -d' ' -f2 "$work/$name.log" | xargs) != 'charge pack pack pack ship' ]]; then
    echo >&2 "$name ran other bodies than it should:"
    cat >&2 "$work/$name.log"
    return 1
  fi
  kill "$pid"
  wait "$pid" || true
  handler_port=$((handler_port + 1))
}

try python python3 examples/order/order.py
try node node examples/order/order.mjs
try go "$work/order-go"
try php php -S "127.0.0.1:$handler_port" examples/order/order.php
echo "All examples did what they should."
