# What is left when the power goes: programs are recorded, and the recordings cut (tests/power/disk.h).
set(MF_POWER ${CMAKE_CURRENT_LIST_DIR})
add_library(power_recorder MODULE ${MF_POWER}/recorder.cpp)
target_link_libraries(power_recorder PRIVATE ${CMAKE_DL_LIBS})
mf_test_program(power_cuts ${MF_POWER}/main.cpp ${MF_POWER}/disk.cpp ${MF_POWER}/checks.cpp
  ${MF_POWER}/recorder.cpp)
target_link_libraries(power_cuts PRIVATE ${CMAKE_DL_LIBS})
math(EXPR cuts "100 * ${MF_TRIALS}")
add_test(NAME power
  COMMAND ${Python3_EXECUTABLE} -B ${MF_POWER}/power_test.py $<TARGET_FILE:worker> $<TARGET_FILE:pserver>
          $<TARGET_FILE:power_cuts> $<TARGET_FILE:power_recorder> --trials ${cuts})
set_tests_properties(power PROPERTIES LABELS integration RESOURCE_LOCK processes_2 COST 1000)
