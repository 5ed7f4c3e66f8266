// One parameter server without its socket: requests in, replies out (DESIGN 2.6, 5). Joins the
// state machines (commit, contribution order, coordinator) to the tables. Everything a request says
// is checked here before it touches anything; a bad request is answered with a typed error and
// changes nothing.
//
// Single-threaded: one thread calls Handle and Tick; kernels run on the pool inside those calls.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/coordinator/coordinator_service.h"
#include "pserver/shard/commit.h"
#include "pserver/shard/data_directory.h"
#include "pserver/shard/sessions.h"
#include "pserver/shard/table_monitor.h"
#include "pserver/snapshot/snapshots.h"
#include "pserver/table/tensor_shard.h"

namespace mf {

/// kWrongRun: a folder that holds the run `there` (RunDescription::Json()) is to be used for
/// another one.
Status AnotherTrainingThere(const std::string& there, const RunDescription& here);

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
  };
  /// Sends a reply to a peer; called from inside Handle and Tick.
  using Send = std::function<void(const std::string& peer, Reply reply)>;

  Shard(const Options& options, ThreadPool& pool, Send send);
  ~Shard();

  void Handle(const std::string& peer, const Request& request, double now);
  void Tick(double now);
  /// Goes on with a snapshot that is being written. True if there is more to do at once.
  bool Work(double now) { return snapshots_ != nullptr && snapshots_->Work(now); }
  bool writing_snapshot() const { return snapshots_ != nullptr && snapshots_->writing() != 0; }

  /// kInvalid if the hello is meant for another server, or speaks another protocol.
  static Status CheckAddressee(const HelloRequest& hello, const Options& options);
  /// Of the run that is served; empty: none yet.
  const std::string& run_id() const;
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
  Status Do(const ListRunsRequest& list, Call& call);
  Status Do(const DeleteRunRequest& remove, Call& call);

  Status OpenRun(RunDescription run);
  RunState State() const;
  Status CheckCoordinator() const;
  /// Brings back the state after `step` finished steps.
  Status Restore(uint64_t step);
  /// Ends the step; `update` is called for every tensor if that was not done before.
  template <class Update>
  Result<bool> EndStep(OpenStep at, Ended how, const SnapshotPlan& snapshots, double grad_norm,
                       double now, Update update);
  void TakeSnapshot(OpenStep after, bool applied, double grad_norm, double now);

  Status FindTensor(uint32_t id, TensorKind kind, TensorShard** tensor);
  Status CheckMicroBatch(uint32_t micro_batch, const TensorShard& tensor) const;
  Status ReadBuckets(const Frames& payload, uint32_t tokens, const TensorShard& tensor,
                     Buffer* buckets);
  void Answer(Call& call, const Status& status);
  void BuildTables();

  const Options options_;
  ThreadPool& pool_;
  const Send send_;
  CommitState commit_;
  std::unique_ptr<Run> run_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<CoordinatorService> service_;  // shard 0 only
  TableMonitor monitor_;
  double next_disk_sample_ = 0;
  Sessions workers_;
  Sessions observers_;
};

}  // namespace mf
