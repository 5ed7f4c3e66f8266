# Benchmarks: built with the tests, run by hand (they say little on a busy machine).
add_executable(kernels_bench ${CMAKE_CURRENT_SOURCE_DIR}/bench/kernels_bench.cpp)
target_link_libraries(kernels_bench PRIVATE mf_pserver mf_common PkgConfig::HWY)
