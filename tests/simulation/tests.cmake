# Whole runs in simulated time; the schedules are shared out over as many processes as CI has cores.
file(GLOB MF_SIMULATION_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
list(REMOVE_ITEM MF_SIMULATION_SOURCES ${CMAKE_CURRENT_LIST_DIR}/main.cpp)
add_library(mf_simulation STATIC ${MF_SIMULATION_SOURCES})
target_precompile_headers(mf_simulation REUSE_FROM mf_library_headers)
target_link_libraries(mf_simulation PUBLIC mf_test_support)
mf_test_program(simulation_test ${CMAKE_CURRENT_LIST_DIR}/main.cpp)
target_link_libraries(simulation_test PRIVATE mf_simulation)
math(EXPR seeds "1000 * ${MF_TRIALS}")
foreach(part RANGE 1)
  math(EXPR first "${part} * ${seeds}")
  add_test(NAME simulation_${part} COMMAND simulation_test --first ${first} --seeds ${seeds})
  set_tests_properties(simulation_${part} PROPERTIES LABELS "unit;simulation")
endforeach()
math(EXPR seeds "300 * ${MF_TRIALS}")
add_test(NAME simulation_memory COMMAND simulation_test --memory-ends --seeds ${seeds})
set_tests_properties(simulation_memory PROPERTIES LABELS "unit;simulation")
# The sanitizers see fewer: they are ten times as slow.
add_test(NAME simulation_short COMMAND simulation_test --seeds 300)
set_tests_properties(simulation_short PROPERTIES LABELS "simulation")
if(NOT MF_SANITIZE STREQUAL "thread")
  set_tests_properties(simulation_short PROPERTIES LABELS "simulation;sanitize")
  add_dependencies(sanitize_tests simulation_test)
endif()

# Schedules of the same kind, by hand.
target_link_libraries(zombie_test PRIVATE mf_simulation)

# Memory that ends.
target_link_libraries(memory_end_test PRIVATE mf_simulation)
foreach(name memory_end_test simulation_test run_host_test)
  target_sources(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/support/memory/failing_new.cpp)
endforeach()
