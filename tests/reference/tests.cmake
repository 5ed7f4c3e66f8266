# The PyTorch reference (MF_PYTHON: tests/CMakeLists.txt), and the whole system against it.
add_test(NAME reference_selftest COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/selftest.py)
set_tests_properties(reference_selftest PROPERTIES LABELS reference SKIP_RETURN_CODE 77)

add_executable(reference_dump ${CMAKE_CURRENT_LIST_DIR}/reference_dump.cpp)
target_link_libraries(reference_dump PRIVATE mf_test_support mf_worker CLI11::CLI11)
target_compile_options(reference_dump PRIVATE ${MF_QUICK_OPTIONS})
target_precompile_headers(reference_dump REUSE_FROM mf_command_headers)
# One program that runs all variants on so many servers: importing torch takes longer than a variant.
foreach(shards 1 2 3)
  add_test(NAME reference_system_${shards} COMMAND ${MF_PYTHON} -B
    ${CMAKE_CURRENT_LIST_DIR}/system_test.py $<TARGET_FILE:reference_dump> --shards ${shards})
  set_tests_properties(reference_system_${shards} PROPERTIES LABELS reference SKIP_RETURN_CODE 77)
endforeach()

# The folder for Hugging Face's transformers, loaded by the code that it contains.
add_test(NAME hf_export COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/hf_test.py $<TARGET_FILE:worker>)
set_tests_properties(hf_export PROPERTIES LABELS reference SKIP_RETURN_CODE 77)
