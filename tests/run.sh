#!/usr/bin/env bash
# Installs what is missing, builds the release preset and runs every test. Arguments go to ctest:
#   tests/run.sh -L unit          tests/run.sh -R kernels --verbose
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'EOF'
usage: tests/run.sh [--werror] [--nightly | --trials N] [CTEST ARGUMENT]...
  --werror    the compiler's warnings are errors
  --trials N  tests that draw random schedules do N times as many; --nightly: 10 times
  Labels for -L: unit, integration, fuzz, reference, python, simulation, bench, clean.
EOF
}

trials=1 options=(-DMF_TESTS=ON) arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --werror) options+=(-DMF_WERROR=ON) ;;
    --nightly) trials=10 ;;
    --trials)
      [[ "${2:-}" =~ ^[1-9][0-9]{0,3}$ ]] || { echo "tests/run.sh: --trials takes a number from 1 to 9999" >&2; exit 2; }
      trials=$2
      shift
      ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

./deploy/install_packages.sh build test
cmake --preset release "${options[@]}" -DMF_TRIALS="$trials"
cmake --build --preset release
echo "tests/run.sh: built after $((SECONDS / 60)) min $((SECONDS % 60)) s"

# One test more than there are cores: those that start processes mostly wait, and are at most two at once.
if ctest --preset release -j "$(($(nproc) + 1))" --timeout "$((900 * trials))" "${arguments[@]}"; then
  echo "tests/run.sh: all tests passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
else
  code=$?
  echo "tests/run.sh: TESTS FAILED (again, alone: ctest --preset release --rerun-failed)" >&2
  exit "$code"
fi
