#!/usr/bin/env bash
# Builds and tests on another Debian: installs with deploy/install_packages.sh, builds with warnings as errors, runs the
# tests, and starts the programs where only the packages for running are. In a root of debootstrap, and in namespaces
# of its own: whatever happens, nothing stays mounted or running.
#   tests/distro.sh bookworm|trixie [--fresh] [--compiler g++-13] [--folder FOLDER] [CTEST ARGUMENT]...
#     --fresh     makes the root anew; else that of the last run is taken, with its packages
#     --compiler  another than the distribution's, by the name of its package and program
#     --folder    where roots, packages and compiler caches stay for the next run, 5 GB a distribution
#                 (default: /var/tmp/memoryformer-distro)
# Exit codes: 0 all of it passed, 1 something did not, 2 bad usage, 77 this user is not root, or there is no debootstrap.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/support/debootstrap.sh
source tests/support/debootstrap.sh

bad_usage() {
  echo "tests/distro.sh: $*" >&2
  sed -n '5,9s/^# \{0,1\}//p' tests/distro.sh >&2
  exit 2
}
skip() {
  echo "tests/distro.sh: SKIPPED: $*" >&2
  exit 77
}

suite=${1:-}
case "$suite" in
  bookworm | trixie) shift ;;
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' tests/distro.sh; exit 0 ;;
  *) bad_usage "'$suite' is neither bookworm nor trixie" ;;
esac
fresh=no compiler='' folder=/var/tmp/memoryformer-distro
while [ $# -gt 0 ]; do
  case "$1" in
    --fresh) fresh=yes; shift; continue ;;
    --compiler | --folder) [ $# -ge 2 ] || bad_usage "$1 needs a value" ;;&
    --compiler) compiler=$2 ;;
    --folder) folder=$2 ;;
    *) break ;;
  esac
  shift 2
done
[ "$(id -u)" -eq 0 ] || skip "only root can make and enter a root of $suite"
command -v debootstrap > /dev/null || skip "there is no debootstrap (deploy/install_packages.sh compose installs it)"

folder=$(realpath -m "$folder")/$suite
mkdir -p "$folder"/{packages/partial,ccache}
exec 9> "$folder/lock"
flock -n 9 || { echo "tests/distro.sh: another run works in $folder" >&2; exit 1; }

# A root is there or not, never half of one.
if [ ! -d "$folder/base" ]; then
  echo "making a root of $suite (log: $folder/debootstrap.log)"
  rm -rf "$folder/base.part"
  make_debian_root "$suite" "$folder/base.part" "--cache-dir=$folder/packages" > "$folder/debootstrap.log" 2>&1 ||
    { echo "tests/distro.sh: debootstrap: $(tail -n 1 "$folder/debootstrap.log")" >&2; exit 1; }
  mv "$folder/base.part" "$folder/base"
fi
# copy_base NAME
copy_base() {
  rm -rf "${folder:?}/$1" "${folder:?}/$1.part"
  cp -a "$folder/base" "$folder/$1.part"
  mv "$folder/$1.part" "$folder/$1"
}
if [ "$fresh" = yes ] || [ ! -d "$folder/root" ]; then copy_base root; fi

# inside ROOT COMMAND...: runs a command in a root, as the first process of its own namespaces. It ends with this script,
# however that ends, and with it everything in there and all that is mounted: unshare alone does not heed SIGTERM.
inside() {
  local root=$1
  shift
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  mkdir -p "$root/root/.cache/ccache"
  # shellcheck disable=SC2016  # expanded in there
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child bash -euc '
    root=$1 folder=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount --bind "$folder/packages" "$root/var/cache/apt/archives"
    mount --bind "$folder/ccache" "$root/root/.cache/ccache"
    exec chroot "$root" "$@"
  ' bash "$root" "$folder" "${environment[@]}" "$@"
}
environment=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8)
for name in http_proxy https_proxy no_proxy CMAKE_BUILD_PARALLEL_LEVEL; do
  [ -z "${!name:-}" ] || environment+=("$name=${!name}")
done

# The tree as it stands, with what is not committed.
rm -rf "$folder/root/src" "$folder/root/tmp/"*
mkdir "$folder/root/src"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
  tar --null -T - -c | tar -x -C "$folder/root/src"

if [ -n "$compiler" ]; then
  inside "$folder/root" apt-get -q -y install --no-install-recommends "$compiler"
  environment+=("CXX=$compiler")
fi
# Not in a pipe, whose parts would outlive this script.
inside "$folder/root" /src/tests/run.sh --werror "$@" > >(tee "$folder/tests.log")
wait $!

# Nothing but what the programs load.
copy_base run
mkdir "$folder/run/deploy"
cp "$folder"/root/src/deploy/{packages,install_packages}.sh "$folder/run/deploy/"
cp "$folder"/root/src/build/release/bin/{worker,pserver} "$folder/run/usr/local/bin/"
inside "$folder/run" /deploy/install_packages.sh run > "$folder/run.log"
for program in worker pserver; do
  inside "$folder/run" "/usr/local/bin/$program" --help > /dev/null
done
rm -rf "$folder/run"

system=$(sed -n 's/^PRETTY_NAME="\(.*\)"$/\1/p' "$folder/root/etc/os-release")
version=$(inside "$folder/root" "${compiler:-c++}" --version | head -n 1)
tests=$(sed -n 's/.* tests failed out of \([0-9]*\)$/\1/p' "$folder/tests.log")
skipped=$(grep -c '\*\*\*Skipped' "$folder/tests.log" || true)
echo "tests/distro.sh: $system, $version: $tests tests passed, $skipped of them skipped, and both programs start with" \
  "the packages for running, in $((SECONDS / 60)) min $((SECONDS % 60)) s"
