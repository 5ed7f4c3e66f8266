# The PyTorch reference. The distribution's Python: another one in PATH has no torch of the tested version.
set(MF_PYTHON /usr/bin/python3)
add_test(NAME reference_selftest COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/selftest.py)
set_tests_properties(reference_selftest PROPERTIES LABELS reference)
