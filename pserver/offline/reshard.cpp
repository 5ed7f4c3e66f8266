#include "pserver/offline/reshard.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "common/run/run_description.h"
#include "pserver/shard/data_directory.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_key.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "pserver/table/layout.h"
#include "pserver/table/optimizer.h"

namespace mf {
namespace {

struct Source {
  std::string path;  // step-<n>
  FileLock lock;     // keeps servers away
  SnapshotInfo info;
  std::unique_ptr<SnapshotCursor> cursor;
  std::vector<TensorLayout> layouts;

  bool At(const SnapshotKey& key) const {
    return cursor->Valid() && cursor->space() == key.space && cursor->id() == key.id;
  }
};

struct Target {
  std::unique_ptr<SnapshotStore> store;
  std::vector<TensorLayout> layouts;
};

std::string NameOf(const SnapshotKey& key) {
  return "entry " + std::to_string(key.id) + " of " + SpaceName(key.space);
}

Status Disagree(const Source& a, const Source& b, const std::string& what) {
  return Status::Failed(a.path + " and " + b.path + " disagree about " + what +
                        "; they are not of one run: use another step or other folders");
}

class Resharder {
 public:
  explicit Resharder(const ReshardOptions& options) : options_(options) {}

  Result<ReshardReport> Run(const ReshardProgress& progress) {
    MF_RETURN_IF_ERROR(OpenSources());
    MF_RETURN_IF_ERROR(OpenTargets());
    Status done = Copy(progress);
    if (done.ok()) done = Publish();
    if (done.ok()) return report_;
    // Nothing of it was in its place yet, unless moving failed: then a human has to look.
    targets_.clear();
    if (!moving_) (void)RemoveTree(temporary_);
    return done;
  }

 private:
  Status OpenSources();
  Status OpenTargets();
  Status Copy(const ReshardProgress& progress);
  Status CopyStep(const SnapshotKey& key);
  Status CopyRow(const SnapshotKey& key);
  Status Publish();
  std::vector<TensorLayout> Layouts(uint32_t shard, uint32_t shards) const;

  const ReshardOptions options_;
  std::string temporary_;
  bool moving_ = false;
  ReshardReport report_;
  RunDescription run_;
  std::vector<Source> sources_;
  std::vector<Target> targets_;
  std::vector<std::byte> whole_, cut_;  // a row with all columns, and one of a target
  uint64_t rows_ = 0;
};

std::vector<TensorLayout> Resharder::Layouts(uint32_t shard, uint32_t shards) const {
  std::vector<TensorLayout> layouts;
  for (const TensorSpec& spec : run_.tensors)
    layouts.push_back(LayoutOf(spec, run_.rules.column_blocks, shard, shards));
  return layouts;
}

/// The one complete set of shards in the folder.
Result<std::vector<ShardFolder>> CompleteSet(const std::string& from) {
  MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> all, FindShardFolders(from));
  std::map<uint32_t, std::vector<ShardFolder>> sets;
  for (const ShardFolder& folder : all) sets[folder.shards].push_back(folder);
  std::vector<ShardFolder> found;
  for (const auto& [shards, folders] : sets) {
    if (folders.size() != shards) continue;
    if (!found.empty())
      return Status::Invalid("--from " + from + ": shards of " + std::to_string(found.size()) +
                             " and of " + std::to_string(shards) +
                             " servers are in it; move one set elsewhere");
    found = folders;
  }
  if (!found.empty()) return found;
  return Status::Invalid("--from " + from + ": only " + std::to_string(all.size()) +
                         " of the shards of " + std::to_string(all.back().shards) +
                         " servers are in it; bring all of them together");
}

Status Resharder::OpenSources() {
  MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> folders, CompleteSet(options_.from));
  std::vector<std::unique_ptr<SnapshotReader>> readers;
  for (const ShardFolder& folder : folders) {
    MF_ASSIGN_OR_RETURN(FileLock lock, DataDirectory::HoldFree(folder.path));
    MF_ASSIGN_OR_RETURN(std::unique_ptr<SnapshotReader> reader,
                        OpenRocksSnapshotReader(folder.path));
    readers.push_back(std::move(reader));
    sources_.push_back(
        {.path = folder.path, .lock = std::move(lock), .info = {}, .cursor = {}, .layouts = {}});
  }
  const std::vector<uint64_t> common = CommonSteps(readers);
  if (common.empty())
    return Status::Failed("--from " + options_.from + ": no step that all " +
                          std::to_string(folders.size()) + " shards have; nothing to reshard");
  const uint64_t step = options_.step != 0 ? options_.step : common.back();
  if (!std::binary_search(common.begin(), common.end(), step))
    return Status::Invalid("--step " + std::to_string(step) + ": not all shards have it; the " +
                           "newest that all have is " + std::to_string(common.back()));
  report_.step = step;
  report_.from_shards = static_cast<uint32_t>(folders.size());
  for (size_t i = 0; i < folders.size(); ++i) {
    Source& source = sources_[i];
    source.path = StepPath(folders[i].path, step);
    MF_ASSIGN_OR_RETURN(source.info, readers[i]->Info(step));
    if (source.info.run_id != sources_[0].info.run_id)
      return Disagree(sources_[0], source, "the run");
    if (source.info.applied != sources_[0].info.applied || source.info.step != step)
      return Disagree(sources_[0], source, "the number of applied steps");
    if (source.info.shard != folders[i].shard || source.info.shards != folders[i].shards)
      return Status::Failed(source.path + ": is of shard " + std::to_string(source.info.shard) +
                            " of " + std::to_string(source.info.shards) +
                            "; put every folder back under its own name");
  }
  MF_ASSIGN_OR_RETURN(run_, RunDescription::FromJson(sources_[0].info.description));
  MF_RETURN_IF_ERROR(CheckShards(run_, report_.from_shards));
  MF_RETURN_IF_ERROR(CheckShards(run_, options_.shards));
  for (size_t i = 0; i < folders.size(); ++i) {
    Source& source = sources_[i];
    source.layouts = Layouts(folders[i].shard, folders[i].shards);
    MF_ASSIGN_OR_RETURN(source.cursor, readers[i]->Open(step));
  }
  MF_ASSIGN_OR_RETURN(const SnapshotSummary summary, readers[0]->Summary(step));
  for (const SpaceCount& space : summary.spaces)
    if (space.space < kFirstStepSpace) rows_ += space.entries;
  return Status::Ok();
}

