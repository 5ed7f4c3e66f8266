#!/bin/sh
# What a container of docker-compose.yml runs:
#   start pserver I S          server I of S on port 7000, state in /state
#   start worker S [FLAG]...   joins servers pserver-0 ... pserver-<S-1>, writes to /out/<host name>
# Anything else is run as it stands: worker eval ..., pserver inspect ...
set -eu

is_number() {
  case "$1" in
    '' | *[!0-9]*) return 1 ;;
  esac
}

if [ $# -eq 3 ] && [ "$1" = pserver ] && is_number "$2" && is_number "$3"; then
  exec pserver serve --listen tcp://0.0.0.0:7000 --shard "$2/$3" --data /state \
    --keys /run/secrets --metrics 0.0.0.0:9100
fi
if [ $# -ge 2 ] && [ "$1" = worker ] && is_number "$2"; then
  servers=''
  for i in $(seq 0 $(($2 - 1))); do servers="$servers${servers:+,}tcp://pserver-$i:7000"; done
  shift 2
  out=/out/$(hostname)
  exec worker train --config /config/run.toml --data /data --out "$out" --export "$out/model.safetensors" \
    --pservers "$servers" --keys /run/secrets --metrics 0.0.0.0:9200 "$@"
fi
exec "$@"
