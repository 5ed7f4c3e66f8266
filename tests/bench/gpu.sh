#!/usr/bin/env bash
# Builds, checks and times the CUDA backend on a machine with a GPU, in under 8 minutes and without network.
#   tests/bench/gpu.sh [--quick] [--bin DIR] [--out FILE]
# With the CUDA toolkit, cmake and a C++ compiler: builds the kernels for this machine's GPU in build/gpu, runs the tests
# of single operations, runs them again under compute-sanitizer (memcheck and racecheck, as far as they get in
# their time), and times every kernel beside a copy and a matrix product.
# With a worker built for CUDA, too: tests of the whole model, then training of `tiny` with memory layers beside the dense
# baseline, and beside PyTorch if python3 has one that sees the GPU. What cannot run is named in one line.
#   --bin DIR   the programs in DIR/bin and their libraries in DIR/lib, or DIR.tar.gz of both; default: build/cuda
#   --quick     2 minutes: without compute-sanitizer and PyTorch; small kernels, whose times say nothing
#   --out FILE  the results also go there
# On a machine that built the whole project (cmake --preset cuda), to take programs to one that cannot:
#   tests/bench/gpu.sh --pack DIR [--with-cuda]     makes what --bin takes; DIR may end in .tar.gz
#   --with-cuda cuBLAS as well, half a GB, for machines without the CUDA toolkit
# Exit codes: 0 all that ran holds, 1 something does not, 2 bad usage, 77 no GPU here.
set -euo pipefail

readonly TIME=470  # seconds of all parts together
readonly PROGRAMS=(worker gpu_model_test gpu_training_test)  # and pserver, which nothing here needs, if it is built

usage_error() {
  echo "tests/bench/gpu.sh: $* (--help)" >&2
  exit 2
}

# --- Libraries and packing ---------------------------------------------------------------------------------

# toolkit_libraries: the folder of cuBLAS.
toolkit_libraries() {
  local nvcc
  nvcc=$(command -v nvcc || true)
  if [ -n "$nvcc" ]; then
    echo "$(dirname "$(dirname "$(readlink -f "$nvcc")")")/lib64"
  else
    echo /usr/local/cuda/lib64
  fi
}

# libraries WITH_CUDA PROGRAM...: the shared libraries that the programs load, one path a line. Not among them: those of
# glibc, which belong to a machine's loader, and the driver's.
libraries() {
  local with_cuda=$1 skipped='ld-linux[^/]*|lib(c|m|mvec|pthread|dl|rt|resolv|util|anl|nsl)|libcuda'
  shift
  [ "$with_cuda" = yes ] || skipped+='|libcublas|libcublasLt'
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(toolkit_libraries) ldd "$@" | awk '/not found/ { print "missing: " $1 } $2 == "=>" && $3 ~ /^\// { print $3 }' |
    grep -vE "/($skipped)\.so" | sort -u
}

# pack FROM TO WITH_CUDA: programs of FROM/bin with their libraries.
pack() {
  local from=$1 to=$2 with_cuda=$3 name library folder programs=() names=("${PROGRAMS[@]}")
  [ ! -x "$from/bin/pserver" ] || names+=(pserver)
  for name in "${names[@]}"; do
    [ -x "$from/bin/$name" ] ||
      { echo "tests/bench/gpu.sh: no $from/bin/$name; cmake --preset cuda && cmake --build --preset cuda" >&2; exit 1; }
    programs+=("$from/bin/$name")
  done
  folder=$to
  if [[ $to = *.tar.gz ]]; then
    folder=$work/pack
  elif [ -e "$to" ] && [ -n "$(ls -A "$to")" ]; then
    echo "tests/bench/gpu.sh: $to is not empty" >&2
    exit 1
  fi
  libraries "$with_cuda" "${programs[@]}" > "$work/libraries"
  if grep '^missing: ' "$work/libraries" >&2; then exit 1; fi
  mkdir -p "$folder/bin" "$folder/lib"
  for name in "${names[@]}"; do strip -o "$folder/bin/$name" "$from/bin/$name"; done
  while IFS= read -r library; do cp -L "$library" "$folder/lib/"; done < "$work/libraries"
  [ "$folder" = "$to" ] || tar -C "$folder" -czf "$to" bin lib
  echo "$to: ${#names[@]} programs, $(wc -l < "$work/libraries") libraries, $(du -sh "$to" | cut -f1)"
  echo "It needs a glibc at least as new as this one: $(ldd --version | head -n 1 | grep -oE '[0-9.]+$')"
}

# --- Running parts in their time ---------------------------------------------------------------------------

faults=0

# start LIMIT LOG COMMAND...: in the background, ended after LIMIT seconds or when everything's time is over. Its id: $started.
start() {
  local limit=$1 log=$2 left=$((TIME - SECONDS))
  shift 2
  [ "$limit" -le "$left" ] || limit=$((left > 1 ? left : 1))
  timeout -k 5 "$limit" "$@" > "$log" 2>&1 < /dev/null &
  started=$!
}

