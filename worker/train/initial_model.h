// `worker train --init`: a run that begins with a trained model instead of values made from a seed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/client/client.h"
#include "common/run/run_description.h"
#include "worker/config/config.h"
#include "worker/export/initial_rows.h"

namespace mf {

class InitialModel {
 public:
  struct Options {
    std::string path = {};        // see InitialRows::Open; empty: from the seed
    uint64_t step = 0;            // of snapshots; 0: the newest
    bool keep_optimizer = false;  // the moments, and the count of steps with their learning rates
  };
  /// kInvalid as of InitialRows::Open. `pool` outlives it.
  static Result<std::unique_ptr<InitialModel>> Open(const Options& options, ThreadPool& pool);

  /// Takes over into the configuration of the run what belongs to the model: its tokenizer, unless
  /// another one is named, the seed of its rows, and, with the optimizer, how many steps were
  /// trained before, unless train.steps_before says it.
  void Adopt(Config* config) const;
  /// Makes `run`, of that configuration, one that begins with this model. kInvalid, naming the
  /// difference, for a model of other tensors, another tokenizer or, if its optimizer is kept,
  /// another optimizer.
  Status Describe(const Config& config, RunDescription* run) const;
  /// What becomes of the optimizer and the schedule, and how the model is used in another way than
  /// it was trained in: lines for people.
  std::vector<std::string> Summary(const Config& config) const;

  /// See InitialRows.
  uint64_t step() const { return rows_->step(); }

  struct Hooks {
    std::function<Status()> join;   // the run, again, after a server was restarted
    std::function<bool()> stopped;  // the process is to end
  };
  /// Brings the model to those servers that do not have it yet, and waits for other workers that
  /// are bringing it. The run has been joined. kInvalid for servers that cannot keep it, kFailed
  /// for those whose disks do not take it, kUnavailable if it was stopped.
  Status Bring(Client& client, const RunDescription& run, const Hooks& hooks);

 private:
  InitialModel(Options options, std::unique_ptr<InitialRows> rows)
      : options_(std::move(options)), rows_(std::move(rows)) {}
  /// By server: it has it.
  static Result<std::vector<bool>> There(Client& client);
  Status BringTo(const std::vector<bool>& there, Client& client, const RunDescription& run,
                 const Hooks& hooks);

  const Options options_;
  const std::unique_ptr<InitialRows> rows_;
};

}  // namespace mf
