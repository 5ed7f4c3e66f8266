// One parameter server without its socket: requests in, replies out (DESIGN 2.6, 5). Joins the
// state machines (commit, contribution order, coordinator) to the tables. Everything a request says
// is checked here before it touches anything; a bad request is answered with a typed error and
// changes nothing. So is one for which there is no memory, unless that ends in the middle of a
// change: then the state is lost(), as if the process had been killed.
//
// Single-threaded: one thread calls Handle and Tick; kernels run on the pool inside those calls.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/coordinator/coordinator_service.h"
#include "pserver/shard/commit.h"
#include "pserver/shard/data_directory.h"
#include "pserver/shard/initial_state.h"
#include "pserver/shard/sessions.h"
#include "pserver/shard/table_monitor.h"
#include "pserver/snapshot/snapshots.h"
#include "pserver/table/tensor_shard.h"

namespace mf {

/// kWrongRun: a folder that holds the run `there` (RunDescription::Json()) is to be used for
/// another one.
Status AnotherTrainingThere(const Result<RunDescription>& there, const RunDescription& here);

/// kUnavailable: an observer's hello where there is no run. kNotJoined: whoever has said none.
inline Status NoTrainingYet() {
  return {Code::kUnavailable, "no training has begun on this server; start its worker"};
}
inline Status NotJoined(Op op) {
  return {Code::kNotJoined, std::string(OpName(op)) + " without a joined session; say hello"};
}

/// kInvalid if a server of `shards` is not able to hold the run.
Status CheckFits(const RunDescription& run, uint32_t shards);

class Shard {
 public:
  struct Options {
    uint32_t shard = 0;
    uint32_t shards = 1;
    uint64_t incarnation = 1;   // different for every start of the process
    uint64_t boot_count = 1;    // shard 0: durable before it listens
    uint64_t memory_bytes = 0;  // budget for tables addressed directly
    // These outlive the shard and may be absent.
    Metrics* metrics = nullptr;
    DataDirectory* folder = nullptr;
    SnapshotStore* store = nullptr;  // with a writer to it, or there are no snapshots
    SnapshotWriter* writer = nullptr;
    SnapshotStore* initial = nullptr;  // of the state that the run begins with, if it is brought
    DiskThread* disk = nullptr;        // for what need not be waited for; none: is done at once
  };
  /// Sends a reply to a peer; called from inside Handle and Tick.
  using Send = std::function<void(const std::string& peer, Reply reply)>;

  Shard(const Options& options, ThreadPool& pool, Send send);
  ~Shard();

  void Handle(const std::string& peer, const Request& request, double now);
  /// Requests that are answered whatever the shard is at, also from inside a Handle() or Work()
  /// that takes long (ThreadPool::SetYield): they touch no tables.
  static bool AnswersAtOnce(Op op) {
    return op == Op::kHello || op == Op::kStatus || op == Op::kRenew;
  }
  void Tick(double now);
  /// Goes on with a snapshot that is being written. True if there is more to do at once.
  bool Work(double now) { return !lost_ && snapshots_ != nullptr && snapshots_->Work(now); }
  /// Memory ended in the middle of a change. What is here is nothing that anybody may read or save,
  /// and requests are refused: whoever has the shard begins it anew, with another incarnation.
  bool lost() const { return lost_; }
  /// The server is to end: no further step ends here, and the state of the last finished one is
  /// published. Requests are still answered.
  void End(double now) { ending_since_ = now; }
  /// After End(): goes on with it. True once there is nothing more to save, or it cannot be.
  bool ReadyToEnd(double now);
  /// After ReadyToEnd(): the last finished step could not be saved.
  bool unsaved() const { return unsaved_; }
  bool writing_snapshot() const { return snapshots_ != nullptr && snapshots_->writing() != 0; }
  /// SnapshotWriter::late_seconds.
  double snapshot_late_seconds() const {
    return snapshots_ == nullptr ? 0 : snapshots_->late_seconds();
  }

  /// kInvalid if the hello is meant for another server, or speaks another protocol.
  static Status CheckAddressee(const HelloRequest& hello, const Options& options);
  /// Of the run that is served; empty: none yet.
  const std::string& run_id() const;
  /// `description` is that of the run that is served, letter by letter, as all workers send it.
  bool Describes(const std::string& description) const;
  /// The run has ended, its last evaluation included. Its state may still be read, and its last
  /// snapshot still be written.
  bool finished() const;
  /// Who asks is one of the run's workers.
  bool IsWorker(uint64_t session) const { return workers_.contains(session); }

