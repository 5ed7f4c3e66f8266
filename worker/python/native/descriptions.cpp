// What a run is, for Python: the structures of common/run, field by field.
#include <pybind11/stl.h>

#include "common/run/run_description.h"
#include "worker/python/native/module.h"

namespace mf {
namespace {

namespace py = pybind11;

void AddTensors(py::module_& module) {
  py::enum_<TensorKind>(module, "TensorKind")
      .value("memory", TensorKind::kMemory)
      .value("dense", TensorKind::kDense)
      .value("keyed", TensorKind::kKeyed);
  py::enum_<Init>(module, "Init").value("normal", Init::kNormal).value("constant", Init::kConstant);
  py::enum_<RowType>(module, "RowType").value("f32", RowType::kF32).value("bf16", RowType::kBf16);
  py::enum_<ExchangeMode>(module, "ExchangeMode")
      .value("sums", ExchangeMode::kPushdown)
      .value("pull", ExchangeMode::kPull);
  py::enum_<SparseUpdate>(module, "SparseUpdate")
      .value("exact", SparseUpdate::kExact)
      .value("lazy", SparseUpdate::kLazy);
  py::enum_<OptimizerKind>(module, "OptimizerKind")
      .value("sgd", OptimizerKind::kSgd)
      .value("adam", OptimizerKind::kAdam)
      .value("adagrad", OptimizerKind::kAdagrad)
      .value("row_adam", OptimizerKind::kRowAdam)
      .value("row_adagrad", OptimizerKind::kRowAdagrad);
  py::class_<OptimizerSettings>(module, "OptimizerSettings")
      .def(py::init<>())
      .def_readwrite("kind", &OptimizerSettings::kind)
      .def_readwrite("beta1", &OptimizerSettings::beta1)
      .def_readwrite("beta2", &OptimizerSettings::beta2)
      .def_readwrite("eps", &OptimizerSettings::eps)
      .def_readwrite("sparse_update", &OptimizerSettings::sparse_update);
  py::class_<TensorSpec>(module, "TensorSpec")
      .def(py::init<>())
      .def_readwrite("id", &TensorSpec::id)
      .def_readwrite("name", &TensorSpec::name)
      .def_readwrite("kind", &TensorSpec::kind)
      .def_readwrite("tables", &TensorSpec::tables)
      .def_readwrite("rows", &TensorSpec::rows)
      .def_readwrite("columns", &TensorSpec::columns)
      .def_readwrite("probes", &TensorSpec::probes)
      .def_readwrite("init", &TensorSpec::init)
      .def_readwrite("init_value", &TensorSpec::init_value)
      .def_readwrite("optimizer", &TensorSpec::optimizer)
      .def_readwrite("rate_scale", &TensorSpec::rate_scale)
      .def_readwrite("weight_decay", &TensorSpec::weight_decay)
      .def_readwrite("row_type", &TensorSpec::row_type)
      .def_readwrite("mode", &TensorSpec::mode)
      .def_readwrite("admit_hits", &TensorSpec::admit_hits)
      .def_readwrite("waiting_keys", &TensorSpec::waiting_keys)
      .def_readwrite("expire_steps", &TensorSpec::expire_steps)
      .def_readwrite("shape", &TensorSpec::shape);
}

void AddRules(py::module_& module) {
  py::enum_<Wire>(module, "Wire").value("f32", Wire::kF32).value("bf16", Wire::kBf16);
  py::class_<RateSchedule>(module, "RateSchedule")
      .def(py::init<>())
      .def_readwrite("peak", &RateSchedule::peak)
      .def_readwrite("warmup_ratio", &RateSchedule::warmup_ratio)
      .def_readwrite("min_ratio", &RateSchedule::min_ratio)
      .def_readwrite("steps", &RateSchedule::steps);
  py::class_<SnapshotRules>(module, "SnapshotRules")
      .def(py::init<>())
      .def_readwrite("every_steps", &SnapshotRules::every_steps)
      .def_readwrite("every_minutes", &SnapshotRules::every_minutes)
      .def_readwrite("keep", &SnapshotRules::keep);
  py::class_<RunRules>(module, "RunRules")
      .def(py::init<>())
      .def_readwrite("steps", &RunRules::steps)
      .def_readwrite("micro_batches", &RunRules::micro_batches)
      .def_readwrite("tokens_per_micro_batch", &RunRules::tokens_per_micro_batch)
      .def_readwrite("window", &RunRules::window)
      .def_readwrite("lease_seconds", &RunRules::lease_seconds)
      .def_readwrite("schedule", &RunRules::schedule)
      .def_readwrite("clip", &RunRules::clip)
      .def_readwrite("eval_every", &RunRules::eval_every)
      .def_readwrite("snapshots", &RunRules::snapshots)
      .def_readwrite("wire", &RunRules::wire)
      .def_readwrite("seed", &RunRules::seed);
}

}  // namespace

void AddDescriptions(py::module_& module) {
  module.attr("KEY_RANGES") = kKeyRanges;
  module.attr("ROWS_PER_KEY_RANGE") = kRowsPerKeyRange;
  AddTensors(module);
  AddRules(module);
  py::class_<RunDescription>(module, "RunDescription")
      .def(py::init<>())
      .def_readwrite("tensors", &RunDescription::tensors)
      .def_readwrite("rules", &RunDescription::rules)
      .def_readwrite("about", &RunDescription::about)
      .def_readwrite("data", &RunDescription::data)
      .def_readwrite("initial", &RunDescription::initial)
      .def("run_id", &RunDescription::RunId);
}

}  // namespace mf
