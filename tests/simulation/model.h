// What a simulated run computes: whole numbers for gradients, a learning rate of 1 and plain SGD,
// so that the values of every tensor after every step are known exactly without any server.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/net/messages.h"
#include "common/run/tensor_spec.h"
#include "pserver/table/layout.h"
#include "tests/simulation/dice.h"
#include "worker/config/config.h"

namespace mf::simulation {

/// The smallest model that can be cut over `servers` servers; memory layers or dense matrices.
Config SmallestConfig(int64_t servers, bool memory);

class RunModel {
 public:
  /// `bad_steps`: those with a contribution that is not finite.
  RunModel(const Config& config, size_t servers, std::set<uint64_t> bad_steps, uint64_t seed);

  const Config& config() const { return config_; }
  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  /// [tensor][server]
  const std::vector<std::vector<TensorLayout>>& layouts() const { return layouts_; }
  const RunShares& shares() const { return shares_; }
  /// Dense tensors of few numbers: their state is known after every step.
  const std::vector<uint32_t>& readable() const { return readable_; }

  /// What micro-batch `number` of a step contributes to a tensor, by server.
  std::vector<Request> Contributions(uint32_t tensor, OpenStep at, uint32_t number) const;
  /// A read of the rows that a memory tensor's contribution is about.
  Request Lookup(const Request& contribution) const;

  bool Dropped(uint64_t step) const { return bad_steps_.contains(step); }
  double LossSum(uint64_t step, uint32_t number) const;
  /// Of `server`'s columns of a readable tensor after `step` finished steps.
  std::vector<float> Readable(uint32_t tensor, uint64_t step, size_t server) const;
  /// The value that an evaluation after `step` steps gives.
  double ValLoss(uint64_t step) const;
  /// What an undisturbed run records of a step.
  StepRecord Record(uint64_t step) const;
  /// All values of a server's columns of a tensor after the last step.
  std::vector<float> Final(uint32_t tensor, size_t server) const;

 private:
  struct Gradient {
    std::vector<uint64_t> rows;    // of pushes; empty: all
    std::vector<uint8_t> buckets;  // of pairs, [tables][tokens]
    std::vector<float> values;     // [rows or tokens][columns]
  };
  Gradient GradientOf(const TensorSpec& tensor, uint64_t step, uint32_t number) const;
  std::vector<Request> MakeContributions(uint32_t tensor, uint64_t step, uint32_t number) const;
  void ApplyStep(uint64_t step);
  bool Pairs(const TensorSpec& tensor) const {
    return tensor.kind == TensorKind::kMemory && tensor.mode == ExchangeMode::kPushdown;
  }

  const Config config_;
  const std::vector<TensorSpec> tensors_;
  const RunRules rules_;
  const std::set<uint64_t> bad_steps_;
  const uint64_t seed_;
  std::vector<std::vector<TensorLayout>> layouts_;
  const RunShares shares_;
  std::vector<uint32_t> readable_;
  std::vector<std::vector<float>> values_;  // by tensor: after the steps applied so far
  std::vector<double> norms_;               // by step
  std::vector<std::map<uint32_t, std::vector<float>>> history_;  // by step: readable tensors
  mutable std::map<std::tuple<uint32_t, uint64_t, uint32_t>, std::vector<Request>>
      contributions_;  // of epoch 0
};

}  // namespace mf::simulation
