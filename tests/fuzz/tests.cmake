# Fuzzing: a target is a file of targets/ with LLVMFuzzerTestOneInput. In the preset `fuzz` it is a program of
# libFuzzer, which tests/fuzz/run.sh builds and runs; in any other one it runs what is kept of earlier fuzzing,
# corpus/TARGET and found/TARGET, as a test.
file(GLOB MF_FUZZ_SUPPORT CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/support/*.cpp)
set(MF_FUZZ_MUTATOR ${CMAKE_CURRENT_LIST_DIR}/support/mutate_messages.cpp)
list(REMOVE_ITEM MF_FUZZ_SUPPORT ${MF_FUZZ_MUTATOR})
# Of the tests' own code only what is small: the fuzz build compiles everything anew.
add_library(mf_fuzz_support STATIC ${MF_FUZZ_SUPPORT} ${CMAKE_CURRENT_LIST_DIR}/../simulation/disk.cpp
  ${CMAKE_CURRENT_LIST_DIR}/../support/failing_memory.cpp)
target_link_libraries(mf_fuzz_support PUBLIC mf_worker mf_pserver mf_common PRIVATE nlohmann_json::nlohmann_json)
target_precompile_headers(mf_fuzz_support REUSE_FROM mf_library_headers)

# mf_fuzz_program(NAME SOURCE...)
function(mf_fuzz_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE mf_fuzz_support)
  target_compile_options(${name} PRIVATE ${MF_QUICK_OPTIONS})
endfunction()
mf_fuzz_program(fuzz_seeds ${CMAKE_CURRENT_LIST_DIR}/seeds.cpp)

add_custom_target(fuzz_targets DEPENDS fuzz_seeds)
file(GLOB MF_FUZZ_TARGETS CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/targets/*.cpp)
foreach(source ${MF_FUZZ_TARGETS})
  get_filename_component(target ${source} NAME_WE)
  set(program fuzz_${target})
  mf_fuzz_program(${program} ${source})
  if(MF_SANITIZE MATCHES "fuzzer")
    target_link_options(${program} PRIVATE -fsanitize=fuzzer)
    if(target MATCHES "^server_")
      target_sources(${program} PRIVATE ${MF_FUZZ_MUTATOR})
    endif()
    add_dependencies(fuzz_targets ${program})
    continue()
  endif()
  target_sources(${program} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/replay.cpp)
  set(cases ${CMAKE_CURRENT_LIST_DIR}/corpus/${target})
  if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/found/${target})
    list(APPEND cases ${CMAKE_CURRENT_LIST_DIR}/found/${target})
  endif()
  add_test(NAME ${program} COMMAND ${program} ${cases})
  # Not for the sanitizers: tests/fuzz/run.sh, which has two of them built in, begins with the same inputs.
  set_tests_properties(${program} PROPERTIES LABELS "unit;fuzz")
  if(IS_DIRECTORY /dev/shm)  # some write files, and sync them
    set_tests_properties(${program} PROPERTIES ENVIRONMENT TMPDIR=/dev/shm)
  endif()
endforeach()
