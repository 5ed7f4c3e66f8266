#include "tests/support/snapshots/shard_snapshots.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "pserver/snapshot/snapshot_rocksdb.h"
#include "pserver/table/layout.h"
#include "pserver/table/optimizer.h"
#include "pserver/table/row_format.h"
#include "worker/config/tensors.h"

namespace mf {

/// `mixed`: every tensor another optimizer than the one before.
RunDescription SmallRun(const std::string& optimizer) {
  auto config =
      LoadConfig("", {"model.d=64", "model.K=8", "model.tau=8", "model.layers=1", "model.heads=2",
                      "train.optimizer=" + (optimizer == "mixed" ? "sgd" : optimizer)});
  EXPECT_TRUE(config.ok()) << config.status().message();
  RunDescription run = DescribeRun(config.value(), "");
  for (TensorSpec& tensor : run.tensors) {
    if (optimizer != "mixed") break;
    tensor.optimizer.kind = static_cast<OptimizerKind>(tensor.id % kOptimizerNames.size());
  }
  return run;
}

std::string FolderOf(const std::string& dir, uint32_t shard, uint32_t shards) {
  return dir + "/shard-" + std::to_string(shard) + "-of-" + std::to_string(shards);
}

float NumberAt(const TensorSpec& tensor, uint64_t row, size_t plane, size_t column, uint64_t step) {
  return static_cast<float>(row * 1000 + column + plane * 100000 + step * 17 + tensor.id);
}

Entries EntriesOf(const RunDescription& run, uint32_t shard, uint32_t shards, uint64_t step) {
  Entries entries;
  for (const TensorSpec& spec : run.tensors) {
    const TensorShare share = ShareOf(spec, run.rules.column_blocks, shard, shards);
    const RowFormat format(spec, share);
    for (uint64_t row = 0; row < spec.total_rows(); row += 1 + (row * 7 + spec.id) % 13) {
      std::vector<float> numbers[1 + kMomentsMax];
      const float* plane[1 + kMomentsMax] = {};
      for (int p = 0; p < format.planes(); ++p) {
        const bool by_block = p > 0 && Optimizer(spec).by_block(p - 1);
        const auto first = static_cast<size_t>(by_block ? share.first_block : share.columns.begin);
        for (size_t i = 0; i < format.floats(p); ++i) {
          numbers[p].push_back(NumberAt(spec, row, static_cast<size_t>(p), first + i, step));
        }
        plane[p] = numbers[p].data();
      }
      std::string value(format.bytes(), '\0');
      format.Encode(static_cast<uint32_t>(1 + row % step), plane,
                    reinterpret_cast<std::byte*>(value.data()));
      entries[{spec.id, row}] = value;
    }
  }
  for (uint64_t i = 1; i <= step; ++i) {
    std::string rate(kRateBytes, '\0'), record(kRecordBytes, '\0');
    EncodeRate(0.001 * static_cast<double>(i), reinterpret_cast<std::byte*>(rate.data()));
    entries[{kRateSpace, i}] = rate;
    EncodeRecord({.step = i, .loss = 1.5, .has_val_loss = i % 2 == 0},
                 reinterpret_cast<std::byte*>(record.data()));
    if (shard == 0) entries[{kRecordSpace, i}] = record;
  }
  return entries;
}

SnapshotInfo InfoOf(const RunDescription& run, uint32_t shard, uint32_t shards, uint64_t step) {
  return {.step = step,
          .run_id = run.RunId(),
          .description = run.Json(),
          .shard = shard,
          .shards = shards,
          .applied = step};
}

Status PublishInto(const std::string& folder, const SnapshotInfo& info, const Entries& entries) {
  MF_ASSIGN_OR_RETURN(const auto store, OpenRocksSnapshots(folder));
  if (const auto steps = store->Published(); !steps.empty())
    MF_RETURN_IF_ERROR(store->Reset(steps.back()));
  MF_RETURN_IF_ERROR(store->Begin());
  for (const auto& [key, value] : entries)
    MF_RETURN_IF_ERROR(store->Put(key.space, key.id, value.data(), value.size()));
  return store->Publish(info);
}

void WriteShards(const std::string& dir, const RunDescription& run, uint32_t shards,
                 uint64_t step) {
  for (uint32_t shard = 0; shard < shards; ++shard) {
    const Status status =
        PublishInto(FolderOf(dir, shard, shards), InfoOf(run, shard, shards, step),
                    EntriesOf(run, shard, shards, step));
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

}  // namespace mf
