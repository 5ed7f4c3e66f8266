# Runs that begin with a trained model.
add_test(NAME initial
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/init_test.py $<TARGET_FILE:worker> $<TARGET_FILE:pserver>)
set_tests_properties(initial PROPERTIES LABELS integration)
