#include "pserver/offline/snapshot_tables.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_load.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "pserver/table/optimizer.h"

namespace mf {
namespace {

/// Every time the newest step may be deleted by its servers before it is open here; while it is
/// open it can be read.
constexpr int kTries = 20;

/// One step of all servers, open.
struct OpenSnapshots {
  uint64_t step = 0;
  std::vector<SnapshotInfo> infos;                       // by shard
  std::vector<std::unique_ptr<SnapshotCursor>> cursors;  // by shard
};

Result<std::vector<std::unique_ptr<SnapshotReader>>> OpenReaders(const std::string& dir) {
  MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> folders, FindShardFolders(dir));
  std::vector<ShardFolder> used;
  std::vector<std::unique_ptr<SnapshotReader>> readers;
  for (const ShardFolder& folder : folders) {
    MF_ASSIGN_OR_RETURN(auto reader, OpenRocksSnapshotReader(folder.path));
    if (reader->Published().empty()) continue;  // what a start with a wrong --shard left, perhaps
    used.push_back(folder);
    readers.push_back(std::move(reader));
  }
  if (used.empty()) return Status::Invalid(dir + ": no server has a snapshot there yet");
  const uint32_t shards = used.back().shards;
  if (used.size() == shards && used.front().shards == shards) return readers;
  return Status::Invalid(dir + " holds snapshots of " + std::to_string(used.size()) +
                         " servers of a run with " + std::to_string(shards) +
                         "; bring the folders of all servers of one run together");
}

Status OpenStep(const std::vector<std::unique_ptr<SnapshotReader>>& readers, uint64_t step,
                OpenSnapshots* open) {
  *open = {.step = step, .infos = {}, .cursors = {}};
  for (const auto& reader : readers) {
    MF_ASSIGN_OR_RETURN(SnapshotInfo info, reader->Info(step));
    MF_ASSIGN_OR_RETURN(auto cursor, reader->Open(step));
    open->infos.push_back(std::move(info));
    open->cursors.push_back(std::move(cursor));
  }
  return Status::Ok();
}

/// The newest step that all have. Servers that run meanwhile publish newer ones and delete this.
/// `step`; 0: the newest.
Result<OpenSnapshots> OpenCommon(const std::string& dir, uint64_t step,
                                 const std::vector<std::unique_ptr<SnapshotReader>>& readers) {
  Status status;
  uint64_t last = 0;
  for (int i = 0; i < kTries; ++i) {
    const std::vector<uint64_t> common = CommonSteps(readers);
    if (common.empty()) {
      if (last != 0) continue;  // each server deletes in its own time
      return Status::Invalid(dir + ": its servers have no step in common; `pserver inspect " + dir +
                             "` shows what they have");
    }
    if (step != 0) {
      OpenSnapshots open;
      if (!std::binary_search(common.begin(), common.end(), step)) {
        return Status::Invalid(dir + ": not all servers have step " + std::to_string(step) +
                               "; the newest that all have is " + std::to_string(common.back()));
      }
      MF_RETURN_IF_ERROR(OpenStep(readers, step, &open));
      return open;
    }
    if (common.back() == last) return status;  // it is still there: damaged
    last = common.back();
    OpenSnapshots open;
    status = OpenStep(readers, last, &open);
    if (status.ok()) return open;
  }
  return status;
}

Status Load(SnapshotCursor& cursor, const SnapshotInfo& info, uint64_t step,
            const std::string& run_id, ShardTables& tables) {
  std::vector<StepRecord> records;
  try {
    for (; cursor.Valid(); cursor.Next()) {
      MF_RETURN_IF_ERROR(
          LoadEntry(cursor.space(), cursor.id(), cursor.data(), cursor.bytes(), tables, &records));
    }
  } catch (const std::bad_alloc&) {
    return Status::Failed("not enough memory for the tables");
  }
  MF_RETURN_IF_ERROR(cursor.status());
  return CheckLoaded(info, step, run_id, tables);
}

}  // namespace

Result<std::unique_ptr<SnapshotTables>> SnapshotTables::Open(const std::string& dir, uint64_t step,
                                                             uint64_t memory_bytes,
                                                             ThreadPool& pool) {
  MF_ASSIGN_OR_RETURN(const auto readers, OpenReaders(dir));
  MF_ASSIGN_OR_RETURN(OpenSnapshots open, OpenCommon(dir, step, readers));
  std::unique_ptr<SnapshotTables> tables(new SnapshotTables());
  tables->step_ = open.step;
  MF_ASSIGN_OR_RETURN(tables->run_, RunDescription::FromJson(open.infos[0].description));
  const RunDescription& run = tables->run_;
  const size_t shards = readers.size();
  MF_RETURN_IF_ERROR(CheckShards(run, static_cast<int64_t>(shards)));
  for (uint32_t i = 0; i < shards; ++i) {
    tables->shards_.push_back(std::make_unique<ShardTables>(run));
    tables->shards_[i]->Build(run,
                              {.shard = i,
                               .shards = static_cast<uint32_t>(shards),
                               .memory_bytes = memory_bytes / shards,
                               .writes_snapshots = false,
                               .only_read = true},
                              pool);
  }
  std::vector<Status> loaded(shards);
  const std::string run_id = run.RunId();
  pool.ParallelFor(shards, [&](size_t i, int) {
    loaded[i] = Load(*open.cursors[i], open.infos[i], open.step, run_id, *tables->shards_[i]);
  });
  for (const Status& status : loaded) {
    if (status.ok()) continue;
    return Status::Failed(dir + ": snapshot of step " + std::to_string(open.step) + ": " +
                          status.message());
  }
  for (const auto& shard : tables->shards_) shard->Settle();
  return tables;
}

template <class Read>
void SnapshotTables::PutTogether(const TensorSpec& tensor, size_t rows, float* values, Read read) {
  const auto columns = static_cast<size_t>(tensor.columns);
  for (const auto& shard : shards_) {
    TensorShard& part = *shard->tensors[tensor.id];
    const size_t width = part.layout().width();
    const auto begin = static_cast<size_t>(part.layout().share.columns.begin);
    part_.resize(std::max(part_.size(), rows * width));
    read(part, shard->history, part_.data());
    for (size_t row = 0; row < rows; ++row) {
      std::memcpy(values + row * columns + begin, part_.data() + row * width,
                  width * sizeof(float));
    }
  }
}

void SnapshotTables::Pull(const TensorSpec& tensor, std::span<const uint64_t> rows, float* values) {
  PutTogether(tensor, rows.size(), values,
              [&](TensorShard& part, const UpdateHistory& history, float* out) {
                part.Pull(rows, /*training=*/false, history, out);
              });
}

uint64_t SnapshotTables::UpdatedCount(const TensorSpec& tensor) const {
  return shards_[0]->tensors[tensor.id]->updated_count();
}

double SnapshotTables::NeverUpdatedFactor(const TensorSpec& tensor) const {
  return Optimizer(tensor).NeverUpdatedFactor(shards_[0]->history.Of(tensor.id));
}

std::vector<uint64_t> SnapshotTables::UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                                  uint64_t most) const {
  return shards_[0]->tensors[tensor.id]->UpdatedRows(first, most);
}

void SnapshotTables::Forward(const TensorSpec& tensor, std::span<const uint32_t> buckets,
                             const float* weights, size_t tokens, float* y) {
  PutTogether(tensor, tokens, y, [&](TensorShard& part, const UpdateHistory& history, float* out) {
    part.Forward(buckets, weights, tokens, /*training=*/false, history, out);
  });
}

}  // namespace mf
