// A server and its runs: it serves one at a time, a Shard, keeps what each of them has on disk, and
// begins another one when the one before has finished or was left alone. Whoever asks for another
// run while one is trained is refused. Workers ask server 0 first, whom theirs are never silent to:
// so a run that one server would give up is given up by none.
//
// Single-threaded, as the Shard is.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/base/thread_pool.h"
#include "common/net/messages.h"
#include "pserver/shard/shard.h"
#include "pserver/shard/storage.h"

namespace mf {

class RunHost {
 public:
  struct Options {
    Shard::Options shard = {};   // of the first run; `incarnation` rises with every later one
    Storage* storage = nullptr;  // outlives the host; none: what `shard` says
    /// So long after a worker of an unfinished run was last heard another run may begin.
    double idle_seconds = 60;
    /// The storage is of one run: another one is refused.
    bool one_run = false;
  };
  RunHost(const Options& options, ThreadPool& pool, Shard::Send send);
  ~RunHost();

  void Handle(const std::string& peer, const Request& request, double now);
  void Tick(double now);
  /// Goes on with a snapshot that is being written. True if there is more to do at once.
  bool Work(double now) { return shard_ != nullptr && shard_->Work(now); }
  bool writing_snapshot() const { return shard_ != nullptr && shard_->writing_snapshot(); }

 private:
  /// Makes room for the run if another one is over.
  Status Admit(const RunDescription& run, double now);
  Status Open(const RunDescription& run);
  void Close();
  Result<ReplyBody> Answer(const ListRunsRequest& list);
  Result<ReplyBody> Answer(const DeleteRunRequest& remove);
  void Send(const std::string& peer, const Request& request, Result<ReplyBody> body);

  const Options options_;
  ThreadPool& pool_;
  const Shard::Send send_;
  uint64_t runs_opened_ = 0;
  double heard_ = 0;                         // when a worker of the run was heard last
  std::unique_ptr<RunStorage> run_storage_;  // outlives shard_
  std::unique_ptr<Shard> shard_;             // none: nothing is trained
};

}  // namespace mf
