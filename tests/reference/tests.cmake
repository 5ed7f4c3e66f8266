# The PyTorch reference (MF_PYTHON: tests/CMakeLists.txt).
add_test(NAME reference_selftest COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/selftest.py)
set_tests_properties(reference_selftest PROPERTIES LABELS reference)
