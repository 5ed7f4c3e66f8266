#!/usr/bin/env bash
# The kernel tests on another instruction set: cross-compiled for aarch64, run under qemu. They
# compare with oracles in plain C++, so passing means NEON gives the bits that x86 gives.
#
#   apt-get install g++-aarch64-linux-gnu qemu-user libgtest-dev libhwy-dev
#   dpkg --add-architecture arm64 && apt-get update && apt-get install libhwy1:arm64    (Debian 13: libhwy1t64:arm64)
#   tests/neon.sh [FOLDER OF libhwy.so.1 FOR aarch64]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
libraries=${1:-/usr/lib/aarch64-linux-gnu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Only these folders of the host's headers: the rest belongs to the host's architecture.
mkdir "$work/include"
ln -s /usr/include/hwy /usr/include/gtest "$work/include/"
gtest=/usr/src/googletest/googletest
compile=(aarch64-linux-gnu-g++ -std=c++20 -O2 -ffp-contract=off -DHWY_SHARED_DEFINE
  -I"$root" -I"$work/include" -I"$gtest")

sources=("$root"/common/kernels/*.cpp "$root"/pserver/table/kernels/*.cpp "$root"/common/base/random.cpp
  "$root"/tests/unit/kernels/{kernels,elementwise}_test.cpp "$gtest"/src/{gtest-all.cc,gtest_main.cc})
for source in "${sources[@]}"; do
  "${compile[@]}" -c "$source" -o "$work/$(basename "$source").o"
done
"${compile[@]}" "$work"/*.o "$libraries/libhwy.so.1" -lpthread -o "$work/neon_test"
qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$libraries" "$work/neon_test"
