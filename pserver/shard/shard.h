// One parameter server without its socket: requests in, replies out (DESIGN 2.6, 5). Joins the
// state machines (commit, contribution order, board) to the tables. Everything a request says is
// checked here before it touches anything; a bad request is answered with a typed error and changes
// nothing.
//
// Single-threaded: one thread calls Handle and Tick; kernels run on the pool inside those calls.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/config/config.h"
#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "pserver/board/board_desk.h"
#include "pserver/shard/commit.h"
#include "pserver/shard/data_directory.h"
#include "pserver/shard/sessions.h"
#include "pserver/shard/table_monitor.h"
#include "pserver/snapshot/snapshots.h"
#include "pserver/table/tensor_shard.h"

namespace mf {

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

  const Board* board() const { return desk_ == nullptr ? nullptr : &desk_->board(); }
  const CommitState& commit() const { return commit_; }

 private:
  struct Run;  // what exists once the configuration is known

  Status Dispatch(const std::string& peer, const Request& request, double now, Reply* reply,
                  bool* answered);
  Status Hello(const Request& request, Reply* reply);
  Status OpenRun(const Request& hello);
  Status DoStatus(const Request& request, Reply* reply);
  Status Rollback(const Request& request);
  Status Restore(uint64_t step);
  Status Pull(const Request& request, Reply* reply);
  Status ListRows(const Request& request, Reply* reply);
  Status Buckets(const Request& request, Reply* reply);
  Status Forward(const Request& request, Reply* reply);
  Status Backward(const std::string& peer, const Request& request, Reply* reply, bool* answered);
  Status Push(const std::string& peer, const Request& request, Reply* reply, bool* answered);
  Status Prepare(const Request& request, Reply* reply);
  Status Finish(const Request& request, Ended how, double now, Reply* reply);
  void TakeSnapshot(const Request& request, bool applied, double now);

  Status CheckTensor(const Request& request, TensorKind kind, TensorShard** tensor);
  Status CheckReadStep(const Request& request) const;
  Status CheckMicroBatch(const Request& request, const TensorShard& tensor) const;
  Status ReadBuckets(const Request& request, const TensorShard& tensor, Buffer* buckets);
  void Answer(const std::string& peer, const Request& request, const Status& status, Reply reply);
  void BuildTables();

  const Options options_;
  ThreadPool& pool_;
  const Send send_;
  CommitState commit_;
  std::unique_ptr<Run> run_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<BoardDesk> desk_;  // shard 0 only
  TableMonitor monitor_;
  double look_at_disk_ = 0;
  Sessions workers_;
  Sessions observers_;
};

}  // namespace mf
