# Variants of a configuration, compared over seeds.
add_test(NAME experiment
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/experiment_test.py $<TARGET_FILE:worker>
          ${CMAKE_SOURCE_DIR}/deploy/experiments)
set_tests_properties(experiment PROPERTIES LABELS integration)
