# Models used at the servers of their run.
add_test(NAME served
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/served_test.py $<TARGET_FILE:worker> $<TARGET_FILE:pserver>)
set_tests_properties(served PROPERTIES LABELS integration)
