# A cluster that runs for a while among faults: half a minute here, 5 minutes with tests/run.sh --nightly.
set(MF_SOAK ${CMAKE_CURRENT_LIST_DIR})
add_test(NAME soak_parts COMMAND ${Python3_EXECUTABLE} -B ${MF_SOAK}/parts_test.py)
set_tests_properties(soak_parts PROPERTIES LABELS unit)
math(EXPR minutes "${MF_TRIALS} / 2")
math(EXPR tenths "${MF_TRIALS} % 2 * 5")
add_test(NAME soak
  COMMAND ${Python3_EXECUTABLE} -B ${MF_SOAK}/soak.py $<TARGET_FILE:worker> $<TARGET_FILE:pserver>
          --minutes ${minutes}.${tenths})
set_tests_properties(soak PROPERTIES LABELS integration RESOURCE_LOCK processes_1 COST 1000)
