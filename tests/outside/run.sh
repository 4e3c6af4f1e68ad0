#!/usr/bin/env bash
# What outsiders' tools say of Stepwell: the packages of Standard Webhooks, and schemathesis. Takes
# the binary as its argument. What they need is installed under target/outside and kept there.
set -euo pipefail
binary=$(realpath "${1:-target/debug/stepwell}")
cd "$(dirname "$0")"
kept=$(realpath ../../target)/outside
python=$kept/venv/bin/python
mkdir -p "$kept"

# quietly COMMAND…: shows what it says only if it fails.
quietly() {
  "$@" >"$kept/install.log" 2>&1 || { cat "$kept/install.log" >&2; return 1; }
}

if ! cmp --silent requirements.txt "$kept/venv/installed.txt"; then
  echo "Installing requirements.txt"
  rm -rf "$kept/venv"
  quietly python3 -m venv "$kept/venv"
  quietly "$python" -m pip install --disable-pip-version-check --requirement requirements.txt
  cp requirements.txt "$kept/venv/installed.txt"
fi
if ! cmp --silent package-lock.json node_modules/installed.json; then
  echo "Installing package-lock.json"
  quietly npm ci --no-audit --no-fund
  cp package-lock.json node_modules/installed.json
fi

"$python" webhooks.py "$binary"
"$python" api.py "$binary" >"$kept/api.log" 2>&1 || { cat "$kept/api.log" >&2; exit 1; }
tail -n 1 "$kept/api.log"

cd browser
if ! cmp --silent package-lock.json node_modules/installed.json; then
  echo "Installing browser/package-lock.json"
  quietly npm ci --no-audit --no-fund
  cp package-lock.json node_modules/installed.json
fi
STEPWELL=$binary node --test --test-concurrency=1
