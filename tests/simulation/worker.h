// A worker in the simulation: drives the work loop of real workers (common/client/work_loop.h) with
// the client's rules (common/client/client.h: resends, deadlines) on coroutines in place of
// threads.
#pragma once

#include <coroutine>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "common/base/status.h"
#include "common/client/membership.h"
#include "common/client/work_loop.h"
#include "common/net/messages.h"
#include "tests/simulation/task.h"

namespace mf::simulation {

class World;

class Worker {
 public:
  Worker(World& world, size_t index);

  void Start();
  void OnReply(size_t server, const Reply& reply);
  /// As SIGTERM does: its lanes ask for no more work, then it leaves the run.
  void End();
  bool left() const { return left_; }
  /// It has seen the end of the run, with the records of all steps.
  bool finished() const { return finished_; }
  /// It ended with an error, as a process does.
  const std::optional<Status>& failure() const { return failure_; }
  /// The error is that servers did not answer for long: nobody's fault.
  bool timed_out() const { return timed_out_; }
  const std::map<uint64_t, StepRecord>& records() const { return records_; }

 private:
  using Outcome = Result<std::vector<Reply>>;
  struct Call {
    std::vector<std::shared_ptr<const Request>> requests;  // by server; emptied when answered
    size_t first_server = 0;
    std::vector<Reply> replies;
    size_t waiting = 0;
    double deadline = 0;
    double resend_seconds = 0;
    std::optional<Outcome> outcome;
    std::coroutine_handle<> waiter;
  };
  using CallPtr = std::shared_ptr<Call>;
  struct Answer {
    CallPtr call;
    bool await_ready() const { return call->outcome.has_value(); }
    void await_suspend(std::coroutine_handle<> waiter) { call->waiter = waiter; }
    Outcome await_resume() { return std::move(*call->outcome); }
  };
  struct Pause {
    Worker& worker;
    double seconds;
    bool await_ready() const { return seconds <= 0; }
    void await_suspend(std::coroutine_handle<> waiter);
    void await_resume() {}
  };

  CallPtr Begin(std::vector<Request> requests, size_t first_server);
  CallPtr Begin(size_t server, Request request);
  void Repeat(uint64_t id);
  void Complete(uint64_t id, Outcome outcome);

  Task<Status> Main();
  Task<Status> RunLane();
  /// As Session::Leave.
  Task<Status> Leave();
  /// Does what the loop says and tells it how that went.
  Task<WorkLoop::Action> Do(WorkLoop& loop, WorkLoop::Action action);
  Task<WorkLoop::Action> Ask(WorkLoop& loop);
  Task<WorkLoop::Action> Send(WorkLoop& loop, WorkLoop::Call call);
  Task<WorkLoop::Action> Retry(WorkLoop& loop, WorkLoop::Retry retry);
  Task<Status> Join();
  Task<Result<double>> TrainMicroBatch(OpenStep at, uint32_t micro_batch);
  Task<Result<double>> Evaluate(FinishedStep at);
  /// Reads a tensor of a state and compares it with what it must be.
  Task<Status> Read(FinishedStep at, uint32_t tensor);
  void TakeRecords(const LeaseReply& lease, bool* news);
  void Fail(const Status& status);
  /// Renews what the loop holds from now on, unless this holder forgets to.
  void Hold(const WorkLoop::Lease& lease);
  void Renew(uint64_t lease, double seconds);
  double WorkSeconds();

  World& world_;
  const size_t index_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, CallPtr> calls_;
  std::vector<uint64_t> sessions_;  // by server
  Membership membership_;
  bool joining_ = false;
  std::map<uint64_t, StepRecord> records_;
  std::set<uint64_t> leases_;  // that are renewed
  int lanes_left_ = 0;
  bool finished_ = false;
  bool ending_ = false;
  bool left_ = false;
  bool timed_out_ = false;
  std::optional<Status> failure_;
  std::vector<Task<Status>> tasks_;  // last: they use the rest
};

}  // namespace mf::simulation
