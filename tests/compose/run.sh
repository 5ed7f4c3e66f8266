#!/usr/bin/env bash
# Runs docker-compose.yml on a real Docker engine and looks at it through a real Prometheus: training,
# scaling, killed containers, every dashboard query, every alert rule. Starts dockerd if none answers and
# stops that one; makes the base image with debootstrap where none can be pulled. Everything is torn down.
# Exit codes: 0 all of it ran and holds, 1 something does not, 77 no engine can run here, or none of its
# containers gets packages.
#   tests/compose/run.sh [--built] [--keep-images] [--picture FOLDER]
#     --built    the programs of build/release go into the image, where this is the distribution of the base image:
#                the image does not compile what the release build has just compiled
#     --picture  trains nano on the quickstart's text, and draws the dashboards after a while
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/support/debootstrap.sh
source tests/support/debootstrap.sh

keep_images=no built=no picture=''
while [ $# -gt 0 ]; do
  case "$1" in
    --built) built=yes ;;
    --keep-images) keep_images=yes ;;
    --picture)
      [ $# -ge 2 ] || { echo "tests/compose/run.sh: --picture needs a folder" >&2; exit 2; }
      picture=$2
      shift
      ;;
    -h | --help) sed -n '2,10s/^# *//p' "$0"; exit 0 ;;
    *) echo "tests/compose/run.sh: $1 is unknown (--help)" >&2; exit 2 ;;
  esac
  shift
done

skip() {
  echo "tests/compose/run.sh: SKIPPED: $*" >&2
  exit 77
}

[ "$(id -u)" -eq 0 ] || docker info > /dev/null 2>&1 || skip "no Docker engine answers, and only root can start one"
# An engine that is there stays as it is: Debian's would replace Docker's own. The command alone is none.
docker info > /dev/null 2>&1 || command -v dockerd > /dev/null || ./deploy/install_packages.sh engine ||
  skip "no Docker engine can be installed"
./deploy/install_packages.sh compose || skip "promtool and debootstrap cannot be installed"
[ -z "$picture" ] || ./deploy/install_packages.sh picture quickstart
promtool check config deploy/prometheus/prometheus.yml
promtool test rules tests/compose/alerts_test.yml

work=$(mktemp -d)
project=mf-test-$$
base=debian:bookworm-slim
daemon=''
mkdir -p "$work/data" "$work/out" "$work/keys"

# Compose v2 where it is there, as README.md writes its commands; else docker-compose 1.29, which Debian 12 has.
compose_command=(docker compose)
docker compose version > /dev/null 2>&1 || compose_command=(docker-compose)
compose() {
  "${compose_command[@]}" -p "$project" --env-file "$work/env" "$@"
}

# shellcheck disable=SC2317  # called by the trap
tear_down() {
  local code=$?
  if [ "$code" -ne 0 ] && [ "$code" -ne 77 ]; then
    compose logs --no-color --tail=40 2> /dev/null || true
    [ ! -f "$work/dockerd.log" ] || tail -n 5 "$work/dockerd.log"
  fi
  compose --profile servers-4 --profile tools down --volumes --timeout 10 > "$work/down.log" 2>&1 || true
  if [ "$keep_images" = no ] && docker info > /dev/null 2>&1; then
    docker image rm -f "$project-prometheus" "$project-program" "$project-build" "$project-base" > /dev/null 2>&1 || true
  fi
  if [ -n "$daemon" ]; then
    kill "$daemon" 2> /dev/null || true
    wait "$daemon" 2> /dev/null || true
    # What it leaves: mounted namespaces and layers, a bridge, rules and forwarding.
    awk -v under="$work/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
      while IFS= read -r place; do umount "$place" || true; done
    [ "$had_bridge" = yes ] || ip link delete docker0 2> /dev/null || true
    iptables-restore < "$work/iptables" || true
    echo "$forwarding" > /proc/sys/net/ipv4/ip_forward || true
  fi
  rm -rf "$work"
  exit "$code"
}
trap tear_down EXIT
command -v "${compose_command[0]}" > /dev/null || skip "there is neither docker compose nor docker-compose"

