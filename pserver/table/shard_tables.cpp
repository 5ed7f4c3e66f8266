#include "pserver/table/shard_tables.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace mf {
namespace {

/// Of every tensor: kDirect for what fits. Keyed ones never do.
std::vector<Table::Storage> StorageOf(const std::vector<TensorLayout>& layouts,
                                      const ShardTables::Options& options) {
  const auto bytes = [&](size_t i) {
    // Gradients of a step can hit every row, too; and while a snapshot is written the state may
    // have to be kept twice.
    const uint64_t rows = layouts[i].spec.total_rows();
    const uint64_t state = Table::DirectBytes(layouts[i], rows);
    return state * (options.writes_snapshots ? 2 : 1) + rows * layouts[i].stride * sizeof(float);
  };
  std::vector<size_t> by_size(layouts.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return bytes(a) < bytes(b); });
  std::vector<Table::Storage> storage(layouts.size(), Table::Storage::kSparse);
  uint64_t left = options.memory_bytes;
  // Dense tensors are read and written whole: direct whatever the budget is.
  for (const size_t i : by_size) {
    if (layouts[i].spec.kind != TensorKind::kDense) continue;
    storage[i] = Table::Storage::kDirect;
    left -= std::min(left, bytes(i));
  }
  for (const size_t i : by_size) {
    if (storage[i] == Table::Storage::kDirect || layouts[i].spec.kind == TensorKind::kKeyed)
      continue;
    if (bytes(i) > left) break;
    storage[i] = Table::Storage::kDirect;
    left -= bytes(i);
  }
  return storage;
}

}  // namespace

void ShardTables::Build(const RunDescription& run, const Options& options, ThreadPool& pool) {
  Drop();
  arena = std::make_unique<PageArena>();
  if (options.only_read) moments_arena = std::make_unique<PageArena>();
  history.Truncate(0);
  last_update = 0;
  std::vector<TensorLayout> layouts;
  for (const TensorSpec& spec : run.tensors) {
    layouts.push_back(LayoutOf(spec, run.rules.column_blocks, options.shard, options.shards));
  }
  const std::vector<Table::Storage> storage = StorageOf(layouts, options);
  std::vector<std::unique_ptr<TensorShard>> made;
  for (size_t i = 0; i < layouts.size(); ++i) {
    // Every server sees every hit: one of them counts (DESIGN 7).
    const TensorShard::Options shard_options{run.rules.seed, storage[i], options.shard == 0,
                                             static_cast<uint64_t>(run.rules.micro_batches),
                                             moments_arena.get()};
    made.push_back(std::make_unique<TensorShard>(std::move(layouts[i]), shard_options, clock, pool,
                                                 *arena, scratch));
  }
  tensors = std::move(made);
}

void ShardTables::Settle() {
  MF_CHECK(moments_arena != nullptr || tensors.empty());
  for (const auto& tensor : tensors) tensor->Settle(history);
  moments_arena.reset();
}

void ShardTables::Drop() {
  tensors.clear();
  arena.reset();
  moments_arena.reset();
}

}  // namespace mf
