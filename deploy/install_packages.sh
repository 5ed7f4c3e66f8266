#!/usr/bin/env bash
# Installs the packages of deploy/packages.sh that are missing; does nothing if none is.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/packages.sh
source "$here/packages.sh"

usage() {
  cat <<'END'
usage: install_packages.sh [--list] GROUP...
  Groups: build (compile), python (what the Python package needs beside it), quickstart (its text and helper),
  test (tests and checks, python among them), run (run only), engine (Docker),
  compose (what tests/compose/run.sh needs beside it), picture (its --picture).
  Without a group: build. Installs as root or through sudo. --list only prints the names.
END
}
fail() {
  printf 'install_packages.sh: %s\n' "$*" >&2
  exit 1
}

wanted=() groups=() run=no list_only=no
for argument in "$@"; do
  case "$argument" in
    build) wanted+=("${MF_BUILD_PACKAGES[@]}") ;;
    python) wanted+=("${MF_PYTHON_PACKAGES[@]}") ;;
    quickstart) wanted+=("${MF_QUICKSTART_PACKAGES[@]}") ;;
    test) wanted+=("${MF_TEST_PACKAGES[@]}") ;;
    engine) wanted+=("${MF_ENGINE_PACKAGES[@]}") ;;
    compose) wanted+=("${MF_COMPOSE_PACKAGES[@]}") ;;
    picture) wanted+=("${MF_PICTURE_PACKAGES[@]}") ;;
    run) run=yes ;;
    --list) list_only=yes; continue ;;
    -h | --help) usage; exit 0 ;;
    *) echo "install_packages.sh: unknown group '$argument'" >&2; usage >&2; exit 2 ;;
  esac
  groups+=("$argument")
done
if [ "${#groups[@]}" -eq 0 ]; then
  groups=(build)
  wanted=("${MF_BUILD_PACKAGES[@]}")
fi

system=$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2> /dev/null | tr -d '"' || true)
if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  [ "$list_only$run" = yesno ] ||
    fail "${system:-this system} has no apt; install the equivalents of: ${wanted[*]:-the libraries in $here/packages.sh}"
fi

installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}
known() {
  apt-cache show "$1" > /dev/null 2>&1
}
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo > /dev/null; then
    sudo "$@"
  else
    fail "packages are missing and this user may not install them (no sudo). As root: $0 ${groups[*]}"
  fi
}
update() {
  as_root apt-get -q update >&2
  update() { :; }  # once
}

if [ "$run" = yes ]; then
  libraries=()
  for package in "${MF_BUILD_PACKAGES[@]}"; do
    [[ $package != *-dev ]] || libraries+=("$package")
  done
  for package in "${libraries[@]}"; do
    known "$package" || update
  done
  loaded=$(apt-cache depends --important "${libraries[@]}" | awk '$1 == "Depends:" { print $2 }' |
    grep '^lib' | grep -v -e '-dev$' | grep -vE "$MF_NOT_LOADED")
  mapfile -t -O "${#wanted[@]}" wanted <<< "$loaded"
fi

if [ "$list_only" = yes ]; then
  printf '%s\n' "${wanted[@]}"
  exit 0
fi

find_missing() {
  missing=()
  local package
  for package in "${wanted[@]}"; do
    installed "$package" && continue
    [[ " ${MF_OPTIONAL_PACKAGES[*]} " = *" $package "* ]] && ! known "$package" && continue
    missing+=("$package")
  done
}
find_missing
if [ "${#missing[@]}" -eq 0 ]; then
  echo "packages: all ${#wanted[@]} are installed"
  exit 0
fi

update
find_missing
for package in "${missing[@]}"; do
  known "$package" || fail "${system:-this system} has no package $package; README.md names the distributions that have all"
done
echo "packages: installing ${missing[*]}"
as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${missing[@]}"