# within LIMIT LOG COMMAND...: the same, and waits. The exit code is the command's, 124 or 137 if its time was over.
within() {
  start "$@"
  wait "$started"
}

say() { echo "gpu.sh: $*" >&2; }

# report TEXT: of the results.
report() { printf '%s\n' "$*" | tee -a "$results"; }

# row NAME TEXT: a line of the table of checks.
row() { report "$(printf '%-44s  %s' "$1" "$2")"; }

# failed NAME TEXT LOG [head]: a row, and the end, or the beginning, of its log.
failed() {
  faults=$((faults + 1))
  row "$1" "FAILED: $2"
  "${4:-tail}" -n 25 "$3" | sed 's/^/    /' | tee -a "$results"
}

# --- Kernels -----------------------------------------------------------------------------------------------

build_kernels() {
  local log=$work/build.log nvcc
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  if [ ! -x "$nvcc" ] || ! command -v cmake > /dev/null; then
    row "kernels" "left out: building them needs nvcc and cmake"
    return 1
  fi
  say "building the kernels"
  local start_time=$SECONDS
  if ! within 60 "$log" cmake -S tests/gpu -B build/gpu -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES=native ||
    ! within 200 "$log" cmake --build build/gpu --target gpu_tests -j "$(nproc)"; then
    failed "kernels, build" "see below" "$log"
    return 1
  fi
  row "kernels, build" "$("$nvcc" --version | grep -oE 'release [0-9.]+'), $((SECONDS - start_time)) s"
}

# tests_done LOG: of a run of gpu_ops_test.
tests_done() { grep -cE '^(ok|FAULT) ' "$1" || true; }

run_ops_test() {
  local log=$1 code=0
  say "tests of single operations"
  within 90 "$log" "$kernels/gpu_ops_test" --seed 1 || code=$?
  if [ "$code" -eq 0 ]; then
    row "tests of single operations" "$(tests_done "$log") tests, $(tail -n 1 "$log")"
  else
    failed "tests of single operations" "exit code $code" "$log"
  fi
}

# sanitizer_row TOOL LIMIT CODE LOG TESTS: what a run under compute-sanitizer said; TESTS are what a whole run has.
sanitizer_row() {
  local tool=$1 limit=$2 code=$3 log=$4 all=$5 finished found text
  finished=$(tests_done "$log")
  if grep -q 'Device not supported\|Unable to find injection library' "$log"; then
    row "compute-sanitizer $tool" "left out: $(grep -m 1 'not supported\|injection' "$log" | sed 's/^=* *//')"
    return
  fi
  # What it prints beside faults: its name, its sum, and that a program was ended.
  found=$(grep -E '^=========' "$log" | grep -cvE '^=* *(COMPUTE-SANITIZER|[A-Z]* ?SUMMARY: 0 |.*terminate|$)' || true)
  if [ "$found" -gt 0 ] || grep -q '^FAULT' "$log" || { [ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ]; }; then
    grep -E '^=========|FAULT' "$log" > "$log.faults" || cp "$log" "$log.faults"
    failed "compute-sanitizer $tool" "exit code $code; its first lines" "$log.faults" head
    return
  fi
  text="$finished of $all tests, no fault"
  [ "$code" -eq 0 ] || text+="; left out: the rest, which did not fit $limit s"
  row "compute-sanitizer $tool" "$text"
}

run_sanitizers() {
  local all limit=75 tool code pids=() tools=(memcheck racecheck) i sanitizer
  all=$(tests_done "$1")
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [ ! -x "$sanitizer" ]; then
    row "compute-sanitizer" "left out: there is none here"
    return
  fi
  say "the same under compute-sanitizer, up to $limit s"
  for tool in "${tools[@]}"; do
    start "$limit" "$work/$tool.log" "$sanitizer" --tool "$tool" --error-exitcode 9 "$kernels/gpu_ops_test" --seed 1
    pids+=("$started")
  done
  for i in "${!tools[@]}"; do
    code=0
    wait "${pids[$i]}" || code=$?
    sanitizer_row "${tools[$i]}" "$limit" "$code" "$work/${tools[$i]}.log" "$all"
  done
}

run_kernels_bench() {
  local log=$work/kernels.log code=0 flags=()
  [ "$quick" = no ] || flags=(--quick)
  say "times of kernels"
  within 75 "$log" "$kernels/gpu_kernels_bench" "${flags[@]}" || code=$?
  if [ "$code" -ne 0 ]; then
    failed "times of kernels" "exit code $code" "$log"
    return
  fi
  report ""
  tee -a "$results" < "$log"
}

# --- The whole worker --------------------------------------------------------------------------------------

