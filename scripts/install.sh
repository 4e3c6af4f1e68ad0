#!/usr/bin/env bash
# Installs what is missing on this machine: `install.sh` for the demo, `install.sh test` for the
# tests too. Does nothing, and fast, where all is there.
set -euo pipefail

has() { command -v "$1" >/dev/null; }
has_postgres() {
  has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
    compgen -G '/usr/pgsql-*/bin/initdb' >/dev/null ||
    compgen -G '/opt/homebrew/opt/postgresql@*/bin/initdb' >/dev/null ||
    compgen -G '/usr/local/opt/postgresql@*/bin/initdb' >/dev/null
}

missing=() # packages by their names in Debian
has_postgres || missing+=(postgresql)
has python3 || missing+=(python3)
has node || missing+=(nodejs)
has curl || missing+=(curl)
has jq || missing+=(jq)
has cc || missing+=(gcc libc6-dev)
if [[ ${1:-} == test ]]; then
  has go || missing+=(golang-go)
  has php || missing+=(php-cli)
  has npm || missing+=(npm)
  has chromium || missing+=(chromium)
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi

if ((${#missing[@]})); then
  if ! has apt-get; then
    echo >&2 "These are missing here: ${missing[*]} (by their names in Debian)."
    echo >&2 "  Fedora   sudo dnf install postgresql-server python3 nodejs curl jq gcc golang php-cli"
    echo >&2 "  macOS    brew install postgresql@17 python node curl jq go php"
    exit 1
  fi
  as_root=()
  if ((EUID != 0)); then
    if ! has sudo; then
      echo >&2 "As root, install what is missing: apt-get install ${missing[*]}"
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "Installing ${missing[*]}"
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update --quiet &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install --quiet --yes --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
  fi
  rm -f "$log"
fi

if ! has cargo; then
  echo >&2 "There is no Rust toolchain on the PATH: install one with rustup, then call this again."
  exit 1
fi
