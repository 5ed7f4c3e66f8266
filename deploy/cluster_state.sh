#!/usr/bin/env bash
# What the servers of docker-compose.yml have saved, out of their volumes into a folder and back. Stops the cluster;
# docker compose up -d goes on afterwards.
#   deploy/cluster_state.sh save FOLDER      the runs of every server; FOLDER must not hold any yet
#   deploy/cluster_state.sh restore FOLDER   and nothing else: what the volumes hold is deleted
set -euo pipefail

fail() {
  echo "cluster_state.sh: $*" >&2
  exit 1
}

case "${1:-}:$#" in
  save:2 | restore:2) ;;
  *) sed -n '2,6s/^# *//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
[ "$1" = restore ] || mkdir -p "$2"
[ -d "$2" ] || fail "$2: no such folder"
folder=$(cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compose=(docker compose)
docker compose version > /dev/null 2>&1 || compose=(docker-compose)
servers=$(sed -n 's/^PSERVERS=\([0-9]*\)$/\1/p' .env)
[ -n "$servers" ] || fail "no PSERVERS=N in .env"
names=() parts=()
for i in $(seq 0 $((servers - 1))); do
  names+=("pserver-$i")
  parts+=("shard-$i-of-$servers")
done

shopt -s nullglob
runs=("$folder"/run-*)
if [ "$1" = save ]; then
  [ "${#runs[@]}" -eq 0 ] || fail "${runs[0]} is there already"
else
  for part in "${parts[@]}"; do
    found=("$folder"/run-*/"$part")
    [ "${#found[@]}" -gt 0 ] || fail "there is no $folder/run-*/$part; PSERVERS in .env is $servers (pserver reshard makes another number)"
  done
fi

"${compose[@]}" stop
"${compose[@]}" up --no-start "${names[@]}"  # so that they and their volumes are there
for i in "${!names[@]}"; do
  container=$("${compose[@]}" ps -aq "${names[$i]}")
  if [ "$1" = save ]; then
    docker cp "$container:/state/." "$folder/"
  else
    # As the servers' own user, which docker cp does not know.
    user=$(docker inspect -f '{{.Config.User}}' "$container")
    image=$(docker inspect -f '{{.Config.Image}}' "$container")
    docker run --rm --user "$user" --volumes-from "$container" -v "$folder:/from:ro" "$image" \
      sh -c "rm -rf /state/* && cd /from && for run in run-*; do
        [ ! -d \$run/${parts[$i]} ] ||
          { mkdir /state/\$run && cp -r \$run/description.json \$run/${parts[$i]} /state/\$run/; } || exit 1
      done"
  fi
done
[ "$1" = restore ] || rm -f "$folder"/shard-*.lock
echo "$1: ${parts[*]}; docker compose up -d goes on"
