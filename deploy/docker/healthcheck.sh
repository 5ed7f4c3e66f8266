#!/bin/bash
# Healthy: the server answers for its metrics. Without curl, which the image has no other use for.
set -euo pipefail
exec 3<> /dev/tcp/127.0.0.1/9100
printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
grep -q '^mf_' <&3
