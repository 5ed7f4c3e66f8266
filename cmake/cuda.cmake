# Kernels and matrix products of the CUDA backend as a library, `mf_cuda_kernels`. It needs the CUDA
# toolkit and none of this project's other libraries, so it is also built alone, with its tests, on a
# GPU machine that has only that (tests/gpu/CMakeLists.txt).
get_filename_component(MF_ROOT ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(MF_NVCC nvcc HINTS /usr/local/cuda/bin)
  if(NOT MF_NVCC)
    message(FATAL_ERROR "MF_CUDA: there is no nvcc in PATH or /usr/local/cuda/bin; install the CUDA toolkit")
  endif()
  set(CMAKE_CUDA_COMPILER ${MF_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES 80 90 100 CACHE STRING "GPU generations to compile for")
enable_language(CUDA)
# CMake 3.25 does not know how nvcc is asked for C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
# For projects of at least 3.25, CMake 3.25 marks nvToolsExt as deprecated without looking whether it is
# there; toolkits from 13 on have none.
block()
  set(CMAKE_MINIMUM_REQUIRED_VERSION 3.24)
  find_package(CUDAToolkit REQUIRED)
endblock()

# In this folder everything but these two hands work to an exchange, and belongs to the worker.
file(GLOB MF_CUDA_SOURCES CONFIGURE_DEPENDS ${MF_ROOT}/worker/compute/cuda/kernels/*.cu)
list(APPEND MF_CUDA_SOURCES ${MF_ROOT}/worker/compute/cuda/matmul.cpp
  ${MF_ROOT}/worker/compute/cuda/memory.cpp)
add_library(mf_cuda_kernels STATIC ${MF_CUDA_SOURCES})
target_include_directories(mf_cuda_kernels PUBLIC ${MF_ROOT})
target_link_libraries(mf_cuda_kernels PUBLIC CUDA::cudart_static CUDA::cublas)
target_compile_options(mf_cuda_kernels PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow;-lineinfo>"
  "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${MF_WERROR}>>:-Werror=all-warnings;-Xcompiler=-Werror>")
