# The Python package (worker/python), where it was built, with MF_PYTHON. Without torch they are skipped.
if(TARGET mf_python)
  set(MF_PACKAGE ${CMAKE_BINARY_DIR}/python)
  set(MF_PYTHON_TESTS ${CMAKE_CURRENT_LIST_DIR})
  add_test(NAME python_layer COMMAND ${MF_PYTHON} -B ${MF_PYTHON_TESTS}/layer_test.py ${MF_PACKAGE})
  add_test(NAME python_embedding COMMAND ${MF_PYTHON} -B ${MF_PYTHON_TESTS}/embedding_test.py ${MF_PACKAGE})
  add_test(NAME python_loop COMMAND ${MF_PYTHON} -B ${MF_PYTHON_TESTS}/loop_test.py ${MF_PACKAGE})
  add_test(NAME python_reference COMMAND ${MF_PYTHON} -B ${MF_PYTHON_TESTS}/reference_test.py ${MF_PACKAGE}
    $<TARGET_FILE:reference_dump>)
  math(EXPR kills "5 * ${MF_TRIALS}")
  add_test(NAME python_cluster COMMAND ${MF_PYTHON} -B ${MF_PYTHON_TESTS}/cluster_test.py ${MF_PACKAGE}
    $<TARGET_FILE:pserver> --kills ${kills})
  add_test(NAME python_wheel COMMAND ${MF_PYTHON} -B ${MF_PYTHON_TESTS}/wheel_test.py ${CMAKE_BINARY_DIR})
  add_test(NAME python_examples COMMAND ${MF_PYTHON} -B ${MF_PYTHON_TESTS}/examples_test.py ${MF_PACKAGE}
    $<TARGET_FILE:pserver>)
  set_tests_properties(python_cluster PROPERTIES COST 100)
  set_tests_properties(python_layer python_embedding python_loop python_reference python_cluster python_wheel
    python_examples PROPERTIES
    LABELS python SKIP_RETURN_CODE 77)
endif()
