# shellcheck shell=bash disable=SC2034
# The one list of Debian 12 packages this project needs; sourced, never run.
# Used by install_packages.sh, quickstart.sh, tests/run.sh and the Dockerfile.

# Compiling pserver and worker. Sorted by what they are for: tools, then libraries.
MF_BUILD_PACKAGES=(
  g++ cmake ninja-build ccache mold pkg-config
  libzmq3-dev
  capnproto libcapnp-dev
  prometheus-cpp-dev libcpp-httplib-dev
  libhwy-dev libopenblas-pthread-dev
  libtomlplusplus-dev libcli11-dev libspdlog-dev nlohmann-json3-dev
  libsodium-dev
  librocksdb-dev
)

# The quickstart's text (a public-domain English book) and its order-2 model.
MF_QUICKSTART_PACKAGES=(bible-kjv python3)

# Tests, benchmarks, formatting, the PyTorch reference.
MF_TEST_PACKAGES=(
  libgtest-dev libboost-context-dev
  python3 python3-numpy python3-torch
  mount util-linux  # a small disk for the test of a full one
  clang-format shellcheck
  iproute2
)

# A Docker engine, for those who have none.
MF_ENGINE_PACKAGES=(docker.io docker-compose iptables iproute2)
# For tests/compose/run.sh: promtool, and what stands in for images where no registry can be reached.
MF_COMPOSE_PACKAGES=(prometheus debootstrap python3 ca-certificates)

# Draws the dashboards: tests/compose/picture.py.
MF_PICTURE_PACKAGES=(python3-matplotlib)

# What the finished programs load; for images without a compiler.
MF_RUN_PACKAGES=(
  libzmq5 libcapnp-0.9.2
  libprometheus-cpp-core1.0 libcpp-httplib0.11
  libhwy1 libopenblas0-pthread
  libtomlplusplus3 libspdlog1.10
  libsodium23
  librocksdb7.8
)
