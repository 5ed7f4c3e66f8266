// What a run is, for servers and workers alike: its tensors, the rules by which it goes on, and two
// texts that servers keep, compare and hand back without reading them. The first worker's hello
// brings it; every later one has to bring an equal one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/run/tensor_spec.h"

namespace mf {

/// The type of vectors between workers and servers.
enum class Wire : uint8_t { kF32, kBf16 };
inline constexpr std::array kWireNames = {"f32", "bf16"};
/// Bytes of one number of such a vector.
constexpr size_t NumberBytes(Wire wire) { return wire == Wire::kBf16 ? 2 : 4; }

/// The learning rate over the steps of a run, see common/run/schedule.h.
struct RateSchedule {
  double peak = 3e-3;
  double warmup_ratio = 0.01;  // share of the steps with rising rate
  double min_ratio = 0.01;     // last rate over the peak
  int64_t steps = 0;           // where it ends, earlier steps included; 0: with the run
  bool operator==(const RateSchedule&) const = default;
};

struct SnapshotRules {
  int64_t every_steps = 0;   // 0: never by steps
  double every_minutes = 5;  // 0: never by time; both 0: none, not even after the last step
  int64_t keep = 2;          // newest common ones
  bool on() const { return every_steps > 0 || every_minutes > 0; }
  bool operator==(const SnapshotRules&) const = default;
};

struct RunRules {
  int64_t steps = 800;
  int64_t steps_before = 0;               // of earlier training: the schedule goes on after them
  int64_t micro_batches = 4;              // G, per step
  int64_t tokens_per_micro_batch = 1024;  // the most that one request may be about
  int64_t window = 8;                     // micro-batches leased ahead of the lowest unfinished one
  double lease_seconds = 30;              // a lease not renewed for so long is over
  RateSchedule schedule = {};
  double clip = 1;           // of the global gradient norm; 0: no clipping
  int64_t eval_every = 100;  // steps; 0: only after the last
  SnapshotRules snapshots = {};
  Wire wire = Wire::kF32;
  int64_t column_blocks = 0;  // of every tensor; 0: by width (common/run/column_blocks.h)
  uint64_t seed = 1;          // of the tensors' initial values

  int64_t tokens_per_step() const { return micro_batches * tokens_per_micro_batch; }
  bool operator==(const RunRules&) const = default;
};

struct RunDescription {
  std::vector<TensorSpec> tensors = {};  // in canonical order: a tensor's id is its position
  RunRules rules = {};
  std::string about =
      {};  // what is made of the tensors; if it is JSON, differences are named by key
  std::string data = {};  // what it is trained on
  /// The state that it begins with, by a name that no other state has; servers are brought it
  /// (InitialiseRequest). Empty: it is made from the seed.
  std::string initial = {};

  /// Everything, as JSON with sorted keys.
  std::string Json() const;
  /// The inverse. Text from the network is safe here: kInvalid, naming the place, unless it is
  /// whole, has no unknown keys and passes Check().
  static Result<RunDescription> FromJson(const std::string& text);
  /// Ranges and relations: what servers rely on (sizes that do not overflow, unique names, ...).
  /// For a description that was filled in by code; FromJson calls it.
  Status Check() const;

  /// Json() without what only says how the run is carried out (window, leases, snapshots): equal
  /// texts are equal results.
  std::string Identity() const;
  /// SHA-256 of Identity(), in hex.
  std::string RunId() const;
  bool operator==(const RunDescription&) const = default;
};

/// "train.lr: 0.003 here, 0.5 there; ..." over what decides the result, `about` first; what is
/// trained on if nothing else differs; empty if the identities are equal. Says why another run is
/// refused: `here` is ours.
std::string DescribeDifference(const RunDescription& here, const RunDescription& there);

/// The largest number of servers that the tensors can be cut over: blocks of the narrowest one.
int64_t MaxShards(const RunDescription& run);
/// kInvalid, naming the narrowest tensor, if `shards` is more than that or less than 1.
Status CheckShards(const RunDescription& run, int64_t shards);

}  // namespace mf
