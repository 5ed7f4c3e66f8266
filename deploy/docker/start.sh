#!/bin/sh
# What a container of docker-compose.yml runs:
#   start.sh pserver I S       server I of S on port 7000, state in /state
#   start.sh worker S [FLAG]... joins servers pserver-0 ... pserver-<S-1>, writes to /out/<host name>
# Anything else is run as it stands: worker eval ..., pserver inspect ...
set -eu
case "${1:-}:$#" in
  pserver:3)
    exec pserver serve --listen tcp://0.0.0.0:7000 --shard "$2/$3" --data /state \
      --keys /run/secrets --metrics 0.0.0.0:9100
    ;;
  worker:*)
    case "${2:-}" in
      '' | *[!0-9]*) ;;
      *)
        servers=''
        for i in $(seq 0 $(($2 - 1))); do servers="$servers${servers:+,}tcp://pserver-$i:7000"; done
        shift 2
        exec worker train --config /config/run.toml --data /data --out "/out/$(hostname)" \
          --pservers "$servers" --keys /run/secrets --metrics 0.0.0.0:9200 "$@"
        ;;
    esac
    ;;
esac
exec "$@"
