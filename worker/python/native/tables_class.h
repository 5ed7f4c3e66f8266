// Reads of tables as Python methods, of whatever has tables: a run, or a reader of one. What waits
// lets other Python threads run, and is ended by a signal for which Python has a handler that
// raises (Ctrl-C).
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/client/table_client.h"
#include "common/run/run_description.h"
#include "worker/python/native/arrays.h"

namespace mf {

class TableAccess {
 public:
  virtual ~TableAccess() = default;
  virtual const RunDescription& run() const = 0;
  virtual TableClient& tables() = 0;
  /// Calls to silent servers fail soon. From any thread.
  virtual void Stop() = 0;
  /// False in a process that was forked from the one that opened it, where nothing may be called.
  bool is_of_this_process() const { return process_ == getpid(); }

 private:
  const pid_t process_ = getpid();
};

/// Throws the Python error that memoryformer.errors has for it.
void Throw(const Status& status);

template <class T>
T ValueOf(Result<T> result) {
  Throw(result.status());
  return std::move(result).value();
}

/// The value of `function`, which runs in another thread. A signal that raises stops the run: calls
/// to its servers then end soon, which is waited for.
template <class Function>
auto Wait(TableAccess& tables, Function function) {
  GiveBackArrays();
  auto value = std::async(std::launch::async, std::move(function));
  bool raised = false;
  {
    pybind11::gil_scoped_release others_run;
    while (!raised && value.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
      pybind11::gil_scoped_acquire with_gil;
      raised = PyErr_CheckSignals() != 0;
    }
    if (raised) {
      tables.Stop();
      value.wait();
    }
  }
  if (raised) throw pybind11::error_already_set();
  return value.get();
}

/// A request in flight, with the arrays that it reads and fills.
class PendingRequest {
 public:
  PendingRequest(TableAccess& tables, Pending pending, std::vector<Array> arrays)
      : tables_(tables), pending_(std::move(pending)), arrays_(std::move(arrays)) {}
  void Finish() {
    Throw(Wait(tables_, [this] { return pending_.Wait(); }));
    arrays_.clear();
  }

 private:
  TableAccess& tables_;
  Pending pending_;
  std::vector<Array> arrays_;
};

/// Of a tensor of the run; Python's IndexError if there is none.
const TensorSpec& SpecOf(const TableAccess& tables, uint32_t tensor);
/// Of so many rows in memory.
size_t Bytes(const TensorSpec& tensor, size_t rows);
/// That a token has.
size_t Pairs(const TensorSpec& tensor);

/// Rows of bucket numbers and their weights, [pairs][tokens] each.
struct Lookup {
  Array indices, weights;
};

/// Checks their sizes.
Lookup LookupOf(const TensorSpec& tensor, size_t tokens, const pybind11::object& indices,
                const pybind11::object& weights);

/// Without the GIL, as its threads may wait for servers in this process.
struct CloseWithoutGil {
  void operator()(TableAccess* tables) const {
    if (!tables->is_of_this_process())
      return;  // a forked process has none of its threads: left alone
    pybind11::gil_scoped_release others_run;
    delete tables;
  }
};

}  // namespace mf
