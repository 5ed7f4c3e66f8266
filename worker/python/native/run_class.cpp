// PythonRun as a Python class. What waits lets other Python threads run, and is ended by a signal
// for which Python has a handler that raises (Ctrl-C).
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <future>
#include <optional>
#include <utility>

#include "worker/python/native/arrays.h"
#include "worker/python/native/module.h"
#include "worker/python/native/python_run.h"

namespace mf {
namespace {

namespace py = pybind11;

constexpr std::chrono::milliseconds kBetweenSignals(50);

/// The inverse of CodeName.
Code CodeOf(const std::string& name) {
  for (int code = 1; code < kCodeCount; ++code) {
    if (name == CodeName(static_cast<Code>(code))) return static_cast<Code>(code);
  }
  return Code::kFailed;
}

/// Throws the Python error that memoryformer.errors has for it.
void Throw(const Status& status) {
  if (status.ok()) return;
  const py::object error = py::module_::import("memoryformer.errors")
                               .attr("of_status")(CodeName(status.code()), status.message());
  PyErr_SetObject(py::type::of(error).ptr(), error.ptr());
  throw py::error_already_set();
}

template <class T>
T ValueOf(Result<T> result) {
  Throw(result.status());
  return std::move(result).value();
}

/// The value of `function`, which runs in another thread. A signal that raises stops the run: calls
/// to its servers then end soon, which is waited for.
template <class Function>
auto Wait(PythonRun& run, Function function) {
  GiveBackArrays();
  auto value = std::async(std::launch::async, std::move(function));
  bool raised = false;
  {
    py::gil_scoped_release others_run;
    while (!raised && value.wait_for(kBetweenSignals) != std::future_status::ready) {
      py::gil_scoped_acquire with_gil;
      raised = PyErr_CheckSignals() != 0;
    }
    if (raised) {
      run.Stop();
      value.wait();
    }
  }
  if (raised) throw py::error_already_set();
  return value.get();
}

size_t Bytes(const TensorSpec& tensor, size_t rows) {
  return rows * static_cast<size_t>(tensor.columns) * sizeof(float);
}

size_t Pairs(const TensorSpec& tensor) {
  return static_cast<size_t>(tensor.tables) * static_cast<size_t>(tensor.probes);
}

/// A request in flight, with the arrays that it reads and fills.
class PendingRequest {
 public:
  PendingRequest(PythonRun& run, Pending pending, std::vector<Array> arrays)
      : run_(run), pending_(std::move(pending)), arrays_(std::move(arrays)) {}
  void Finish() {
    Throw(Wait(run_, [this] { return pending_.Wait(); }));
    arrays_.clear();
  }

 private:
  PythonRun& run_;
  Pending pending_;
  std::vector<Array> arrays_;
};

/// Rows of bucket numbers and their weights, [pairs][tokens] each.
struct Lookup {
  Array indices, weights;
};

Lookup LookupOf(const TensorSpec& tensor, size_t tokens, const py::object& indices,
                const py::object& weights) {
  const size_t count = Pairs(tensor) * tokens;
  return {ArrayOf(indices, count * static_cast<size_t>(tensor.index_bytes()), "bucket numbers"),
          ArrayOf(weights, count * sizeof(float), "weights")};
}

const TensorSpec& SpecOf(const PythonRun& run, uint32_t tensor) {
  if (tensor >= run.run().tensors.size()) throw py::index_error("tensor");
  return run.run().tensors[tensor];
}

/// What both states are called in Python: (epoch, step, whether `step` is open).
using State = std::tuple<uint64_t, uint64_t, bool>;
ReadState ReadStateOf(const State& state) {
  const auto& [epoch, step, open] = state;
  if (open) return OpenStep{epoch, step};
  return FinishedStep{epoch, step};
}

PendingRequest Forward(PythonRun& run, const State& at, uint32_t tensor, size_t tokens,
                       const py::object& indices, const py::object& weights, const py::object& y) {
  const TensorSpec& spec = SpecOf(run, tensor);
  const Lookup lookup = LookupOf(spec, tokens, indices, weights);
  const Array out = ArrayOf(y, Bytes(spec, tokens), "sums", true);
  py::gil_scoped_release others_run;
  Pending pending = run.tables().Forward(ReadStateOf(at), spec, tokens, FrameOf(lookup.indices),
                                         FrameOf(lookup.weights), DataOf<float>(out));
  return {run, std::move(pending), {lookup.indices, lookup.weights, out}};
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

PendingRequest Pull(PythonRun& run, const State& at, uint32_t tensor, const py::object& rows,
                    const py::object& values) {
  const TensorSpec& spec = SpecOf(run, tensor);
  const Array ids = ArrayOf(rows, "rows");
  const size_t count = static_cast<size_t>(ids->len) / sizeof(uint64_t);
  const Array out = ArrayOf(values, Bytes(spec, count), "values", true);
  py::gil_scoped_release others_run;
  Pending pending = run.tables().Pull(ReadStateOf(at), spec, FrameOf(ids), DataOf<float>(out),
                                      static_cast<size_t>(spec.columns));
  return {run, std::move(pending), {ids, out}};
}

PendingRequest PullRange(PythonRun& run, uint64_t epoch, uint64_t step, uint32_t tensor,
                         uint64_t first, uint64_t count, const py::object& values) {
  const TensorSpec& spec = SpecOf(run, tensor);
  const uint64_t rows = spec.total_rows();
  if (first > rows || count > rows - first) throw py::index_error("rows");
  const Array out = ArrayOf(values, Bytes(spec, count), "values", true);
  py::gil_scoped_release others_run;
  Pending pending =
      run.tables().PullRange(FinishedStep{epoch, step}, spec, first, count, DataOf<float>(out));
  return {run, std::move(pending), {out}};
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

/// Updated rows from `first` on, as many as `rows` has room for; how many there were.
size_t ListRows(PythonRun& run, uint64_t epoch, uint64_t step, uint32_t tensor, uint64_t first,
                const py::object& rows) {
  const TensorSpec& spec = SpecOf(run, tensor);
  const Array out = ArrayOf(rows, "rows", true);
  const uint64_t most = static_cast<uint64_t>(out->len) / sizeof(uint64_t);
  const std::vector<uint64_t> listed = ValueOf(Wait(run, [&] {
    return run.tables().ListRows(FinishedStep{epoch, step}, spec, first, most);
  }));
  std::copy(listed.begin(), listed.end(), DataOf<uint64_t>(out));
  return listed.size();
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

/// Without the GIL, as its threads may wait for servers in this process.
struct CloseWithoutGil {
  void operator()(PythonRun* run) const {
    if (!run->is_of_this_process()) return;  // a forked process has none of its threads: left alone
    py::gil_scoped_release others_run;
    delete run;
  }
};

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
  py::class_<PendingRequest>(module, "Pending").def("wait", &PendingRequest::Finish);
  py::class_<PythonRun, std::unique_ptr<PythonRun, CloseWithoutGil>>(module, "Run")
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
      .def("forward", &Forward, py::keep_alive<0, 1>())
      .def("backward", &Backward, py::keep_alive<0, 1>())
      .def("pull", &Pull, py::keep_alive<0, 1>())
      .def("pull_range", &PullRange, py::keep_alive<0, 1>())
      .def("list_rows", &ListRows)
      .def("push", &Push, py::keep_alive<0, 1>())
      .def("push_whole", &PushWhole, py::keep_alive<0, 1>());
}

}  // namespace mf
