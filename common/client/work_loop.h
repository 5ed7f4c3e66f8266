// What one lane of a worker does, as a state machine: asks the coordinator for work, does it, hands
// it in; gives back what cannot be done and joins again where a server was restarted
// (DESIGN 2.5-2.7). It decides; who drives it sends, waits, computes and sleeps. No socket, thread
// or clock inside: workers drive it with threads (session.h), the simulation with coroutines.
//
//   Action action = loop.Start();
//   for (;;) action = <do it, then tell the loop how it went>;
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/client/lease_work.h"
#include "common/net/messages.h"

namespace mf {

class WorkLoop {
 public:
  /// Ask the coordinator (Membership::Ask), then Asked().
  struct Ask {};
  /// Sleep, send requests[i] to server first_server + i, then Replied().
  struct Call {
    double pause_seconds = 0;
    size_t first_server = 0;
    std::vector<Request> requests;
    std::optional<RecoveryPlan> recovered = {};  // the servers have been rolled back by this plan
  };
  /// Compute the micro-batch and contribute it to every tensor, then Worked() with its sum of
  /// losses.
  struct Train {
    OpenStep at;
    uint32_t micro_batch = 0;
  };
  /// Compute the loss on held-out data after this step, then Worked() with it.
  struct Evaluate {
    FinishedStep at;
  };
  /// Send `give_back` to server 0 and wait for no answer; sleep; say hello again if `join`; then
  /// Retried().
  struct Retry {
    Status reason;
    std::optional<Request> give_back;
    double pause_seconds = 0;
    bool join = false;
  };
  /// The run is over: this is its last state.
  struct Finished {
    FinishedStep at;
  };
  /// The lane is over: somebody has stopped the workers of this run.
  struct Stopped {};
  /// The lane is over: a human has to put something right.
  struct Failed {
    Status status;
  };
  using Action = std::variant<Ask, Call, Train, Evaluate, Retry, Finished, Stopped, Failed>;

  /// A lease that is to be renewed as long as the loop holds it.
  struct Lease {
    uint64_t id = 0;
    double seconds = 0;
    bool operator==(const Lease&) const = default;
  };

  /// `tensors`, `shares`: see CombinePrepared; both outlive the loop. `last_step`: of the run.
  WorkLoop(const std::vector<TensorSpec>& tensors, const RunShares& shares, size_t servers,
           uint64_t last_step)
      : tensors_(tensors), shares_(shares), servers_(servers), last_step_(last_step) {}

  Action Start() const { return Ask{}; }
  /// The coordinator's answer. `news`: it brought records that were not known, so there may be
  /// more.
  Action Asked(Result<LeaseReply> answer, bool news);
  /// All servers' answers to a Call, or why there are none.
  Action Replied(Result<std::vector<Reply>> replies);
  /// The value of a Train or Evaluate, or why there is none.
  Action Worked(Result<double> value);
  /// `joined`: how the hello went that was asked for.
  Action Retried(const Status& joined);

  /// None while there is nothing to renew.
  const std::optional<Lease>& lease() const { return held_; }

 private:
  enum class Waits { kForPrepare, kForEnd, kForStates, kForSaves, kForRollback, kForCoordinator };
  Action ToAll(Waits waits, std::vector<Request> requests);
  Action ToAll(Waits waits, const RequestBody& body);
  Action TellCoordinator(RequestBody body);
  Action Begin();
  Action Commit(const std::vector<Reply>& prepared);
  Action Recover(const std::vector<Reply>& states);
  Action Save(double pause_seconds);
  Action Fail(const Status& status);

  const std::vector<TensorSpec>& tensors_;
  const RunShares& shares_;
  const size_t servers_;
  const uint64_t last_step_;
  LeaseReply work_;
  std::optional<Lease> held_;
  Waits waits_ = Waits::kForCoordinator;
  Prepared prepared_;     // commit
  StepEnd end_;           // commit
  Recovery recovery_;     // recover
  bool may_save_ = true;  // recover: false once the servers could not
};

/// The step moved on, or the servers are being recovered: the piece of work that was answered like
/// this is nobody's any more. Whoever held it gives it back and asks for other work.
bool IsSuperseded(Code code);

}  // namespace mf
