# Benchmarks: built with the tests, run by hand (they say little on a busy machine): bench/run.sh.
set(MF_BENCH ${CMAKE_CURRENT_SOURCE_DIR}/bench)
add_library(mf_bench STATIC ${MF_BENCH}/machine.cpp ${MF_BENCH}/layer.cpp)
target_link_libraries(mf_bench PUBLIC mf_common PRIVATE PkgConfig::HWY)
add_executable(kernels_bench ${MF_BENCH}/kernels_bench.cpp)
target_link_libraries(kernels_bench PRIVATE mf_bench mf_pserver PkgConfig::HWY)
add_executable(system_bench ${MF_BENCH}/system_bench.cpp)
target_link_libraries(system_bench PRIVATE mf_bench mf_worker)
