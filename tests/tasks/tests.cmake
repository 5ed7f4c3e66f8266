# Zero-shot tasks, beside the PyTorch reference.
add_test(NAME tasks COMMAND ${MF_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/tasks_test.py $<TARGET_FILE:worker>)
set_tests_properties(tasks PROPERTIES LABELS reference SKIP_RETURN_CODE 77)
