// What a server has once it knows the run. Seen by the parts of Shard only.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "pserver/shard/shard.h"
#include "pserver/table/shard_tables.h"

namespace mf {

struct Shard::Run : ShardTables {
  explicit Run(RunDescription d)
      : ShardTables(d),
        description(std::move(d)),
        text(description.Json()),
        id(description.RunId()),
        rules(description.rules),
        specs(description.tensors) {}

  uint64_t micro_batches() const { return static_cast<uint64_t>(rules.micro_batches); }
  bool AllIn() const {
    return std::all_of(tensors.begin(), tensors.end(),
                       [&](const auto& t) { return t->watermark() == micro_batches(); });
  }

  void ForgetPrepared() {
    prepared = {};
    prepared_squares.clear();
  }

  const RunDescription description;
  const std::string text;  // of it
  const std::string id;
  const RunRules& rules;
  const std::vector<TensorSpec>& specs;
  std::vector<double> squares;  // of the step that is being prepared
  // The answer to prepare, kept until the next step is prepared.
  PrepareReply prepared;
  Frames prepared_squares;
};

template <class Change>
auto Shard::AllOrLost(const Change& change) {
  try {
    return change();
  } catch (const std::bad_alloc&) {
    lost_ = true;
    throw;
  }
}

}  // namespace mf
