// The training loop of one worker (DESIGN 2.5-2.7): asks the board for work and does it. Nothing
// here decides what happens next; the board does, and any worker could do any piece of work.
//
// Threads: `exchange.in_flight` lanes, each with one piece of work at a time. Where lanes share the
// cores one computes while the others wait for servers (ComputeGate); a GPU takes them side by
// side. One more thread renews the leases.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/client/client.h"
#include "common/client/lease_work.h"
#include "common/client/table_client.h"
#include "common/config/config.h"
#include "worker/compute/compute.h"
#include "worker/data/batch_source.h"
#include "worker/exchange/remote_exchange.h"

namespace mf {

class Trainer {
 public:
  struct Options {
    std::string run_id;
    std::function<Status(const StepRecord&)>
        on_step;  // called in step order, by one thread at a time
    /// Tests look at what goes through the exchange of a training micro-batch by wrapping it.
    /// Called by the lane that holds the compute gate.
    std::function<std::unique_ptr<Exchange>(Exchange& inner, StepRef at, uint32_t micro_batch)>
        wrap_exchange = {};
  };
  /// All references outlive the trainer. `pool` does what the exchange computes.
  Trainer(const Config& config, const std::vector<TensorSpec>& tensors, const BatchSource& data,
          Client& client, Compute& compute, ThreadPool& pool, Options options);
  ~Trainer();

  /// Takes the memory for all lanes, then joins the run at all servers.
  Status Join();
  /// Works until the run is finished (Ok), has failed, or Stop() is called.
  Status Run();
  /// From any thread: no more work is asked for; Run() returns soon.
  void Stop();

  /// After Run(): the state after the last step, to read from.
  StepRef finished() const { return finished_; }
  TableClient& tables() { return tables_; }
  int64_t micro_batches_done() const { return micro_batches_done_.load(); }

 private:
  struct Lane;
  ComputeGate& Gate(Lane& lane);
  struct HeldLease {
    std::chrono::duration<double> between;  // renewals
    std::chrono::steady_clock::time_point next;
  };
  void RunLane(Compute::Workspace& workspace);
  Status MakeWorkspaces();
  Status WorkUnderLease(const Reply& lease, Lane& lane);
  Status DoWork(const Reply& lease, Lane& lane);
  Status TrainMicroBatch(const Reply& lease, Lane& lane);
  Status Commit(const Reply& lease);
  Status Evaluate(const Reply& lease, Lane& lane);
  Status Recover(const Reply& lease);
  void PushDense(StepRef at, const Reply& lease, const TokenBatch& batch,
                 const Compute::Gradients& gradients, std::vector<Pending>* pending);
  Result<std::shared_ptr<const DenseTensors>> Parameters(StepRef at);
  Status TakeRecords(const Reply& lease, bool* news);
  Result<Reply> AskForWork();
  Status Tell(Request request);
  void RenewLeases();
  void Fail(const Status& status);

  const Config& config_;
  const std::vector<TensorSpec>& tensors_;
  const BatchSource& data_;
  Client& client_;
  const Options options_;
  TableClient tables_;
  Compute& compute_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<Compute::Workspace>> workspaces_;  // of the lanes
  ComputeGate gate_;  // of lanes that compute one at a time
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> micro_batches_done_{0};

  std::mutex parameters_mutex_;
  StepRef parameters_at_;                           // guarded by parameters_mutex_
  std::shared_ptr<const DenseTensors> parameters_;  // guarded by parameters_mutex_

  std::mutex records_mutex_;
  RecordCursor records_;  // guarded by records_mutex_

  std::mutex join_mutex_;
  std::vector<uint64_t> incarnations_;  // guarded by join_mutex_: of the servers

  std::mutex state_mutex_;
  std::condition_variable wake_renewer_;
  std::map<uint64_t, HeldLease> leases_;  // guarded by state_mutex_: by id
  Status failure_;                        // guarded by state_mutex_
  bool leases_changed_ = false;           // guarded by state_mutex_
  bool renewer_stops_ = false;            // guarded by state_mutex_
  StepRef finished_;                      // guarded by state_mutex_ while lanes run
};

}  // namespace mf
