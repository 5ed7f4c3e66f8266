# shellcheck shell=bash
# A minimal Debian in a folder; sourced, never run. For base images where none can be pulled, and for distro.sh.

# make_debian_root SUITE FOLDER [OPTION OF debootstrap]...
# It gets its packages where this machine does: from the same mirrors, through the same proxies.
make_debian_root() {
  local suite=$1 folder=$2 sources mirror security
  shift 2
  sources=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | grep -oE '^[^#]*https?://[^ ]*' |
    grep -oE 'https?://.*' || true)
  mirror=$(grep -m 1 -E '/debian/?$' <<< "$sources" || echo http://deb.debian.org/debian)
  security=$(grep -m 1 -E '/debian-security/?$' <<< "$sources" || echo http://deb.debian.org/debian-security)
  debootstrap --variant=minbase "$@" "$suite" "$folder" "$mirror"
  cat > "$folder/etc/apt/sources.list" <<END
deb $mirror $suite main
deb $mirror $suite-updates main
deb $security $suite-security main
END
  apt-config dump | grep -E '^Acquire::https?::' > "$folder/etc/apt/apt.conf.d/90machine" || true
  mkdir -p "$folder/etc/ssl"
  cp -rL /etc/ssl/certs "$folder/etc/ssl/" 2> /dev/null || true
}
