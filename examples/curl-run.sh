#!/usr/bin/env bash
# A whole run with curl and jq: registers an order handler, starts an order, waits until it wants an
# approval, sends that, waits for the end, and prints the journal.
#
# It needs a gateway (`stepwell dev`) and one of the handlers of examples/order:
#
#   stepwell dev &
#   PORT=3000 python3 examples/order/order.py &
#   examples/curl-run.sh
#
# STEPWELL_URL             the gateway; http://127.0.0.1:8484 if not given
# STEPWELL_API_KEY         its key; `stepwell dev` needs none
# HANDLER_URL              the handler; http://127.0.0.1:3000/ if not given
# STEPWELL_SIGNING_SECRET  the handler's secret, if it checks signatures
set -euo pipefail

gateway=${STEPWELL_URL:-http://127.0.0.1:8484}
handler=${HANDLER_URL:-http://127.0.0.1:3000/}

# call METHOD PATH [JSON] [curl options]: prints the answer; an error is printed and ends the script.
call() {
  local method=$1 path=$2 body=${3:-}
  shift $(($# < 3 ? $# : 3))
  local options=(--silent --show-error --fail-with-body --request "$method" --max-time 60)
  [[ -n $body ]] && options+=(--header 'content-type: application/json' --data "$body")
  [[ -n ${STEPWELL_API_KEY:-} ]] && options+=(--header "authorization: Bearer $STEPWELL_API_KEY")
  curl "${options[@]}" "$@" "$gateway$path" || { echo >&2 " ($method $path)"; return 1; }
}

echo "1. register $handler"
endpoint=$(jq --null-input --arg url "$handler" --arg secret "${STEPWELL_SIGNING_SECRET:-}" '
  {name: "curl-shop", $url, functions: [{name: "order"}], discover: false}
  + if $secret == "" then {} else {$secret} end')
call POST /v1/endpoints "$endpoint" | jq --compact-output '{id: (.endpoint.id? // .id), probe}'

echo "2. start an order"
# The same idempotency key never starts a second one, however often the request is repeated.
number=$(date +%s)
input=$(jq --null-input --argjson order "$number" '{input: {$order, amount: 1999, cool_off: "1s"}, tags: {from: "curl"}}')
run=$(call POST /v1/functions/order/runs "$input" --header "idempotency-key: order-$number" | jq --raw-output .id)
echo "   $run"

echo "3. wait until it wants an approval (packing fails twice on the way)"
for ((tries = 0; ; tries++)); do
  state=$(call GET "/v1/runs/$run")
  [[ $(jq 'any(.waiting_for[]?; .name == "approved")' <<<"$state") == true ]] && break
  if ((tries == 150)) || [[ $(jq '.ended_at != null or .status == "paused"' <<<"$state") == true ]]; then
    echo >&2 "   it does not come to that:"
    jq >&2 '{status, attention, error}' <<<"$state"
    exit 1
  fi
  sleep 0.2
done
jq --compact-output '{status, waiting_for}' <<<"$state"

echo "4. approve"
call POST "/v1/runs/$run/signals/approved" '{"payload": {"by": "curl"}}' | jq --compact-output .

echo "5. wait for the end"
state=$(call GET "/v1/runs/$run?wait=30s")
jq --compact-output '{status, output, error}' <<<"$state"

echo "6. its journal"
call GET "/v1/runs/$run/journal" |
  jq --raw-output '.data[] | [.seq, .id, .op, "attempts \(.attempts)", (.value | tojson)] | map(tostring) | join("  ")' |
  sed 's/^/   /'

[[ $(jq --raw-output .status <<<"$state") == completed ]]