  const Coordinator* coordinator() const {
    return service_ == nullptr ? nullptr : &service_->coordinator();
  }
  const CommitState& commit() const { return commit_; }

 private:
  struct Run;  // what exists once a worker has said what the run is
  /// A request on its way to its answer.
  struct Call {
    const std::string& peer;
    const Request& request;
    double now;
    Reply reply = {};
    bool answered = false;  // the reply was sent, or the work coordinator will send it
  };

  Status Dispatch(Call& call);
  /// Runs what changes something that cannot be changed back.
  template <class Change>
  auto AllOrLost(const Change& change);
  void AnswerOutOfMemory(Call& call);
  // One for each operation: fills call.reply, or sends it where there is work left after the
  // answer.
  Status Do(const HelloRequest& hello, Call& call);
  Status Do(const StatusRequest& status, Call& call);
  Status Do(const RollbackRequest& rollback, Call& call);
  Status Do(const PullRequest& pull, Call& call);
  Status Do(const ListRowsRequest& list, Call& call);
  Status Do(const BucketsRequest& buckets, Call& call);
  Status Do(const ForwardRequest& forward, Call& call);
  Status Do(const BackwardRequest& backward, Call& call);
  Status Do(const PushRequest& push, Call& call);
  Status Do(const PrepareRequest& prepare, Call& call);
  Status Do(const ApplyRequest& apply, Call& call);
  Status Do(const DropRequest& drop, Call& call);
  Status Do(const LeaseRequest& ask, Call& call);
  Status Do(const RenewRequest& renew, Call& call);
  Status Do(const GiveBackRequest& give_back, Call& call);
  Status Do(const MicroBatchDoneRequest& done, Call& call);
  Status Do(const StepEndedRequest& ended, Call& call);
  Status Do(const EvaluatedRequest& evaluated, Call& call);
  Status Do(const RecoveredRequest& recovered, Call& call);
  Status Do(const SaveRequest& save, Call& call);
  Status Do(const LeaveRequest& leave, Call& call);
  Status Do(const StopRequest& stop, Call& call);
  Status Do(const InitialiseRequest& initialise, Call& call);
  Status Do(const ListRunsRequest& list, Call& call);
  Status Do(const DeleteRunRequest& remove, Call& call);

  Status OpenRun(RunDescription run);
  /// What the run begins with is here, or made from the seed.
  Status CheckInitialState() const;
  RunState State() const;
  /// See RunState.
  std::string Doing() const;
  Status CheckCoordinator() const;
  /// What prepare answers, from the step's gradient.
  void Prepare();
  void Tell(double now);
  /// What a worker says of leased work, to the coordinator.
  template <class Body>
  Status Report(const Body& body, ReplyBody reply, Call& call);
  /// Brings back the state after `step` finished steps.
  Status Restore(uint64_t step);
  /// Ends the step; `update` is called for every tensor if that was not done before.
  template <class Update>
  Result<bool> EndStep(OpenStep at, Ended how, const SnapshotPlan& snapshots, double grad_norm,
                       double now, Update update);
  /// The coordinator's, and that of the step that has ended here if it has not heard of its end
  /// yet.
  std::vector<StepRecord> RecordsFrom(uint64_t step) const;
  /// Begins the snapshot of the last finished step.
  void TakeSnapshot(double now);
  /// See SaveRequest.
  Status Save(uint64_t step, double now);
  bool IsPublished(uint64_t step) const;
  void OnDisk(std::function<void()> job);
  /// What the end of a step asks for beside the end itself.
  void FollowPlan(const SnapshotPlan& plan, double now);

  Status CheckMicroBatch(uint32_t micro_batch, const TensorShard& tensor) const;
  void Answer(Call& call, const Status& status);

  const Options options_;
  ThreadPool& pool_;
  const Send send_;
  CommitState commit_;
  std::unique_ptr<Run> run_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<InitialState> initial_;        // none: the tables begin as made from the seed
  std::unique_ptr<CoordinatorService> service_;  // shard 0 only
  TableMonitor monitor_;
  /// How the last finished step ended, if it did so here; the coordinator hears of it later.
  struct LastEnd {
    uint64_t step = 0;
    bool applied = false;
    double grad_norm = 0;
  };
  LastEnd last_end_;
  const char* doing_ = nullptr;  // the operation that Handle() is at, but those answered at once
  uint64_t save_begun_ = 0;      // the step that Save() has begun to publish
  std::optional<double> ending_since_;
  bool lost_ = false;
  bool unsaved_ = false;
  double next_disk_sample_ = 0;
  Sessions workers_;
  Sessions observers_;
};

}  // namespace mf
