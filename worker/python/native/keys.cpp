// Keys of keyed tables and the rows that they have, for Python.
#include "common/run/keyed_rows.h"
#include "worker/python/native/arrays.h"
#include "worker/python/native/module.h"

namespace mf {
namespace {

namespace py = pybind11;

/// out[i] = function(in[i]) over arrays of 64 bits.
template <uint64_t (*function)(uint64_t)>
void Map(const py::object& from, const py::object& to) {
  GiveBackArrays();
  const Array in = ArrayOf(from, "keys");
  const Array out = ArrayOf(to, static_cast<size_t>(in->len), "rows", true);
  const auto* numbers = DataOf<const uint64_t>(in);
  auto* results = DataOf<uint64_t>(out);
  for (size_t i = 0; i < static_cast<size_t>(in->len) / sizeof(uint64_t); ++i) {
    results[i] = function(numbers[i]);
  }
}

}  // namespace

void AddKeys(py::module_& module) {
  module.def("rows_of_keys", &Map<RowOfKey>);
  module.def("keys_of_rows", &Map<KeyOfRow>);
}

}  // namespace mf
