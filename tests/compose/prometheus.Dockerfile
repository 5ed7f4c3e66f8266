# Debian's Prometheus in the place of prom/prometheus, where no registry can be reached.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get -q update && apt-get -q install -y --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["prometheus"]