Status Resharder::OpenTargets() {
  const std::string& to = options_.to;
  uint32_t shard = 0, shards = 0;
  for (const std::string& name : FileNames(to)) {
    if (name == kReshardFolder)
      return Status::Invalid("--to " + to +
                             ": a reshard runs on it or was cut off; if none runs, "
                             "remove " +
                             name + " and the shards in it and start again");
    if (ParseShardName(name, &shard, &shards))
      return Status::Invalid("--to " + to + ": " + name + " is in it; name an empty folder");
  }
  const auto invalid = [&](const Status& status) {
    return Status::Invalid("--to " + status.message());
  };
  if (const Status made = MakeFolder(to); !made.ok()) return invalid(made);
  const std::string temporary = to + "/" + kReshardFolder;
  if (mkdir(temporary.c_str(), 0755) != 0) return invalid(FileError(temporary, "make the folder"));
  temporary_ = temporary;
  for (uint32_t i = 0; i < options_.shards; ++i) {
    Target target;
    MF_ASSIGN_OR_RETURN(target.store,
                        OpenRocksSnapshots(DataDirectory::PathOf(temporary_, i, options_.shards)));
    MF_RETURN_IF_ERROR(target.store->Begin());
    target.layouts = Layouts(i, options_.shards);
    targets_.push_back(std::move(target));
  }
  return Status::Ok();
}

Status Resharder::Copy(const ReshardProgress& progress) {
  for (;;) {
    const Source* lowest = nullptr;
    for (const Source& source : sources_) {
      if (!source.cursor->Valid()) {
        MF_RETURN_IF_ERROR(source.cursor->status());
        continue;
      }
      const SnapshotKey key{source.cursor->space(), source.cursor->id()};
      if (lowest == nullptr || key < SnapshotKey{lowest->cursor->space(), lowest->cursor->id()})
        lowest = &source;
    }
    if (lowest == nullptr) return Status::Ok();
    const SnapshotKey key{lowest->cursor->space(), lowest->cursor->id()};
    // Records are kept by shard 0 alone, everything else by all.
    if (key.space == kRecordSpace) {
      if (lowest != sources_.data())
        return Status::Failed(lowest->path + ": has records, which only shard 0 keeps; it is not " +
                              "a snapshot of this version");
    } else {
      for (const Source& source : sources_)
        if (!source.At(key)) return Disagree(*lowest, source, NameOf(key));
    }
    MF_RETURN_IF_ERROR(key.space >= kFirstStepSpace ? CopyStep(key) : CopyRow(key));
    for (Source& source : sources_)
      if (source.At(key)) source.cursor->Next();
    if (key.space < kFirstStepSpace && ++report_.rows % 256 == 0) progress(report_.rows, rows_);
  }
}

