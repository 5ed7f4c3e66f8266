// What a server has once it knows the run. Seen by the parts of Shard only.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pserver/shard/shard.h"
#include "pserver/table/tensor_shard.h"

namespace mf {

struct Shard::Run {
  explicit Run(RunDescription d)
      : description(std::move(d)),
        text(description.Json()),
        id(description.RunId()),
        rules(description.rules),
        specs(description.tensors),
        history(specs) {}

  uint64_t micro_batches() const { return static_cast<uint64_t>(rules.micro_batches); }
  bool AllIn() const {
    return std::all_of(tensors.begin(), tensors.end(),
                       [&](const auto& t) { return t->watermark() == micro_batches(); });
  }

  void DropTensors() {
    tensors.clear();
    arena = std::make_unique<PageArena>();
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
  UpdateHistory history;
  ChangeClock clock;
  RequestScratch scratch;
  std::unique_ptr<PageArena> arena = std::make_unique<PageArena>();  // of the tensors' state
  std::vector<std::unique_ptr<TensorShard>> tensors;
  std::vector<double> squares;  // of the step that is being prepared
  // The answer to prepare, kept until the next step is prepared.
  PrepareReply prepared;
  Frames prepared_squares;
};

}  // namespace mf
