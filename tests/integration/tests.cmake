# Tests that run the real programs. Plain Python, standard library only.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME bad_input
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/bad_input_test.py $<TARGET_FILE:worker>)
set_tests_properties(bad_input PROPERTIES LABELS integration)