Status Resharder::CopyStep(const SnapshotKey& key) {
  const SnapshotCursor& first = *sources_[0].cursor;
  if (key.space != kRecordSpace) {
    for (const Source& source : sources_) {
      if (source.cursor->bytes() != first.bytes() ||
          std::memcmp(source.cursor->data(), first.data(), first.bytes()) != 0) {
        return Disagree(sources_[0], source, NameOf(key));
      }
    }
  }
  for (Target& target : targets_) {
    MF_RETURN_IF_ERROR(target.store->Put(key.space, key.id, first.data(), first.bytes()));
    if (key.space == kRecordSpace) break;
  }
  return Status::Ok();
}

Status Resharder::CopyRow(const SnapshotKey& key) {
  if (key.space >= run_.tensors.size() || key.id >= run_.tensors[key.space].total_rows())
    return Status::Failed(sources_[0].path + ": " + NameOf(key) +
                          " is not of its run; the snapshot is of another version");
  const TensorSpec& tensor = run_.tensors[key.space];
  const auto planes = static_cast<size_t>(Optimizer(tensor).planes());
  const auto columns = static_cast<size_t>(tensor.columns);
  constexpr size_t kHead = sizeof(uint32_t);  // updated_at
  whole_.resize(kHead + planes * columns * sizeof(float));
  for (const Source& source : sources_) {
    const TensorLayout& layout = source.layouts[key.space];
    const size_t bytes = layout.width() * sizeof(float);
    if (source.cursor->bytes() != kHead + planes * bytes)
      return Status::Failed(source.path + ": " + NameOf(key) + " has " +
                            std::to_string(source.cursor->bytes()) + " bytes instead of " +
                            std::to_string(kHead + planes * bytes) +
                            "; the snapshot is of another version");
    const std::byte* data = source.cursor->data();
    if (&source != sources_.data() && std::memcmp(whole_.data(), data, kHead) != 0)
      return Disagree(sources_[0], source, NameOf(key));
    std::memcpy(whole_.data(), data, kHead);
    for (size_t p = 0; p < planes; ++p) {
      const size_t begin = p * columns + static_cast<size_t>(layout.columns.begin);
      std::memcpy(whole_.data() + kHead + begin * sizeof(float), data + kHead + p * bytes, bytes);
    }
  }
  for (Target& target : targets_) {
    const TensorLayout& layout = target.layouts[key.space];
    const size_t bytes = layout.width() * sizeof(float);
    cut_.resize(kHead + planes * bytes);
    std::memcpy(cut_.data(), whole_.data(), kHead);
    for (size_t p = 0; p < planes; ++p) {
      const size_t begin = p * columns + static_cast<size_t>(layout.columns.begin);
      std::memcpy(cut_.data() + kHead + p * bytes, whole_.data() + kHead + begin * sizeof(float),
                  bytes);
    }
    MF_RETURN_IF_ERROR(target.store->Put(key.space, key.id, cut_.data(), cut_.size()));
  }
  return Status::Ok();
}

Status Resharder::Publish() {
  for (uint32_t i = 0; i < options_.shards; ++i) {
    SnapshotInfo info = sources_[0].info;
    info.shard = i;
    info.shards = options_.shards;
    MF_RETURN_IF_ERROR(targets_[i].store->Publish(info));
    report_.bytes += targets_[i].store->last_publish().bytes;
  }
  targets_.clear();
  const std::vector<std::string> names = FileNames(temporary_);
  for (const std::string& name : names) {
    MF_RETURN_IF_ERROR(RemoveTree(temporary_ + "/" + name + "/live"));
    MF_RETURN_IF_ERROR(SyncPath(temporary_ + "/" + name));
  }
  // Whoever finds snapshots finds what run they are of.
  const std::string description = options_.to + "/" + kDescriptionFile;
  MF_RETURN_IF_ERROR(PublishFile(description, sources_[0].info.description));
  // All are complete and durable. A server refuses to start while the temporary folder is there, so
  // no set is ever used of which some were moved and some were not.
  moving_ = true;
  MF_RETURN_IF_ERROR(SyncPath(temporary_));
  MF_RETURN_IF_ERROR(SyncPath(options_.to));
  for (const std::string& name : names)
    MF_RETURN_IF_ERROR(RenamePath(temporary_ + "/" + name, options_.to + "/" + name));
  MF_RETURN_IF_ERROR(SyncPath(options_.to));
  MF_RETURN_IF_ERROR(RemoveTree(temporary_));
  return SyncPath(options_.to);
}

}  // namespace

Result<ReshardReport> Reshard(const ReshardOptions& options, const ReshardProgress& progress) {
  return Resharder(options).Run(progress);
}

}  // namespace mf
