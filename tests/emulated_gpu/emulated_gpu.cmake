# The emulated GPU, and the CUDA backend compiled for it: kernels run in ordinary tests.
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)
find_package(Boost CONFIG REQUIRED COMPONENTS context)

file(GLOB MF_EMULATED_GPU_SOURCES CONFIGURE_DEPENDS emulated_gpu/*.cpp)
list(FILTER MF_EMULATED_GPU_SOURCES EXCLUDE REGEX "(_test|sort_pairs)\\.cpp$")
add_library(mf_emulated_gpu STATIC ${MF_EMULATED_GPU_SOURCES})
target_precompile_headers(mf_emulated_gpu REUSE_FROM mf_library_headers)
target_include_directories(mf_emulated_gpu BEFORE PUBLIC
  ${CMAKE_CURRENT_SOURCE_DIR}/emulated_gpu/include)
target_compile_definitions(mf_emulated_gpu PUBLIC MF_EMULATED_GPU)
target_link_libraries(mf_emulated_gpu PUBLIC Boost::context PRIVATE PkgConfig::OPENBLAS)

# The backend: its .cu files are C++ here. What wraps a library for GPUs has a stand-in.
file(GLOB MF_CUDA_EMULATED_SOURCES CONFIGURE_DEPENDS
  ${CMAKE_SOURCE_DIR}/worker/compute/cuda/kernels/*.cu ${CMAKE_SOURCE_DIR}/worker/compute/cuda/*.cpp)
list(FILTER MF_CUDA_EMULATED_SOURCES EXCLUDE REGEX "/sort_pairs\\.cu$")
if(EXISTS ${CMAKE_SOURCE_DIR}/worker/compute/cuda/kernels/sort_pairs.h)
  list(APPEND MF_CUDA_EMULATED_SOURCES emulated_gpu/sort_pairs.cpp)
endif()
set(MF_CUDA_KERNELS ${MF_CUDA_EMULATED_SOURCES})
list(FILTER MF_CUDA_KERNELS INCLUDE REGEX "\\.cu$")
# CMake adds -x c++ itself where the language is set. The unknown pragma is "#pragma unroll".
set_source_files_properties(${MF_CUDA_KERNELS} PROPERTIES LANGUAGE CXX
  COMPILE_OPTIONS "-Wno-unknown-pragmas")
add_library(mf_cuda_emulated STATIC ${MF_CUDA_EMULATED_SOURCES})
target_precompile_headers(mf_cuda_emulated REUSE_FROM mf_library_headers)
target_link_libraries(mf_cuda_emulated PUBLIC mf_emulated_gpu mf_worker mf_common)

file(GLOB MF_EMULATED_GPU_TESTS CONFIGURE_DEPENDS emulated_gpu/*_test.cpp)
mf_test_program(emulated_gpu_test ${MF_EMULATED_GPU_TESTS})
target_link_libraries(emulated_gpu_test PRIVATE mf_emulated_gpu GTest::gtest_main)
# Each time in another order of threads: MF_TRIALS times.
mf_add_gtest(emulated_gpu_test unit --gtest_repeat=${MF_TRIALS})

# The tests of single operations that GPUs run, too (tests/gpu/ops).
file(GLOB MF_GPU_OPS_SOURCES CONFIGURE_DEPENDS gpu/ops/*.cpp)
mf_test_program(emulated_gpu_ops_test ${MF_GPU_OPS_SOURCES})
target_link_libraries(emulated_gpu_ops_test PRIVATE mf_cuda_emulated)
add_test(NAME emulated_gpu_ops_test COMMAND emulated_gpu_ops_test)
set_tests_properties(emulated_gpu_ops_test PROPERTIES LABELS unit)

# The whole model and training (tests/gpu), on the emulated GPU.
foreach(name model tables training)
  mf_test_program(emulated_gpu_${name}_test gpu/main.cpp gpu/${name}_test.cpp)
  target_link_libraries(emulated_gpu_${name}_test PRIVATE mf_cuda_emulated)
  mf_add_gtest(emulated_gpu_${name}_test unit --gtest_repeat=${MF_TRIALS})
endforeach()

# Under address sanitizer kernels that read or write beyond an array are found; under thread sanitizer
# what lanes share is looked at (kernels themselves run one at a time).
if(MF_SANITIZE MATCHES "address")
  set(MF_EMULATED_GPU_SANITIZE emulated_gpu_tables_test emulated_gpu_ops_test)
elseif(MF_SANITIZE MATCHES "thread")
  set(MF_EMULATED_GPU_SANITIZE emulated_gpu_tables_test)
endif()
foreach(name ${MF_EMULATED_GPU_SANITIZE})
  set_tests_properties(${name} PROPERTIES LABELS "unit;sanitize")
  add_dependencies(sanitize_tests ${name})
endforeach()
