#!/usr/bin/env bash
# Builds the release preset where needed and prints one table: kernels beside the machine and beside
# PyTorch, a server beside the kernels, pushdown beside the exchange of rows, memory layers beside dense
# ones. Takes under 5 minutes; a busy machine makes the ratios noisy.
#   tests/bench/run.sh [--json FILE] [--quick] [--threads N] [--steps N] [--repeats N]
#                  --quick: without PyTorch and without the sweep of `auto`; --threads: of the kernel lines
#   tests/bench/run.sh --link 10gbit    the exchange only, over a link of this rate (also --json, --repeats)
#   tests/bench/run.sh --training       2 servers and 2 workers, beside dense layers and PyTorch: 3 minutes
#   tests/bench/run.sh --overlap        a step beside its compute and its exchange, at the link rate where those are equal: 2 minutes
#   tests/bench/run.sh --scaling        bytes and steps with 1 to 4 servers, links of 1 Gbit/s, beside docs/SCALING.md: 3 minutes
#   tests/bench/run.sh --keyed          100 million keys on one server, and look-ups beside maps here: 5 minutes, 16 GB of memory
#   tests/bench/run.sh --snapshots      what snapshots and recovery cost, beside the disk: 2 minutes, 6 GB of disk
# --json goes with all but --snapshots and --keyed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

targets=(round_trip_bench layer_bench commit_bench exchange_bench system_bench pserver)
what='' link='' json='' steps=24 repeats=5 threads=''
layer_flags=(--peer tests/bench/embedding_bag.py)
exchange_flags=(--pserver build/release/bin/pserver)
while [ $# -gt 0 ]; do
  case "$1" in
    --snapshots)
      what=snapshots
      targets=(snapshot_bench worker pserver)
      ;;
    --keyed)
      what=keyed
      targets=(keyed_bench pserver)
      ;;
    --training | --overlap | --scaling)
      what=${1#--}
      targets=(worker pserver replay_bench)
      ;;
    --quick)
      layer_flags=()
      exchange_flags+=(--quick 1)
      ;;
    --json | --link | --steps | --repeats | --threads)
      if [ $# -lt 2 ]; then
        echo "tests/bench/run.sh: $1 needs a value" >&2
        exit 2
      fi
      declare "${1#--}=$2"
      shift
      ;;
    -h | --help)
      sed -n '2,13s/^# *//p' "$0"
      exit 0
      ;;
    *)
      echo "tests/bench/run.sh: $1 is unknown (--help)" >&2
      exit 2
      ;;
  esac
  shift
done

log=$(mktemp)
lines=$(mktemp)
trap 'rm -f "$log" "$lines"' EXIT
if ! { cmake --preset release -DMF_TESTS=ON && cmake --build --preset release --target "${targets[@]}"; } \
  > "$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "tests/bench/run.sh: the build failed (deploy/install_packages.sh build test installs what it needs)" >&2
  exit 1
fi
echo "$(nproc) cores, $(awk '{print $1}' /proc/loadavg) of them busy before the start"
bin=build/release/bin
script() { /usr/bin/python3 -B "tests/bench/$1" $bin/worker $bin/pserver "${@:2}"; }
case "$what" in
  keyed)
    $bin/keyed_bench $bin/pserver
    /usr/bin/python3 -B tests/bench/keyed/embedding_lookups.py
    exit
    ;;
  snapshots)
    $bin/snapshot_bench
    script recovery_bench.py
    exit
    ;;
  training) script training_bench.py --json "$lines" ;;
  overlap) script overlap_bench.py $bin/replay_bench --json "$lines" ;;
  scaling) script scaling_bench.py --json "$lines" ;;
  *)
    [ -z "$threads" ] || layer_flags+=(--threads "$threads")
    exchange=("$bin/exchange_bench" "${exchange_flags[@]}" --repeats "$repeats" --json "$lines")
    if [ -n "$link" ]; then
      echo "server and client at the ends of a link of $link"
      tests/bench/limited_link.sh "$link" "${exchange[@]}" 2> "$log" || { cat "$log" >&2; exit 1; }
    else
      $bin/round_trip_bench --json "$lines"
      $bin/layer_bench "${layer_flags[@]}" --repeats "$repeats" --json "$lines"
      $bin/commit_bench ${threads:+--threads "$threads"} --json "$lines"
      "${exchange[@]}" 2> "$log" || { cat "$log" >&2; exit 1; }
      $bin/system_bench --config deploy/configs/nano.toml --steps "$steps" --repeats "$repeats" --json "$lines"
    fi
    ;;
esac
if [ -n "$json" ]; then
  { echo '['; sed '$!s/$/,/' "$lines"; echo ']'; } > "$json"
fi
