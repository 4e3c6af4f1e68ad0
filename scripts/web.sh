#!/usr/bin/env bash
# Builds the dashboard into web/dist, where it is not there or older than its sources. Without Node
# and npm nothing is built, and the gateway has a small page in its place: with `--needed` that is an
# error.
set -euo pipefail
cd "$(dirname "$0")/../web"

lacks() {
  if [[ ${1:-} == --needed ]]; then
    echo >&2 "The dashboard needs Node 20 or newer, and npm: $2"
    exit 1
  fi
  echo "Without the dashboard: $2"
  exit 0
}
command -v node >/dev/null && command -v npm >/dev/null || lacks "${1:-}" "node or npm is not on the PATH."
# The first Node that has what its build needs.
node --eval 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' ||
  lacks "${1:-}" "node is $(node --version), and 20.19 is needed."

if [[ -f dist/index.html ]] &&
  [[ -z $(find src public index.html package-lock.json vite.config.ts tsconfig.json -newer dist/index.html -print -quit) ]]; then
  exit 0
fi
if ! cmp --silent package-lock.json node_modules/installed.json; then
  echo "Installing what the dashboard is built with"
  log=$(mktemp)
  npm ci --no-audit --no-fund >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
  rm -f "$log"
  cp package-lock.json node_modules/installed.json
fi
npm run --silent build
