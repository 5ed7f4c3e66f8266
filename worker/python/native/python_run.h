// A Python process's part in a run, without Python: the servers inside the process or the way to
// those elsewhere, the session and its one lane. run_class.cpp makes a Python class of it.
//
// Threads: one at a time, but for Stop() and TakeRecords().
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/client/client.h"
#include "common/client/connection.h"
#include "common/client/save_step.h"
#include "common/client/session.h"
#include "common/net/step.h"
#include "common/net/transport.h"
#include "common/run/run_description.h"
#include "worker/embedded/embedded.h"
#include "worker/initial/row_source.h"
#include "worker/python/native/tables_class.h"

namespace mf {

/// The values f32 [rows][columns] with which rows of a tensor begin: all rows, or of a keyed tensor
/// those of `rows`, which rise. They outlive their use.
struct InitialTensor {
  uint32_t tensor = 0;
  const float* values = nullptr;
  uint64_t count = 0;              // of the rows
  const uint64_t* rows = nullptr;  // none: 0, 1, ...
};

class PythonRun final : public TableAccess {
 public:
  struct Options {
    std::vector<std::string> servers = {};   // as of ParseServers; empty: they are in this process
    std::string keys = {};                   // as of Session::Options
    EmbeddedServers::Options embedded = {};  // of the servers in this process
    RunDescription run = {};
    double deadline_seconds = 60;
    std::string log = "warn";
  };
  /// kInvalid for a description, addresses or keys that are none. Servers are not waited for.
  static Result<std::unique_ptr<PythonRun>> Open(Options options);
  ~PythonRun() override;

  /// Joins the run at all servers. A run with an `initial` state begins with that of `tensors`, and
  /// as made from its seed in all others; servers that have it are brought nothing.
  Status Join(const std::vector<InitialTensor>& tensors);
  /// As of Session::Lane.
  Result<Session::Work> Next() { return lane_->Next(); }
  /// Next() asks once more what there is to do, after the run's end, too: a server that was started
  /// again has to be recovered before it can be read.
  Status AskAgain() {
    lane_ = session_->NewLane();
    return session_->Join();
  }
  void Done(Result<double> value) { lane_->Done(std::move(value)); }
  /// No more work is asked for, either.
  void Stop() override;
  /// As of Session::Leave.
  Result<Session::Left> Leave(double patience_seconds) { return session_->Leave(patience_seconds); }
  /// All servers have the last step of the finished run on disk when it returns; see SaveStep.
  Status Save(uint64_t step, double patience_seconds) {
    return SaveStep(*client_, step, patience_seconds);
  }
  /// Finished steps since the last call, in order; after a rollback those that count.
  std::vector<StepRecord> TakeRecords();

  const RunDescription& run() const override { return session_->run(); }
  TableClient& tables() override { return session_->tables(); }

 private:
  PythonRun() = default;

  TransportContext context_;  // of servers in this process
  std::unique_ptr<EmbeddedServers> embedded_;
  std::unique_ptr<Connection> connection_;  // to servers elsewhere
  std::unique_ptr<Client> own_client_;      // to those in this process
  Client* client_ = nullptr;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Session::Lane> lane_;
  std::atomic<bool> stopped_{false};
  Mutex mutex_;
  std::vector<StepRecord> records_ MF_GUARDED_BY(mutex_);
};

}  // namespace mf
