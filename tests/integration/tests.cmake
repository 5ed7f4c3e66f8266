# Tests that run the real programs. Plain Python, standard library only.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
foreach(name bad_input one_result memory)
  add_test(NAME ${name}
    COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py $<TARGET_FILE:worker>)
  set_tests_properties(${name} PROPERTIES LABELS integration)
endforeach()
# These draw when they kill and hold what.
set(MF_FAULTS_chaos 1)     # trials of 20 faults
set(MF_FAULTS_recovery 10) # faults
set(MF_FAULTS_ending 8)    # ends
set(MF_FAULTS_short_memory 6)
foreach(name cluster runs ending chaos overload buckets recovery resume disk security busy edges_machine edges_files
    repeat environment short_memory data_folder)
  set(trials)
  if(MF_FAULTS_${name})
    math(EXPR count "${MF_FAULTS_${name}} * ${MF_TRIALS}")
    set(trials --trials ${count})
  endif()
  add_test(NAME ${name}
    COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py $<TARGET_FILE:worker>
            $<TARGET_FILE:pserver> ${trials})
  set_tests_properties(${name} PROPERTIES LABELS integration)
endforeach()
add_test(NAME versions
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/versions_test.py $<TARGET_FILE:worker>
          $<TARGET_FILE:pserver> ${CMAKE_CURRENT_LIST_DIR}/../fixtures)
set_tests_properties(versions PROPERTIES LABELS integration)
add_library(no_curve MODULE ${CMAKE_CURRENT_LIST_DIR}/no_curve.cpp)
set_tests_properties(security PROPERTIES ENVIRONMENT "MF_NO_CURVE=$<TARGET_FILE:no_curve>")
add_library(sick_machine MODULE ${CMAKE_CURRENT_LIST_DIR}/sick_machine.cpp)
set_tests_properties(edges_machine busy PROPERTIES ENVIRONMENT "MF_SICK_MACHINE=$<TARGET_FILE:sick_machine>")
# Exits with 77 where nobody may mount a small disk.
set_tests_properties(disk PROPERTIES SKIP_RETURN_CODE 77)
mf_test_program(hostile_peer ${CMAKE_CURRENT_LIST_DIR}/hostile_peer.cpp)
add_test(NAME hostile
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/hostile_test.py $<TARGET_FILE:worker>
          $<TARGET_FILE:pserver> $<TARGET_FILE:hostile_peer>)
set_tests_properties(hostile PROPERTIES LABELS integration)
mf_test_program(snapshot_torture ${CMAKE_CURRENT_LIST_DIR}/snapshot_torture.cpp)
math(EXPR kills "20 * ${MF_TRIALS}")
add_test(NAME snapshot_torture COMMAND snapshot_torture --trials ${kills})
set_tests_properties(snapshot_torture PROPERTIES LABELS integration)
# The installed library, used by a project of its own.
add_test(NAME library
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/library_test.py $<TARGET_FILE:worker>
          $<TARGET_FILE:pserver> ${CMAKE_BINARY_DIR})
set_tests_properties(library PROPERTIES LABELS integration)

# These start many processes, kill and hold some, and mostly wait: two of them at a time, from the beginning, beside
# tests that compute. That eight workers share the work evenly shows only where nothing else takes the cores.
set_tests_properties(cluster runs ending buckets disk security busy edges_files short_memory data_folder
  PROPERTIES RESOURCE_LOCK processes_1 COST 1000)
set_tests_properties(chaos recovery resume edges_machine hostile repeat environment versions snapshot_torture memory
  library PROPERTIES RESOURCE_LOCK processes_2 COST 1000)
set_tests_properties(overload PROPERTIES RUN_SERIAL ON)
