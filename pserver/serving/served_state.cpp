#include "pserver/serving/served_state.h"

#include <algorithm>
#include <cstddef>
#include <new>
#include <system_error>
#include <vector>

#include "pserver/snapshot/snapshot_load.h"
#include "pserver/table/layout.h"
#include "pserver/table/row_format.h"

namespace mf {
namespace {

constexpr uint64_t kBetweenWords = 1024;  // rows

/// All entries of the snapshot, rows cut to what the tables have of them.
Status LoadAll(MergedSnapshot& snapshot, ShardTables& tables,
               const std::function<bool(double)>& goes_on) {
  std::vector<RowFormat> parts;
  for (const auto& tensor : tables.tensors) {
    parts.emplace_back(tensor->layout().spec, tensor->layout().share);
  }
  const auto all = static_cast<double>(std::max<uint64_t>(1, snapshot.rows()));
  std::vector<StepRecord> records;  // nobody asks for them
  std::vector<std::byte> cut;
  for (uint64_t rows = 0;;) {
    MF_ASSIGN_OR_RETURN(const bool more, snapshot.Next());
    if (!more) return Status::Ok();
    const SnapshotKey& key = snapshot.key();
    if (!snapshot.is_row() && snapshot.tensor().has_value()) continue;  // of keys without rows
    const std::byte* data = snapshot.data();
    size_t bytes = snapshot.bytes();
    if (snapshot.is_row()) {
      if (rows++ % kBetweenWords == 0 && !goes_on(static_cast<double>(rows) / all)) {
        return {Code::kUnavailable, "this server ends"};
      }
      if (!tables.tensors[key.space]->layout().Has(key.id)) continue;
      const RowFormat& part = parts[key.space];
      cut.resize(part.bytes());
      part.Cut(snapshot.format(key.space), data, cut.data());
      data = cut.data();
      bytes = cut.size();
    }
    MF_RETURN_IF_ERROR(LoadEntry(key.space, key.id, data, bytes, tables, &records));
    records.clear();
  }
}

}  // namespace

ServedState::ServedState(const MergedSnapshot& snapshot, const Options& options)
    : run_(snapshot.run()), step_(snapshot.step()), pool_(options.threads), tables_(run_) {
  tables_.Build(run_,
                {.shard = options.shard,
                 .shards = options.shards,
                 .memory_bytes = options.memory_bytes,
                 .writes_snapshots = false,
                 .only_read = true},
                pool_);
}

Result<std::unique_ptr<MergedSnapshot>> ServedState::Open(const Options& options) {
  return MergedSnapshot::Open({.from = options.from, .flag = "--from", .step = options.step});
}

Result<std::unique_ptr<ServedState>> ServedState::Load(MergedSnapshot& snapshot,
                                                       const Options& options,
                                                       const std::function<bool(double)>& goes_on) {
  MF_RETURN_IF_ERROR(CheckShards(snapshot.run(), options.shards));
  const std::string what = "--from " + options.from + ": step " + std::to_string(snapshot.step());
  try {
    std::unique_ptr<ServedState> state(new ServedState(snapshot, options));
    MF_RETURN_IF_ERROR(LoadAll(snapshot, state->tables_, goes_on));
    const Status loaded =
        CheckLoaded(snapshot.info(), state->step_, state->run_.RunId(), state->tables_);
    if (!loaded.ok()) return Status(loaded.code(), what + ": " + loaded.message());
    state->tables_.Settle();
    return state;
  } catch (const std::bad_alloc&) {
    return Status::Failed(what + ": not enough memory for its tables; use more servers");
  } catch (const std::system_error& error) {
    return Status::Failed(what + ": no threads to load it with (" + error.what() +
                          "); raise the limit, or lower --threads");
  }
}

}  // namespace mf
