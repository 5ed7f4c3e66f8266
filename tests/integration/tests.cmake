# Tests that run the real programs. Plain Python, standard library only.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
foreach(name bad_input one_result memory)
  add_test(NAME ${name}
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py $<TARGET_FILE:worker>)
  set_tests_properties(${name} PROPERTIES LABELS integration)
endforeach()
# Measures its own peak of memory: not beside others that could take what it needs.
set_tests_properties(memory PROPERTIES RUN_SERIAL ON)
# These kill, hold and flood at moments that they wait for: not beside others that take the cores.
foreach(name cluster runs chaos overload buckets recovery resume disk security)
  add_test(NAME ${name}
    COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py $<TARGET_FILE:worker>
            $<TARGET_FILE:pserver>)
  set_tests_properties(${name} PROPERTIES LABELS integration RUN_SERIAL ON)
endforeach()
add_library(no_curve MODULE ${CMAKE_CURRENT_LIST_DIR}/no_curve.cpp)
set_tests_properties(security PROPERTIES ENVIRONMENT "MF_NO_CURVE=$<TARGET_FILE:no_curve>")
# Exits with 77 where nobody may mount a small disk.
set_tests_properties(disk PROPERTIES SKIP_RETURN_CODE 77)
mf_test_program(hostile_peer ${CMAKE_CURRENT_LIST_DIR}/hostile_peer.cpp)
add_test(NAME hostile
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/hostile_test.py $<TARGET_FILE:worker>
          $<TARGET_FILE:pserver> $<TARGET_FILE:hostile_peer>)
set_tests_properties(hostile PROPERTIES LABELS integration RUN_SERIAL ON)
mf_test_program(snapshot_torture ${CMAKE_CURRENT_LIST_DIR}/snapshot_torture.cpp)
add_test(NAME snapshot_torture COMMAND snapshot_torture --trials 50)
set_tests_properties(snapshot_torture PROPERTIES LABELS integration RUN_SERIAL ON)
# The installed library, used by a project of its own.
add_test(NAME library
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/library_test.py $<TARGET_FILE:worker>
          $<TARGET_FILE:pserver> ${CMAKE_BINARY_DIR})
set_tests_properties(library PROPERTIES LABELS integration)
