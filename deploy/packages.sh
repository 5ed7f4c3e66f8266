# shellcheck shell=bash disable=SC2034
# The one list of packages this project needs, by names that Debian 12, Debian 13 and Ubuntu 24.04 share; sourced,
# never run.
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
  libsentencepiece-dev libutf8proc-dev
  zlib1g-dev libzstd-dev
  librocksdb-dev
)

# Running them: the libraries that those -dev packages depend on. Their names carry versions, which differ between
# distributions, so install_packages.sh asks apt for them; without these, which nothing here loads.
MF_NOT_LOADED='^libprometheus-cpp-(push|pull)'

# The quickstart's text (a public-domain English book) and its order-2 model.
MF_QUICKSTART_PACKAGES=(bible-kjv python3)

# Compiling and using the Python package (worker/python), beside those of MF_BUILD_PACKAGES. pip comes into a virtual
# environment with python3-venv; outside of one Debian's refuses to install.
MF_PYTHON_PACKAGES=(pybind11-dev python3-dev python3-venv python3-numpy python3-torch)

# Tests, benchmarks, formatting, the PyTorch reference.
MF_TEST_PACKAGES=(
  libgtest-dev libboost-context-dev
  sentencepiece  # its programs, beside which ids are compared
  python3 "${MF_PYTHON_PACKAGES[@]}"
  dataset-fashion-mnist r-cran-lme4  # the data of worker/examples: fashion_mnist, recommender
  mount util-linux  # a small disk for the test of a full one
  clang-format shellcheck
  clang-19 clang-tidy-19
  libclang-rt-19-dev llvm-19  # tests/fuzz: libFuzzer, and names of functions in its reports
  iproute2
)

# A Docker engine, for those who have none.
MF_ENGINE_PACKAGES=(docker.io docker-cli docker-compose iptables iproute2)
# For tests/compose/run.sh: promtool, and what stands in for images where no registry can be reached.
MF_COMPOSE_PACKAGES=(prometheus debootstrap python3 ca-certificates)

# Draws the dashboards: tests/compose/picture.py.
MF_PICTURE_PACKAGES=(python3-matplotlib)

# Left out where a distribution does not have them: without torch the tests against PyTorch and those of the Python
# package are skipped, which is built all the same, for a torch from elsewhere; Clang is for .ci/run, and libFuzzer
# for tests/fuzz/run.sh; the command `docker` is in a package of its own in Debian 13, and in docker.io before.
MF_OPTIONAL_PACKAGES=(
  python3-torch dataset-fashion-mnist r-cran-lme4
  clang-19 clang-tidy-19 libclang-rt-19-dev llvm-19
  docker-cli
)
