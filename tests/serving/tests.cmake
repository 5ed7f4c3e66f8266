# Read-only servers, by processes that read while snapshots come in (MF_PYTHON: tests/CMakeLists.txt).
add_executable(serving_load ${CMAKE_CURRENT_LIST_DIR}/load.cpp)
target_link_libraries(serving_load PRIVATE mf_common CLI11::CLI11)
target_compile_options(serving_load PRIVATE ${MF_QUICK_OPTIONS})
target_precompile_headers(serving_load REUSE_FROM mf_command_headers)
if(TARGET mf_python)
  add_test(NAME serving COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/serving_test.py ${CMAKE_BINARY_DIR}/python
    $<TARGET_FILE:pserver> $<TARGET_FILE:serving_load>)
  set_tests_properties(serving PROPERTIES LABELS python SKIP_RETURN_CODE 77)
endif()
