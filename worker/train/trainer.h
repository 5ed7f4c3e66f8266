// The training loop of one worker: computes what its session (common/client/session.h) hands out.
// Nothing here decides what happens next; the coordinator does, and any worker could do any piece
// of work.
//
// Threads: `exchange.in_flight` lanes, each with one piece of work at a time. Where lanes share the
// cores one computes while the others wait for servers (ComputeGate); a GPU takes them side by
// side.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/thread_pool.h"
#include "common/client/session.h"
#include "worker/compute/compute.h"
#include "worker/config/config.h"
#include "worker/data/batch_source.h"
#include "worker/exchange/remote_exchange.h"

namespace mf {

class Trainer {
 public:
  struct Options {
    /// See Session::Options.
    std::function<Status(const StepRecord&)> on_step = {};
    std::function<Status()> on_told = {};
    /// Tests look at what goes through the exchange of a training micro-batch by wrapping it.
    /// Called by the lane that holds the compute gate.
    std::function<std::unique_ptr<Exchange>(Exchange& inner, OpenStep at, uint32_t micro_batch)>
        wrap_exchange = {};
  };
  /// All references outlive the trainer. `pool` does what the exchange computes.
  Trainer(const Config& config, const RunDescription& run, const BatchSource& data, Client& client,
          Compute& compute, ThreadPool& pool, Options options);
  ~Trainer();

  /// Takes the memory for all lanes, then joins the run at all servers.
  Status Join();
  /// Works until the run is finished (Ok), has failed, or Stop() is called.
  Status Run();
  /// From any thread: no more work is asked for, and what is being computed is given up; Run()
  /// returns soon.
  void Stop();
  /// After Run(): see Session.
  Result<Session::Left> Leave(double patience_seconds) { return session_.Leave(patience_seconds); }

  /// After Run(): the state after the last step, to read from; epoch 0 if it was stopped before.
  FinishedStep finished() const;
  TableClient& tables() { return session_.tables(); }
  int64_t micro_batches_done() const { return micro_batches_done_.load(); }

 private:
  struct Lane;
  ComputeGate& Gate(Lane& lane);
  Status MakeWorkspaces();
  void RunLane(Compute::Workspace& workspace);
  /// Both return a loss: the sum over the micro-batch, the mean over held-out data.
  Result<double> TrainMicroBatch(const Session::Work& work, Lane& lane);
  Result<double> Evaluate(const Session::Work& work, Lane& lane);
  void PushDense(OpenStep at, uint32_t micro_batch, const Compute::Gradients& gradients,
                 std::vector<Pending>* pending);
  /// The dense tensors of a state, pulled once for all lanes.
  Result<std::shared_ptr<const DenseTensors>> Parameters(FinishedStep at);
  void ForgetParameters();
  void Fail(const Status& status);

  const Config& config_;
  const RunDescription& run_;
  const BatchSource& data_;
  const Options options_;
  Compute& compute_;
  ThreadPool& pool_;
  Session session_;
  std::vector<std::unique_ptr<Compute::Workspace>> workspaces_;  // of the lanes
  ComputeGate gate_;  // of lanes that compute one at a time
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> micro_batches_done_{0};

  Mutex parameters_mutex_;
  FinishedStep parameters_at_ MF_GUARDED_BY(parameters_mutex_);
  std::shared_ptr<const DenseTensors> parameters_ MF_GUARDED_BY(parameters_mutex_);

  mutable Mutex end_mutex_;
  Status failure_ MF_GUARDED_BY(end_mutex_);
  FinishedStep finished_ MF_GUARDED_BY(end_mutex_);
};

}  // namespace mf
