#!/usr/bin/env bash
# Lets a cluster run for a while among kills, ends, network cuts and readers, and judges what its processes use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
  cat <<'USAGE'
usage: tests/soak/run.sh [--minutes N] [--seed S] [--out DIR] [--build DIR]
  --minutes N  how long faults come (default 5); the comparison with an undisturbed run comes after that
  --seed S     of the faults (default: another one every time; it is printed)
  --out DIR    for samples.csv, soak.svg and soak.md (default out/soak)
  --build DIR  where bin/worker and bin/pserver are (default build/release)
USAGE
}

build=build/release arguments=(--out out/soak)
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --build) build=${2:?--build takes a folder}; shift ;;
    --minutes | --seed | --out) arguments+=("$1" "${2:?$1 takes a value}"); shift ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
exec python3 -B tests/soak/soak.py "$build/bin/worker" "$build/bin/pserver" "${arguments[@]}"
