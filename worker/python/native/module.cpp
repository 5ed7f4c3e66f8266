#include "worker/python/native/module.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "What the package memoryformer stands on; its own classes are the interface.";
  mf::AddDescriptions(module);
  mf::AddHash(module);
  mf::AddKeys(module);
  mf::AddTables(module);  // of which the next two are kinds
  mf::AddReader(module);
  mf::AddRun(module);
}
