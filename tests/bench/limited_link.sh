#!/usr/bin/env bash
# Runs a command that starts a server of its own, with the server behind a link of limited rate: two
# network namespaces, a token bucket at each end. Needs no root where user namespaces are allowed.
#   tests/bench/limited_link.sh RATE COMMAND...     RATE as tc has it: 1gbit, 10gbit, 25gbit
# COMMAND gets "--listen 10.77.0.2 --wrapper FILE" at its end: FILE runs its arguments at the other end.
set -euo pipefail

if [ "${MF_LINK_INSIDE:-}" != 1 ]; then
  MF_LINK_INSIDE=1 exec unshare --map-root-user --net "$0" "$@"
fi
rate=$1
shift
wrapper=$(mktemp)
unshare --net sleep infinity &
other=$!
trap 'kill "$other"; rm -f "$wrapper"' EXIT
for _ in $(seq 100); do
  [ "$(readlink /proc/self/ns/net)" = "$(readlink "/proc/$other/ns/net")" ] || break
  sleep 0.05
done
there=(nsenter --target "$other" --net)

ip link add near type veth peer name far
ip link set far netns "$other"
ip address add 10.77.0.1/24 dev near
"${there[@]}" ip address add 10.77.0.2/24 dev far
ip link set lo up
ip link set near up
"${there[@]}" ip link set lo up
"${there[@]}" ip link set far up
tc qdisc add dev near root tbf rate "$rate" burst 1mb latency 20ms
"${there[@]}" tc qdisc add dev far root tbf rate "$rate" burst 1mb latency 20ms

printf '#!/bin/sh\nexec nsenter --target %s --net "$@"\n' "$other" > "$wrapper"
chmod +x "$wrapper"
"$@" --listen 10.77.0.2 --wrapper "$wrapper"
