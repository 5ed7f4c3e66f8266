# Text, from files to ids: tokenizers beside those that others have written, and what is prepared by them.
mf_test_program(tokenizer_ids ${CMAKE_CURRENT_LIST_DIR}/ids.cpp)
add_test(NAME tokenizer_reference COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/reference_test.py
  $<TARGET_FILE:tokenizer_ids> ${CMAKE_BINARY_DIR}/npm)
set_tests_properties(tokenizer_reference PROPERTIES LABELS unit)
add_test(NAME prepare COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/prepare_test.py $<TARGET_FILE:worker>)
set_tests_properties(prepare PROPERTIES LABELS integration)
add_test(NAME text_cache COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/text_cache_test.py $<TARGET_FILE:worker>)
set_tests_properties(text_cache PROPERTIES LABELS integration)
