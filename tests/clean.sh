#!/usr/bin/env bash
# What "clean" means, beyond formatting: the boxes, the fences round libraries, and sizes.
# Prints one line per fault and exits 1 if there is any. Reads files only; runs in a second.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

faults=0
fault() {
  echo "clean: $*"
  faults=$((faults + 1))
}

# cpp_files FOLDER...: C++ and CUDA sources under existing folders.
cpp_files() {
  local folder
  for folder in "$@"; do
    if [ -d "$folder" ]; then
      find "$folder" -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \)
    fi
  done | LC_ALL=C sort
}

# fence RULE PATTERN ALLOWED FOLDER...: no file of the folders but ALLOWED (a regular expression on
# whole paths) includes a header that matches PATTERN.
fence() {
  local rule=$1 pattern=$2 allowed=$3 hit
  shift 3
  while IFS= read -r hit; do
    [ -z "$hit" ] || fault "$hit: $rule"
  done < <(cpp_files "$@" | grep -vxE "$allowed" |
    xargs -r grep -nHE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($pattern)" | cut -d: -f1,2)
}
none='-'

# The boxes: pserver -> common <- worker, tests above all.
fence "common/ includes neither pserver/ nor worker/" '(pserver|worker)/' "$none" common
fence "pserver/ does not include worker/" 'worker/' "$none" pserver
fence "worker/ includes pserver/ for embedded servers, and for reading snapshots and rows of their form only" 'pserver/' \
  'worker/(embedded/embedded|initial/row_source|export/(snapshot_model|initial_rows))\.cpp' worker
fence "no program includes tests/" 'tests/' "$none" common pserver worker

# A run is described by its tables: common/ and pserver/ know no model, neither its configuration nor its tensors.
fence "common/ and pserver/ know a run by its description, not by a configuration" '[^">]*config[^">]*' "$none" \
  common pserver
while IFS= read -r hit; do
  fault "$hit: common/ and pserver/ name no tensor of a model"
done < <(cpp_files common pserver | xargs -r grep -nHE 'embed\.weight|head\.weight|final_norm|blocks\.[0-9<]' | cut -d: -f1,2)

# Inside them, from the bottom to the top; no folder includes one above it.
order() {
  local top=$1 above=
  shift
  local folders=("$@") i
  for ((i = ${#folders[@]} - 1; i >= 0; --i)); do
    [ -z "$above" ] || fence "$top/${folders[i]}/ does not include what is above it" "$top/($above)/" "$none" "$top/${folders[i]}"
    above="${folders[i]}${above:+|$above}"
  done
}
order common base run kernels metrics net client commands
order pserver table coordinator snapshot shard offline serving commands
order worker tokenizer config data prepare exchange compute/cpu model compute/cuda embedded initial export tasks train experiment commands
fence "pserver/coordinator/ is a state machine: no thread, clock, file or socket" \
  '(thread|atomic|chrono|fstream|filesystem|cstdio|unistd\.h|fcntl\.h|sys/)|[^">]*(transport|mutex|files)\.h' "$none" pserver/coordinator
fence "pserver/table/ knows no message" 'common/net/(messages|message_fields|transport)' "$none" pserver/table
fence "the model knows no client" 'common/client/' "$none" worker/model worker/compute worker/data worker/config

# Libraries, each behind one file.
boxes=(common pserver worker)
fence "ZeroMQ is used in common/net/zmq_*.cpp only" 'zmq(_addon)?\.h' \
  'common/net/zmq_[a-z]+\.cpp' "${boxes[@]}"
fence "Cap'n Proto is used in common/net/messages.cpp and what it includes only" '(capnp|kj)/|[^">]*\.capnp\.h' \
  'common/net/(messages\.cpp|message_fields\.h|kj_string\.h)' "${boxes[@]}"
fence "RocksDB is used in pserver/snapshot/ only" 'rocksdb/' \
  'pserver/snapshot/.*\.cpp' "${boxes[@]}"
fence "prometheus-cpp is used in common/metrics/metrics.cpp only" 'prometheus/' 'common/metrics/metrics\.cpp' "${boxes[@]}"
fence "cpp-httplib is used in common/metrics/http_endpoint.cpp only" 'httplib\.h' 'common/metrics/http_endpoint\.cpp' \
  "${boxes[@]}"
fence "pybind11 and Python are used in worker/python/native/ only" '(pybind11/|Python\.h)[^">]*' 'worker/python/native/.*' "${boxes[@]}"
fence "CLI11 is used in the commands only" 'CLI/' '(common|pserver|worker)/commands/.*' "${boxes[@]}"
fence "the CUDA toolkit is used in worker/compute/cuda/ only" '(cuda|cublas|nv)[a-z_0-9]*\.h|mma\.h|(cub|cuda|thrust)/' \
  'worker/compute/cuda/.*' "${boxes[@]}"
fence "the CUDA backend is known to worker/compute/make_compute.cpp only" 'worker/compute/cuda/' \
  'worker/compute/(cuda/.*|make_compute\.cpp)' "${boxes[@]}"
fence "TOML is read in worker/config/config.cpp and worker/experiment/experiment_file.cpp only" 'toml\+\+' \
  'worker/(config/config|experiment/experiment_file)\.cpp' "${boxes[@]}"
fence "in common/ JSON is read and written in common/run/run_json.cpp only" 'nlohmann/' 'common/run/run_json\.cpp' common

# Clang looks through common/base/mutex.h only, so there is no other lock.
fence "locks are those of common/base/mutex.h" '(mutex|shared_mutex|condition_variable)>' 'common/base/mutex\.h' \
  "${boxes[@]}" tests

# Numbers in JSON, TOML and pictures have points whatever the user's language: printf and iostreams would use commas.
while IFS= read -r hit; do
  fault "$hit: no program sets a language"
done < <(cpp_files "${boxes[@]}" | xargs -r grep -nHE 'setlocale|uselocale|std::locale|imbue' | cut -d: -f1,2)

# Sizes: 600 lines is too long for one reading. Headers are guarded.
while IFS= read -r file; do
  lines=$(wc -l < "$file")
  [ "$lines" -le 600 ] || fault "$file: $lines lines, at most 600"
done < <(cpp_files common pserver worker tests
  find deploy tests -type f \( -name '*.sh' -o -name '*.py' \) | LC_ALL=C sort)
# Inputs of fuzzing are data: nobody reads them.
while read -r count folder; do
  [[ $folder = tests/fuzz/corpus/* || $folder = tests/fuzz/found/* ]] || [ "$count" -le 30 ] || fault "$folder: $count files, at most 30"
done < <(git ls-files --cached --others --exclude-standard 2> /dev/null | xargs -r -n 1 dirname | sort | uniq -c)
# What is in the top folder was put there on purpose.
while IFS= read -r name; do
  fault "$name: not in the top folder"
done < <(git ls-files --cached --others --exclude-standard 2> /dev/null | cut -d/ -f1 | sort -u |
  grep -vE '^(\.[a-z-]+|[A-Z]+\.md|LICENSE|CMakeLists\.txt|CMakePresets\.json|docker-compose\.yml)$' |
  grep -vxE 'cmake|common|deploy|docs|pserver|tests|worker')
while IFS= read -r file; do
  # A *-inl.h is included once per instruction set and guards itself in Highway's way.
  [[ $file = *-inl.h ]] || grep -q '^#pragma once$' "$file" || fault "$file: no #pragma once"
done < <(cpp_files common pserver worker tests | grep '\.h$')

# Scripts, where the checker is installed.
if command -v shellcheck > /dev/null; then
  while IFS= read -r file; do
    shellcheck -x "$file" || fault "$file: shellcheck"
  done < <(find deploy tests -name '*.sh' | LC_ALL=C sort; if [ -f .ci/run ]; then echo .ci/run; fi)
fi

if [ "$faults" -gt 0 ]; then
  echo "clean: $faults faults"
  exit 1
fi
echo "clean: no fault"
