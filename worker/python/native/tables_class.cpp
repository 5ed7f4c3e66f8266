#include "worker/python/native/tables_class.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "worker/python/native/module.h"

namespace mf {

namespace py = pybind11;

void Throw(const Status& status) {
  if (status.ok()) return;
  const py::object error = py::module_::import("memoryformer.errors")
                               .attr("of_status")(CodeName(status.code()), status.message());
  PyErr_SetObject(py::type::of(error).ptr(), error.ptr());
  throw py::error_already_set();
}

const TensorSpec& SpecOf(const TableAccess& tables, uint32_t tensor) {
  if (tensor >= tables.run().tensors.size()) throw py::index_error("tensor");
  return tables.run().tensors[tensor];
}

size_t Bytes(const TensorSpec& tensor, size_t rows) {
  return rows * static_cast<size_t>(tensor.columns) * sizeof(float);
}

size_t Pairs(const TensorSpec& tensor) {
  return static_cast<size_t>(tensor.tables) * static_cast<size_t>(tensor.probes);
}

Lookup LookupOf(const TensorSpec& tensor, size_t tokens, const py::object& indices,
                const py::object& weights) {
  const size_t count = Pairs(tensor) * tokens;
  return {ArrayOf(indices, count * static_cast<size_t>(tensor.index_bytes()), "bucket numbers"),
          ArrayOf(weights, count * sizeof(float), "weights")};
}

namespace {

/// What both states are called in Python: (epoch, step, whether `step` is open).
using State = std::tuple<uint64_t, uint64_t, bool>;
ReadState ReadStateOf(const State& state) {
  const auto& [epoch, step, open] = state;
  if (open) return OpenStep{epoch, step};
  return FinishedStep{epoch, step};
}

PendingRequest Forward(TableAccess& tables, const State& at, uint32_t tensor, size_t tokens,
                       const py::object& indices, const py::object& weights, const py::object& y) {
  const TensorSpec& spec = SpecOf(tables, tensor);
  const Lookup lookup = LookupOf(spec, tokens, indices, weights);
  const Array out = ArrayOf(y, Bytes(spec, tokens), "sums", true);
  py::gil_scoped_release others_run;
  Pending pending = tables.tables().Forward(ReadStateOf(at), spec, tokens, FrameOf(lookup.indices),
                                            FrameOf(lookup.weights), DataOf<float>(out));
  return {tables, std::move(pending), {lookup.indices, lookup.weights, out}};
}

PendingRequest Pull(TableAccess& tables, const State& at, uint32_t tensor, const py::object& rows,
                    const py::object& values) {
  const TensorSpec& spec = SpecOf(tables, tensor);
  const Array ids = ArrayOf(rows, "rows");
  const size_t count = static_cast<size_t>(ids->len) / sizeof(uint64_t);
  const Array out = ArrayOf(values, Bytes(spec, count), "values", true);
  py::gil_scoped_release others_run;
  Pending pending = tables.tables().Pull(ReadStateOf(at), spec, FrameOf(ids), DataOf<float>(out),
                                         static_cast<size_t>(spec.columns));
  return {tables, std::move(pending), {ids, out}};
}

PendingRequest PullRange(TableAccess& tables, uint64_t epoch, uint64_t step, uint32_t tensor,
                         uint64_t first, uint64_t count, const py::object& values) {
  const TensorSpec& spec = SpecOf(tables, tensor);
  const uint64_t rows = spec.total_rows();
  if (first > rows || count > rows - first) throw py::index_error("rows");
  const Array out = ArrayOf(values, Bytes(spec, count), "values", true);
  py::gil_scoped_release others_run;
  Pending pending =
      tables.tables().PullRange(FinishedStep{epoch, step}, spec, first, count, DataOf<float>(out));
  return {tables, std::move(pending), {out}};
}

/// Updated rows from `first` on, as many as `rows` has room for; how many there were.
size_t ListRows(TableAccess& tables, uint64_t epoch, uint64_t step, uint32_t tensor, uint64_t first,
                const py::object& rows) {
  const TensorSpec& spec = SpecOf(tables, tensor);
  const Array out = ArrayOf(rows, "rows", true);
  const uint64_t most = static_cast<uint64_t>(out->len) / sizeof(uint64_t);
  const std::vector<uint64_t> listed = ValueOf(Wait(tables, [&] {
    return tables.tables().ListRows(FinishedStep{epoch, step}, spec, first, most);
  }));
  std::copy(listed.begin(), listed.end(), DataOf<uint64_t>(out));
  return listed.size();
}

}  // namespace

void AddTables(py::module_& module) {
  py::class_<PendingRequest>(module, "Pending").def("wait", &PendingRequest::Finish);
  py::class_<TableAccess, std::unique_ptr<TableAccess, CloseWithoutGil>>(module, "Tables")
      .def("forward", &Forward, py::keep_alive<0, 1>())
      .def("pull", &Pull, py::keep_alive<0, 1>())
      .def("pull_range", &PullRange, py::keep_alive<0, 1>())
      .def("list_rows", &ListRows);
}

}  // namespace mf