if ! docker info > /dev/null 2>&1; then
  echo "starting dockerd"
  iptables-save > "$work/iptables" || skip "no packet filter here, which an engine needs"
  forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
  had_bridge=no
  ! ip link show docker0 > /dev/null 2>&1 || had_bridge=yes
  export DOCKER_HOST=unix://$work/docker.sock
  dockerd --host "$DOCKER_HOST" --data-root "$work/docker" --exec-root "$work/exec" \
    --pidfile "$work/docker.pid" > "$work/dockerd.log" 2>&1 &
  daemon=$!
  for _ in $(seq 60); do
    ! docker info > /dev/null 2>&1 || break
    if ! kill -0 "$daemon" 2> /dev/null; then
      why=$(grep -v level=info "$work/dockerd.log" | tail -n 1)
      daemon=''
      skip "dockerd does not start: $why"
    fi
    sleep 0.5
  done
  docker info > /dev/null 2>&1 || skip "dockerd answers nothing within 30 s"
fi

if ! docker image inspect "$base" > /dev/null 2>&1 && ! timeout 60 docker pull -q "$base" > /dev/null 2>&1; then
  echo "$base cannot be pulled: making one with debootstrap"
  make_debian_root bookworm "$work/root" > "$work/debootstrap.log" 2>&1 ||
    skip "no base image: $(tail -n 1 "$work/debootstrap.log")"
  base=$project-base
  tar -C "$work/root" -c . | docker import - "$base" > /dev/null
  rm -rf "$work/root"
fi

docker run --rm --network=host "$base" apt-get -q update > "$work/update.log" 2>&1 ||
  skip "containers reach no packages: $(tail -n 1 "$work/update.log")"
echo "building the images"
build() {
  docker build --network=host --build-arg "BASE=$base" -q "$@" > /dev/null || { echo "the image does not build" >&2; exit 1; }
}
distribution() {
  "$@" sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
}
if [ "$built" = yes ] && [ -x build/release/bin/pserver ] &&
  [ "$(distribution)" = "$(distribution docker run --rm "$base")" ]; then
  # deploy/Dockerfile without the part that compiles.
  mkdir "$work/context"
  cp -r deploy build/release/bin/worker build/release/bin/pserver "$work/context"
  sed '/^FROM .* AS build$/,/^RUN cmake /d; s|--from=build /src/[^ ]*/worker /src/[^ ]*/pserver|worker pserver|' \
    deploy/Dockerfile > "$work/context/Dockerfile"
  build -t "$project-program" "$work/context"
else
  build -t "$project-build" --target build -f deploy/Dockerfile .  # named, so that it can be removed
  build -t "$project-program" -f deploy/Dockerfile .
fi
build -t "$project-prometheus" -f tests/compose/prometheus.Dockerfile tests/compose

config=./tests/compose/run.toml cpus=0.5 watch=()
if [ -n "$picture" ]; then
  (cd "$work" && bible -f gen1:1-rev22:21 < /dev/null) | sed 's/^[^ ]* //' > "$work/data/text.txt"
  config=$work/nano.toml cpus=2 watch=(--picture "$picture")
  sed 's/^steps = .*/steps = 20000/; $a [snapshot]\nevery_steps = 50' deploy/configs/nano.toml > "$config"
else
  for _ in $(seq 400); do
    echo "the river runs under old stones and never stops for rain or wind, and the stones never move."
  done > "$work/data/text.txt"
fi
# As people run it: not as root.
user=$(id -u) group=$(id -g)
if [ "$user" -eq 0 ]; then
  user=1000 group=1000
  chown -R "$user:$group" "$work/data" "$work/out" "$work/keys"
  chmod 755 "$work"
fi
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$work/env" <<END
PSERVERS=2
COMPOSE_PROFILES=servers-2
MF_IMAGE=$project-program
MF_UID=$user
MF_GID=$group
MF_CONFIG=$config
MF_DATA=$work/data
MF_OUT=$work/out
MF_KEYS=$work/keys
PSERVER_MEMORY=2g
WORKER_MEMORY=2g
PSERVER_CPUS=$cpus
WORKER_CPUS=$cpus
PROMETHEUS_IMAGE=$project-prometheus
PROMETHEUS_PORT=$port
END
compose run --rm --no-deps keygen
compose up -d pserver-0 pserver-1 worker prometheus
/usr/bin/python3 -B tests/compose/watch.py --compose "${compose_command[*]}" --project "$project" \
  --env-file "$work/env" --prometheus "http://127.0.0.1:$port" \
  "${watch[@]}"
echo "tests/compose/run.sh: everything holds with $("${compose_command[@]}" version | head -n 1), in $((SECONDS / 60)) min $((SECONDS % 60)) s"
