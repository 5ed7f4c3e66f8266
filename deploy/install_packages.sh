#!/usr/bin/env bash
# Installs the Debian 12 packages of deploy/packages.sh that are missing; does nothing if none is.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/packages.sh
source "$here/packages.sh"

usage() {
  cat <<'EOF'
usage: install_packages.sh [--list] GROUP...
  Groups: build (compile), quickstart (its text and helper), test (tests and checks), run (run only),
  engine (Docker), compose (what tests/compose/run.sh needs beside it), picture (its --picture).
  Without a group: build. Installs as root or through sudo. --list only prints the names.
EOF
}

wanted=()
list_only=no
groups=0
for argument in "$@"; do
  case "$argument" in
    build) wanted+=("${MF_BUILD_PACKAGES[@]}") ;;
    quickstart) wanted+=("${MF_QUICKSTART_PACKAGES[@]}") ;;
    test) wanted+=("${MF_TEST_PACKAGES[@]}") ;;
    engine) wanted+=("${MF_ENGINE_PACKAGES[@]}") ;;
    compose) wanted+=("${MF_COMPOSE_PACKAGES[@]}") ;;
    picture) wanted+=("${MF_PICTURE_PACKAGES[@]}") ;;
    run) wanted+=("${MF_RUN_PACKAGES[@]}") ;;
    --list) list_only=yes; continue ;;
    -h | --help) usage; exit 0 ;;
    *) echo "install_packages.sh: unknown group '$argument'" >&2; usage >&2; exit 2 ;;
  esac
  groups=$((groups + 1))
done
if [ "$groups" -eq 0 ]; then
  wanted+=("${MF_BUILD_PACKAGES[@]}")
fi

if [ "$list_only" = yes ]; then
  printf '%s\n' "${wanted[@]}"
  exit 0
fi

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  echo "install_packages.sh: this is not a Debian system; install the equivalents of: ${wanted[*]}" >&2
  exit 1
fi

installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

missing=()
for package in "${wanted[@]}"; do
  installed "$package" || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "packages: all ${#wanted[@]} are installed"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo > /dev/null; then
    cat >&2 <<EOF
install_packages.sh: ${#missing[@]} packages are missing and this user may not install them (no sudo).
  As root: apt-get update && apt-get install --no-install-recommends ${missing[*]}
EOF
    exit 1
  fi
  as_root=(sudo)
fi

echo "packages: installing ${missing[*]}"
"${as_root[@]}" apt-get -q update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -q -y install --no-install-recommends "${missing[@]}"
