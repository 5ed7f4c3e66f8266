#!/usr/bin/env bash
# Builds the release preset where needed and prints one table: kernels beside the machine, servers beside
# kernels, memory layers beside dense ones. Takes under a minute; a busy machine makes the ratios noisy.
#   tests/bench/run.sh [--steps N] [--repeats N]
#   tests/bench/run.sh --snapshots      what snapshots and recovery cost, beside the disk: 2 minutes, 6 GB of disk
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

targets=(system_bench round_trip_bench)
case "${1:-}" in
  --snapshots)
    targets=(snapshot_bench worker pserver)
    ;;
  -h | --help)
    sed -n '2,5s/^# *//p' "$0"
    exit 0
    ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { cmake --preset release -DMF_TESTS=ON && cmake --build --preset release --target "${targets[@]}"; } \
  > "$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "tests/bench/run.sh: the build failed (deploy/install_packages.sh build test installs what it needs)" >&2
  exit 1
fi
echo "$(nproc) cores, $(awk '{print $1}' /proc/loadavg) of them busy before the start"
if [ "${1:-}" = --snapshots ]; then
  build/release/bin/snapshot_bench
  exec /usr/bin/python3 -B tests/bench/recovery_bench.py build/release/bin/worker build/release/bin/pserver
fi
build/release/bin/round_trip_bench
build/release/bin/system_bench --config deploy/configs/nano.toml "$@"
