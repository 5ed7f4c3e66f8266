// Requests that read the tables of a run: what is checked of each before the tables see it, and the
// answer. For servers that train a run, and for those that serve its snapshots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/base/buffer.h"
#include "common/base/status.h"
#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/table/shard_tables.h"

namespace mf {

/// kUnavailable where there are no tables yet; kInvalid for a tensor that the run does not have, or
/// with kMemory one of another kind.
Result<TensorShard*> FindTensor(const RunDescription& run, ShardTables& tables, uint32_t id,
                                TensorKind kind);

/// kInvalid unless the payload has so many frames.
Status CheckFrames(const Frames& payload, size_t count);
/// kInvalid unless the frame, `name` in words, has so many bytes.
Status CheckFrame(const Frames& payload, size_t frame, uint64_t bytes, const char* name);
/// kInvalid unless the rows rise, and the server has them.
Status CheckRows(const TensorLayout& layout, std::span<const uint64_t> rows);
/// Rows that are not named: all of a push, a run of a pull. kInvalid of keyed tensors.
Status CheckUnnamed(const TensorSpec& spec);
/// Frames 0 and 1, bucket numbers and weights of a memory tensor's pairs, as u32 [pairs][tokens].
/// kInvalid unless all of them are rows of the tensor.
Result<Buffer> ReadBuckets(const Frames& payload, uint32_t tokens, const RunRules& rules,
                           const TensorShard& tensor);
std::span<const uint32_t> BucketsOf(const Buffer& buffer);

// The payload of the answer. Which state is asked for was looked at before.
Result<Frames> AnswerForward(const ForwardRequest& forward, const Frames& payload,
                             const RunDescription& run, ShardTables& tables);
Result<Frames> AnswerPull(const PullRequest& pull, const Frames& payload, const RunDescription& run,
                          ShardTables& tables);
Result<Frames> AnswerListRows(const ListRowsRequest& list, const Frames& payload,
                              const RunDescription& run, ShardTables& tables);

}  // namespace mf
