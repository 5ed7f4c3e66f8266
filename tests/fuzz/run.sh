#!/usr/bin/env bash
# Fuzzes what reads bytes from outside: builds the targets with Clang's libFuzzer, address and undefined-behaviour
# sanitizers (preset `fuzz`), runs them and prints a table. What crashes is kept in tests/fuzz/found/TARGET, where the
# test fuzz_TARGET finds it, and so does this script.
#   tests/fuzz/run.sh [--seconds N | --hours N] [--jobs N] [--keep] [--coverage] [TARGET...]
#     --seconds N  of each target (default: 60)     --hours N  of all targets together
#     --jobs N     targets that run at once (default: 2, at most one for each core)
#     --keep       then chooses inputs for tests/fuzz/corpus/TARGET: those with the most coverage for their bytes
#     --coverage   prints for each target which share of the edges in the files that it is for were reached
# Exit codes: 0 nothing was found, 1 something was, 2 bad usage, 77 there is no Clang 19 with libFuzzer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bad_usage() {
  echo "tests/fuzz/run.sh: $*" >&2
  sed -n '5,10s/^# \{0,1\}//p' tests/fuzz/run.sh >&2
  exit 2
}
whole() {
  [[ "$2" =~ ^[1-9][0-9]{0,5}$ ]] || bad_usage "$1 takes a whole number from 1 on"
}

seconds=60 hours='' jobs=2 keep=no coverage=no targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds | --hours | --jobs)
      [ $# -ge 2 ] || bad_usage "$1 needs a value"
      whole "$1" "$2"
      case "$1" in --seconds) seconds=$2 hours='' ;; --hours) hours=$2 ;; --jobs) jobs=$2 ;; esac
      shift
      ;;
    --keep) keep=yes ;;
    --coverage) coverage=yes ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' tests/fuzz/run.sh; exit 0 ;;
    -*) bad_usage "unknown option $1" ;;
    *)
      [ -f "tests/fuzz/targets/$1.cpp" ] || bad_usage "$1 is none of: $(cd tests/fuzz/targets && echo *.cpp | sed 's/\.cpp//g')"
      targets+=("$1")
      ;;
  esac
  shift
done
if [ "${#targets[@]}" -eq 0 ]; then
  for source in tests/fuzz/targets/*.cpp; do targets+=("$(basename "$source" .cpp)"); done
fi
cores=$(nproc)
[ "$jobs" -le "$cores" ] || jobs=$cores
[ -z "$hours" ] || seconds=$((hours * 3600 * jobs / ${#targets[@]}))

runtime=$(clang++-19 -print-file-name=libclang_rt.fuzzer.a 2> /dev/null || true)
if [[ "$runtime" != */* ]]; then  # in the folder of the architecture, or with its name
  runtime=$(clang++-19 -print-file-name="libclang_rt.fuzzer-$(uname -m).a" 2> /dev/null || true)
fi
if [[ "$runtime" != */* ]]; then
  echo "tests/fuzz/run.sh: SKIPPED: no clang++-19 with libFuzzer (packages clang-19 and libclang-rt-19-dev)" >&2
  exit 77
fi

cmake --preset fuzz > /dev/null
cmake --build --preset fuzz --target fuzz_targets | tail -n 1
bin=build/fuzz/bin work=build/fuzz/fuzzing  # what was learned stays there for the next run
mkdir -p "$work"
"$bin/fuzz_seeds" "$work/seeds" deploy/configs/*.toml
# An allocation that is too large throws, as it does without a sanitizer.
# Targets that read files by name write them there: in memory, if that can be.
TMPDIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" mf-fuzz-XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

# folders TARGET: existing folders with its inputs; new ones go to the first.
folders() {
  local folder
  mkdir -p "$work/corpus/$1"
  for folder in "$work/corpus/$1" "$work/seeds/$1" "tests/fuzz/corpus/$1" "tests/fuzz/found/$1"; do
    [ ! -d "$folder" ] || printf '%s\n' "$folder"
  done
}

# fuzz TARGET: its log is $work/TARGET.log.
fuzz() {
  local places options=()
  mapfile -t places < <(folders "$1")
  [ ! -f "$work/seeds/$1.dict" ] || options+=("-dict=$work/seeds/$1.dict")
  mkdir -p "tests/fuzz/found/$1"
  nice -n 19 "$bin/fuzz_$1" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=20000 -len_control=50 \
    -print_final_stats=1 -artifact_prefix="tests/fuzz/found/$1/" "${options[@]}" "${places[@]}" \
    > "$work/$1.log" 2>&1 || true
  rmdir "tests/fuzz/found/$1" 2> /dev/null || true
}

# number PATTERN FILE: the last number behind the pattern.
number() {
  sed -nE "s/.*$1[^0-9]*([0-9]+).*/\1/p" "$2" | tail -n 1
}

running=0
for target in "${targets[@]}"; do
  fuzz "$target" &
  running=$((running + 1))
  if [ "$running" -ge "$jobs" ]; then
    wait -n
    running=$((running - 1))
  fi
done
wait

found=0
printf '%-18s %11s %8s %15s %7s %7s %5s\n' target executions exec/s "edges of all" inputs "new" found
for target in "${targets[@]}"; do
  log=$work/$target.log
  crashes=$(grep -c '^artifact_prefix=.*Test unit written' "$log" || true)
  if [ "$crashes" -eq 0 ] && ! grep -q '^Done ' "$log"; then
    crashes=1  # it ended without a case: where it began
  fi
  found=$((found + crashes))
  printf '%-18s %11s %8s %15s %7s %7s %5s\n' "$target" "$(number 'stat::number_of_executed_units:' "$log")" \
    "$(number 'stat::average_exec_per_sec:' "$log")" \
    "$(number ' cov:' "$log") of $(number 'Loaded 1 modules +\(' "$log")" \
    "$(find "$work/corpus/$target" -type f | wc -l)" "$(number 'stat::new_units_added:' "$log")" "$crashes"
done

for target in "${targets[@]}"; do
  mapfile -t places < <(folders "$target")
  [ "$keep" = no ] || tests/fuzz/inputs.py keep "$bin/fuzz_$target" "tests/fuzz/corpus/$target" "${places[@]}"
  [ "$coverage" = no ] || tests/fuzz/inputs.py coverage "$bin/fuzz_$target" "tests/fuzz/targets/$target.cpp" "${places[@]}"
done

if [ "$found" -gt 0 ]; then
  for target in "${targets[@]}"; do  # with the case itself, for machines whose files nobody keeps
    grep -HE '^SUMMARY: |ERROR: |^Base64: |^artifact_prefix=' "$work/$target.log" >&2 || true
  done
  echo "tests/fuzz/run.sh: $found targets FOUND something; the cases are in tests/fuzz/found, the reports in $work/*.log" >&2
  exit 1
fi
