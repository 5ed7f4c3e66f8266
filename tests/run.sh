#!/usr/bin/env bash
# Installs what is missing, builds the release preset and runs every test. Arguments go to ctest:
#   tests/run.sh -L unit          tests/run.sh -R kernels --verbose
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  echo "usage: tests/run.sh [--werror] [CTEST ARGUMENT]...   (labels: unit, integration, reference, fuzz, bench, clean)"
  echo "  --werror: the compiler's warnings are errors"
}

options=(-DMF_TESTS=ON)
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  --werror) options+=(-DMF_WERROR=ON); shift ;;
esac

./deploy/install_packages.sh build test
cmake --preset release "${options[@]}"
cmake --build --preset release

# As many tests at once as there are cores; tests that measure time or need all cores are RUN_SERIAL.
if ctest --preset release -j "$(nproc)" "$@"; then
  echo "tests/run.sh: all tests passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
else
  code=$?
  echo "tests/run.sh: TESTS FAILED (again, alone: ctest --preset release --rerun-failed)" >&2
  exit "$code"
fi
