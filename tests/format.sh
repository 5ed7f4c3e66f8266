#!/usr/bin/env bash
# Checks the formatting of all C++ files with clang-format 14 (others differ); --fix rewrites them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

formatter=
for candidate in clang-format-14 clang-format; do
  if command -v "$candidate" > /dev/null && "$candidate" --version | grep -q 'version 14\.'; then
    formatter=$candidate
    break
  fi
done
if [ -z "$formatter" ]; then
  echo "format: skipped, clang-format 14 is not installed"
  exit 0
fi

files=()
while IFS= read -r file; do
  files+=("$file")
done < <(find common pserver worker tests -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) |
  LC_ALL=C sort)

if [ "${1:-}" = --fix ]; then
  "$formatter" -i "${files[@]}"
  echo "format: ${#files[@]} files rewritten"
  exit 0
fi
# Many files a process: it takes longer to start than to look at one. A file with a fault is named in each line.
found=$(printf '%s\0' "${files[@]}" | xargs -0 -n 32 -P "$(nproc)" "$formatter" --dry-run -Werror 2>&1 || true)
faults=0
for file in "${files[@]}"; do
  if grep -q -F "$file:" <<< "$found"; then
    echo "format: $file is not as .clang-format says"
    faults=$((faults + 1))
  fi
done
if [ "$faults" -gt 0 ]; then
  echo "format: $faults of ${#files[@]} files; tests/format.sh --fix rewrites them"
  exit 1
fi
echo "format: ${#files[@]} files are as .clang-format says"
