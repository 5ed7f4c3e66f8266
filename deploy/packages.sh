# shellcheck shell=bash disable=SC2034
# The one list of packages this project needs, by names that Debian 12, Debian 13 and Ubuntu 24.04 share; sourced,
# never run.
# Used by install_packages.sh, quickstart.sh, tests/run.sh and the Dockerfile.

# Compiling pserver and worker. Sorted by what they are for: tools, then libraries. For running them the libraries that
# these -dev packages depend on are enough; their names carry versions, so install_packages.sh asks apt for them.
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

# Tests, benchmarks, formatting.
MF_TEST_PACKAGES=(
  libgtest-dev libboost-context-dev
  python3 python3-numpy
  mount util-linux  # a small disk for the test of a full one
  clang-format shellcheck
  iproute2
)

# The PyTorch reference; where a distribution has none, those tests are skipped.
MF_REFERENCE_PACKAGES=(python3-torch)

# A Docker engine, for those who have none.
MF_ENGINE_PACKAGES=(docker.io docker-compose iptables iproute2)
# For tests/compose/run.sh: promtool, and what stands in for images where no registry can be reached.
MF_COMPOSE_PACKAGES=(prometheus debootstrap python3 ca-certificates)

# Draws the dashboards: tests/compose/picture.py.
MF_PICTURE_PACKAGES=(python3-matplotlib)
