// PythonRun as a Python class.
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <utility>

#include "worker/python/native/arrays.h"
#include "worker/python/native/module.h"
#include "worker/python/native/python_run.h"
#include "worker/python/native/tables_class.h"

namespace mf {
namespace {

namespace py = pybind11;

/// The inverse of CodeName.
Code CodeOf(const std::string& name) {
  for (int code = 1; code < kCodeCount; ++code) {
    if (name == CodeName(static_cast<Code>(code))) return static_cast<Code>(code);
  }
  return Code::kFailed;
}

PendingRequest Backward(PythonRun& run, uint64_t epoch, uint64_t step, uint32_t micro_batch,
                        uint32_t tensor, size_t tokens, const py::object& indices,
                        const py::object& weights, const py::object& dy,
                        const std::optional<py::object>& dweights) {
  const TensorSpec& spec = SpecOf(run, tensor);
  const Lookup lookup = LookupOf(spec, tokens, indices, weights);
  const Array in = ArrayOf(dy, Bytes(spec, tokens), "gradients of sums");
  Array out;
  if (dweights.has_value()) {
    out = ArrayOf(*dweights, Pairs(spec) * tokens * sizeof(float), "gradients of weights", true);
  }
  py::gil_scoped_release others_run;
  Pending pending = run.tables().Backward(
      OpenStep{epoch, step}, micro_batch, spec, tokens, FrameOf(lookup.indices),
      FrameOf(lookup.weights), FrameOf(in), out == nullptr ? nullptr : DataOf<float>(out));
  return {run, std::move(pending), {lookup.indices, lookup.weights, in, out}};
}

PendingRequest Push(PythonRun& run, uint64_t epoch, uint64_t step, uint32_t micro_batch,
                    uint32_t tensor, const py::object& rows, const std::optional<py::object>& hits,
                    const py::object& values) {
  const TensorSpec& spec = SpecOf(run, tensor);
  const Array ids = ArrayOf(rows, "rows");
  const size_t count = static_cast<size_t>(ids->len) / sizeof(uint64_t);
  const Array in = ArrayOf(values, Bytes(spec, count), "gradients");
  Array counts;
  if (hits.has_value()) counts = ArrayOf(*hits, count * sizeof(uint32_t), "hits");
  py::gil_scoped_release others_run;
  Pending pending = run.tables().Push(OpenStep{epoch, step}, micro_batch, spec, FrameOf(ids),
                                      counts == nullptr ? Frame() : FrameOf(counts), FrameOf(in));
  return {run, std::move(pending), {ids, in, counts}};
}

PendingRequest PushWhole(PythonRun& run, uint64_t epoch, uint64_t step, uint32_t micro_batch,
                         uint32_t tensor, const py::object& values) {
  const TensorSpec& spec = SpecOf(run, tensor);
  const Array in = ArrayOf(values, Bytes(spec, spec.total_rows()), "gradients");
  py::gil_scoped_release others_run;
  Pending pending =
      run.tables().PushWhole(OpenStep{epoch, step}, micro_batch, spec, DataOf<const float>(in));
  return {run, std::move(pending), {}};
}

/// (tensor, values, and of keyed ones their rows) with which the run begins.
using Initial = std::tuple<uint32_t, py::object, std::optional<py::object>>;

void Join(PythonRun& run, const std::vector<Initial>& tensors) {
  std::vector<Array> arrays;
  std::vector<InitialTensor> initial;
  for (const auto& [tensor, values, rows] : tensors) {
    const TensorSpec& spec = SpecOf(run, tensor);
    InitialTensor given{.tensor = tensor};
    if (rows.has_value()) {
      arrays.push_back(ArrayOf(*rows, "rows"));
      given.count = static_cast<uint64_t>(arrays.back()->len) / sizeof(uint64_t);
      given.rows = DataOf<const uint64_t>(arrays.back());
    } else {
      given.count = spec.total_rows();
    }
    arrays.push_back(ArrayOf(values, Bytes(spec, given.count), "initial values"));
    given.values = DataOf<const float>(arrays.back());
    initial.push_back(given);
  }
  Throw(Wait(run, [&] { return run.Join(initial); }));
}

const char* NameOf(Session::Work::Kind kind) {
  switch (kind) {
    case Session::Work::Kind::kMicroBatch:
      return "micro_batch";
    case Session::Work::Kind::kEvaluation:
      return "evaluation";
    case Session::Work::Kind::kFinished:
      return "finished";
    case Session::Work::Kind::kStopped:
      return "stopped";
  }
  return "";
}

/// (kind, epoch, step, micro-batch): of the open step, or for other work of the finished one.
std::tuple<std::string, uint64_t, uint64_t, uint32_t> Next(PythonRun& run) {
  const Session::Work work = ValueOf(Wait(run, [&run] { return run.Next(); }));
  const bool trains = work.kind == Session::Work::Kind::kMicroBatch;
  return {NameOf(work.kind), trains ? work.open.epoch : work.finished.epoch,
          trains ? work.open.step : work.finished.step, work.micro_batch};
}

std::unique_ptr<PythonRun> Open(std::vector<std::string> servers, std::string keys, int shards,
                                int threads, uint64_t memory_bytes, std::string state,
                                RunDescription run, double deadline_seconds, std::string log) {
  PythonRun::Options options{.servers = std::move(servers),
                             .keys = std::move(keys),
                             .embedded = {.shards = shards,
                                          .threads = threads,
                                          .memory_bytes = memory_bytes,
                                          .data = std::move(state)},
                             .run = std::move(run),
                             .deadline_seconds = deadline_seconds,
                             .log = std::move(log)};
  py::gil_scoped_release others_run;
  Result<std::unique_ptr<PythonRun>> opened = PythonRun::Open(std::move(options));
  py::gil_scoped_acquire with_gil;
  return ValueOf(std::move(opened));
}

std::string Text(double number) { return py::repr(py::float_(number)).cast<std::string>(); }

}  // namespace

void AddRun(py::module_& module) {
  py::class_<StepRecord> record(module, "StepRecord", "What is known of a finished step.");
  record.def_readonly("step", &StepRecord::step)
      .def_readonly("loss", &StepRecord::loss)
      .def_readonly("lr", &StepRecord::lr)
      .def_readonly("grad_norm", &StepRecord::grad_norm)
      .def_readonly("dropped", &StepRecord::dropped)
      .def_property_readonly("val_loss", [](const StepRecord& r) {
        // NaN: nobody evaluates.
        const bool has = r.has_val_loss && !std::isnan(r.val_loss);
        return has ? std::optional<double>(r.val_loss) : std::nullopt;
      });
  record.def("__repr__", [](const StepRecord& r) {
    return "StepRecord(step=" + std::to_string(r.step) + ", loss=" + Text(r.loss) +
           ", lr=" + Text(r.lr) + ", grad_norm=" + Text(r.grad_norm) +
           (r.has_val_loss && !std::isnan(r.val_loss) ? ", val_loss=" + Text(r.val_loss) : "") +
           (r.dropped ? ", dropped)" : ")");
  });
  py::class_<PythonRun, TableAccess, std::unique_ptr<PythonRun, CloseWithoutGil>>(module, "Run")
      .def(py::init([](std::vector<std::string> servers, std::string keys, int shards, int threads,
                       uint64_t memory_bytes, std::string state, RunDescription run,
                       double deadline_seconds, std::string log) {
             return std::unique_ptr<PythonRun, CloseWithoutGil>(
                 Open(std::move(servers), std::move(keys), shards, threads, memory_bytes,
                      std::move(state), std::move(run), deadline_seconds, std::move(log))
                     .release());
           }),
           py::kw_only(), py::arg("servers"), py::arg("keys"), py::arg("shards"),
           py::arg("threads"), py::arg("memory_bytes"), py::arg("state"), py::arg("run"),
           py::arg("deadline_seconds"), py::arg("log"))
      .def("join", &Join, py::arg("initial"))
      .def("next", &Next)
      .def("ask_again", [](PythonRun& run) { Throw(Wait(run, [&run] { return run.AskAgain(); })); })
      .def("done",
           [](PythonRun& run, double value) {
             py::gil_scoped_release others_run;
             run.Done(value);
           })
      .def("give_back",
           [](PythonRun& run, const std::string& code, const std::string& why) {
             py::gil_scoped_release others_run;
             run.Done(Status(CodeOf(code), why));
           })
      .def("stop", &PythonRun::Stop)
      .def("leave",
           [](PythonRun& run, double patience_seconds) {
             const Session::Left left =
                 ValueOf(Wait(run, [&] { return run.Leave(patience_seconds); }));
             return std::tuple(left.reached, left.others, left.saved);
           })
      .def("save",
           [](PythonRun& run, uint64_t step, double patience_seconds) {
             Throw(Wait(run, [&] { return run.Save(step, patience_seconds); }));
           })
      .def("records", &PythonRun::TakeRecords)
      .def("backward", &Backward, py::keep_alive<0, 1>())
      .def("push", &Push, py::keep_alive<0, 1>())
      .def("push_whole", &PushWhole, py::keep_alive<0, 1>());
}

}  // namespace mf