# find_programs DIR: sets `bin` and `library_path`, or says in a row why there are none.
find_programs() {
  local from=$1 missing
  if [[ $from = *.tar.gz ]] && [ -f "$from" ]; then
    mkdir -p "$work/programs"
    tar -C "$work/programs" -xzf "$from"
    from=$work/programs
  fi
  bin=$from/bin
  if [ ! -x "$bin/worker" ]; then
    row "model, training" "left out: no $from/bin/worker (--bin, --help)"
    return 1
  fi
  # The driver's libraries and this machine's stay where they are found now; cuBLAS comes from the toolkit.
  library_path=$from/lib:${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(toolkit_libraries)
  missing=$(LD_LIBRARY_PATH=$library_path "$bin/worker" --help 2>&1 > /dev/null) || {
    faults=$((faults + 1))
    row "model, training" "FAILED: the worker does not start here: $(head -n 1 <<< "$missing")"
    return 1
  }
}

# run_gpu_test NAME: a gtest program.
run_gpu_test() {
  local log=$work/$1.log code=0
  say "$1"
  within 60 "$log" env "LD_LIBRARY_PATH=$library_path" "$bin/$1" || code=$?
  if [ "$code" -eq 0 ]; then
    row "$1" "$(grep -oE '[0-9]+ tests? ran.*|[0-9]+ tests from .* ran.*' "$log" | tail -n 1)"
  else
    failed "$1" "exit code $code" "$log"
  fi
}

run_training() {
  local log=$work/training.log code=0 flags=(--seconds 40) left=$((TIME - SECONDS - 10))
  [ "$quick" = no ] || flags=(--seconds 15 --without-torch)
  if ! python3 -c 'import tomllib' 2> /dev/null; then
    row "training" "left out: it needs python3, 3.11 or newer"
    return
  fi
  say "training, up to $((left < 240 ? left : 240)) s"
  within "$left" "$log" python3 -B tests/bench/gpu_training.py "${flags[@]}" --limit "$((left < 240 ? left : 240))" \
    --library-path "$library_path" "$bin/worker" || code=$?
  [ "$code" -eq 0 ] || faults=$((faults + 1))
  report ""
  tee -a "$results" < "$log"
}

# --- All of it ---------------------------------------------------------------------------------------------

# shellcheck disable=SC2317  # called by the trap
clean_up() {
  local code=$? running
  running=$(jobs -pr)
  # shellcheck disable=SC2086  # several
  [ -z "$running" ] || kill $running 2> /dev/null || true
  wait
  rm -rf "$work"
  exit "$code"
}

# gpus: one line each, or nothing where there is none.
gpus() {
  timeout 30 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2> /dev/null | grep , || true
}

main() {
  local from=build/cuda to='' with_cuda=no out='' here
  quick=no
  while [ $# -gt 0 ]; do
    case "$1" in
      --quick) quick=yes ;;
      --with-cuda) with_cuda=yes ;;
      --bin | --pack | --out)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        case "$1" in
          --bin) from=$2 ;;
          --pack) to=$2 ;;
          --out) out=$2 ;;
        esac
        shift
        ;;
      -h | --help)
        sed -n '2,17s/^# \?//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
      *) usage_error "$1 is unknown" ;;
    esac
    shift
  done
  # Paths of the command line are the caller's.
  here=$(pwd)
  [[ -z $out || $out = /* ]] || out=$here/$out
  [[ -z $to || $to = /* ]] || to=$here/$to
  [[ $from = /* || $from = build/cuda ]] || from=$here/$from
  cd "$(dirname "${BASH_SOURCE[0]}")/../.."

  local found=''
  if [ -z "$to" ]; then
    found=$(gpus)
    if [ -z "$found" ]; then
      echo "tests/bench/gpu.sh: there is no GPU here: nvidia-smi is missing or finds none" >&2
      exit 77
    fi
  fi
  work=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  if [ -n "$to" ]; then
    pack "$from" "$to" "$with_cuda"
    return
  fi
  results=${out:-$work/results}
  : > "$results"
  kernels=build/gpu

  report "GPU: $(head -n 1 <<< "$found")"
  local ran=no
  if build_kernels; then
    ran=yes
    run_ops_test "$work/ops.log"
    if [ "$quick" = yes ]; then row "compute-sanitizer" "left out by --quick"; else run_sanitizers "$work/ops.log"; fi
    run_kernels_bench
  fi
  report ""
  if find_programs "$from"; then
    ran=yes
    run_gpu_test gpu_model_test
    run_gpu_test gpu_training_test
    run_training
  fi
  report ""
  report "gpu.sh: $faults parts failed, $((SECONDS / 60)) min $((SECONDS % 60)) s"
  [ "$ran" = yes ] || say "nothing could run"
  [ "$ran" = yes ] && [ "$faults" -eq 0 ]
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
fi
