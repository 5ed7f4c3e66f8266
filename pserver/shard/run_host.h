// A server and its runs: it serves one at a time, a Shard, keeps what each of them has on disk, and
// begins another one when the one before has finished or was left alone. Whoever asks for another
// run while one is trained is refused. Workers ask server 0 first, whom theirs are never silent to:
// so a run that one server would give up is given up by none.
//
// Single-threaded, as the Shard is.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/base/thread_pool.h"
#include "common/net/messages.h"
#include "pserver/shard/host.h"
#include "pserver/shard/shard.h"
#include "pserver/shard/storage.h"

namespace mf {

class RunHost final : public Host {
 public:
  struct Options {
    Shard::Options shard = {};   // of the first run; `incarnation` rises with every later one
    Storage* storage = nullptr;  // outlives the host; none: what `shard` says
    /// So long after a worker of an unfinished run was last heard another run may begin; a run
    /// whose leases last longer has as long.
    double idle_seconds = 60;
    /// The storage is of one run: another one is refused.
    bool one_run = false;
  };
  /// A run that has ended is still read by its workers, and one that was only said hello to is
  /// about to be joined at all servers: another one waits so long after the last request, or half
  /// of a lease (which is renewed more often) if that is longer; but never more than
  /// `idle_seconds`.
  static constexpr double kQuietSeconds = 5;

  RunHost(const Options& options, ThreadPool& pool, Shard::Send send);
  ~RunHost() override;

  void Handle(const std::string& peer, const Request& request, double now) override;
  /// A hello of another run than the one that is served has to wait.
  void HandleMeanwhile(const std::string& peer, const Request& request, double now) override;
  void Tick(double now) override;
  /// See Shard. Another run does not begin any more.
  void End(double now) override;
  bool ending() const override { return ending_; }
  bool ReadyToEnd(double now) override;
  bool unsaved() const override { return unsaved_ || (shard_ != nullptr && shard_->unsaved()); }
  double disk_busy_seconds() const override;
  std::string trouble() const override;
  bool HasWorkers(double now) const override;
  bool Work(double now) override { return shard_ != nullptr && shard_->Work(now); }
  bool writing_snapshot() const override { return shard_ != nullptr && shard_->writing_snapshot(); }

 private:
  /// Makes room for the run that `hello` brings, if it may; one that is trained refuses it itself.
  Status Admit(const HelloRequest& hello, double now);
  /// In place of the run that is served; that one stays if the new one cannot be stored.
  Status Begin(const RunDescription& run, double now);
  void Close();
  /// A run whose state is lost is begun anew by the next hello of a worker.
  void CloseIfLost();
  bool Serves(const std::string& run_id) const;
  /// Does what waits for the disk (ThreadPool::RunAside).
  Status OnDisk(const std::function<Status()>& job) const;
  Result<ReplyBody> Answer(const ListRunsRequest& list);
  Result<ReplyBody> Answer(const DeleteRunRequest& remove);
  void Send(const std::string& peer, const Request& request, Result<ReplyBody> body);

  const Options options_;
  bool ending_ = false;
  bool unsaved_ = false;
  ThreadPool& pool_;
  const Shard::Send send_;
  uint64_t incarnation_;
  uint64_t runs_begun_ = 0;
  // Of the run that is served.
  double heard_ = 0;          // when it began, or a worker of it was heard last
  double idle_seconds_ = 0;   // of silence, after which it counts as left,
  double quiet_seconds_ = 0;  // or, if it has ended or nobody began it, as over
  bool trained_ = false;      // its workers have joined all servers: it was recovered
  std::unique_ptr<RunStorage> run_storage_;  // outlives shard_
  std::unique_ptr<Shard> shard_;             // none: nothing is trained
};

}  // namespace mf
