#!/usr/bin/env bash
# Runs clang-tidy with .clang-tidy over the sources of a configured build (default build/release), or
# over the files named. Slow: by hand, or with .ci/run --tidy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build/release
if ! command -v clang-tidy > /dev/null; then
  echo "tidy: clang-tidy is not installed (apt-get install clang-tidy)" >&2
  exit 1
fi
if [ ! -f "$build/compile_commands.json" ]; then
  echo "tidy: no $build/compile_commands.json; run: cmake --preset release" >&2
  exit 1
fi
if [ $# -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(find common pserver worker -name '*.cpp' | LC_ALL=C sort)
fi
# The build is GCC's: it knows a warning option that clang does not.
printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -n 1 \
  clang-tidy --quiet -p "$build" --extra-arg=-Wno-unknown-warning-option
echo "tidy: ${#files[@]} files, no fault"
