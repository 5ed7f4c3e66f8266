// The parts of the module memoryformer._native.
#pragma once

#include <pybind11/pybind11.h>

namespace mf {

void AddDescriptions(pybind11::module_& module);
void AddHash(pybind11::module_& module);
void AddKeys(pybind11::module_& module);
void AddReader(pybind11::module_& module);
void AddRun(pybind11::module_& module);
void AddTables(pybind11::module_& module);

}  // namespace mf
