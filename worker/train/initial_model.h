// `worker train --init`: a run that begins with a trained model instead of values made from a seed.
#pragma once

#include <memory>
#include <string>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/client/client.h"
#include "common/run/run_description.h"
#include "worker/config/config.h"
#include "worker/export/initial_rows.h"
#include "worker/initial/bring_rows.h"

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

  /// See BringRows.
  Status Bring(Client& client, const RunDescription& run, const BringHooks& hooks) {
    return BringRows(*rows_, client, run, hooks);
  }

 private:
  InitialModel(Options options, std::unique_ptr<InitialRows> rows)
      : options_(std::move(options)), rows_(std::move(rows)) {}

  const Options options_;
  const std::unique_ptr<InitialRows> rows_;
};

}  // namespace mf
