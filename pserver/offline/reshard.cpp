#include "pserver/offline/reshard.h"

#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <vector>

#include "common/run/run_description.h"
#include "pserver/offline/merged_snapshot.h"
#include "pserver/shard/data_directory.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "pserver/table/layout.h"
#include "pserver/table/row_format.h"

namespace mf {
namespace {

struct Target {
  std::unique_ptr<SnapshotStore> store;
  std::vector<TensorLayout> layouts;
  std::vector<RowFormat> formats;  // of its part of a row, by tensor
};

class Resharder {
 public:
  explicit Resharder(const ReshardOptions& options) : options_(options) {}

  Result<ReshardReport> Run(const ReshardProgress& progress) {
    MF_ASSIGN_OR_RETURN(
        source_,
        MergedSnapshot::Open(
            {.from = options_.from, .flag = "--from", .step = options_.step, .keep_off = true}));
    report_.step = source_->step();
    report_.from_shards = source_->shards();
    MF_RETURN_IF_ERROR(CheckShards(source_->run(), options_.shards));
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
  Status OpenTargets();
  Status Copy(const ReshardProgress& progress);
  Status CopyOther();
  Status CopyRow();
  Status Publish();
  std::vector<TensorLayout> Layouts(uint32_t shard, uint32_t shards) const;

  const ReshardOptions options_;
  std::string temporary_;
  bool moving_ = false;
  ReshardReport report_;
  std::unique_ptr<MergedSnapshot> source_;
  std::vector<Target> targets_;
  std::vector<std::byte> cut_;  // a row of a target
};

std::vector<TensorLayout> Resharder::Layouts(uint32_t shard, uint32_t shards) const {
  std::vector<TensorLayout> layouts;
  for (const TensorSpec& spec : source_->run().tensors)
    layouts.push_back(LayoutOf(spec, source_->run().rules.column_blocks, shard, shards));
  return layouts;
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
    for (const TensorLayout& layout : target.layouts)
      target.formats.emplace_back(layout.spec, layout.share);
    targets_.push_back(std::move(target));
  }
  return Status::Ok();
}

Status Resharder::Copy(const ReshardProgress& progress) {
  while (true) {
    MF_ASSIGN_OR_RETURN(const bool more, source_->Next());
    if (!more) return Status::Ok();
    MF_RETURN_IF_ERROR(source_->is_row() ? CopyRow() : CopyOther());
    if (source_->is_row() && ++report_.rows % 256 == 0) progress(report_.rows, source_->rows());
  }
}

Status Resharder::CopyOther() {
  const SnapshotKey& key = source_->key();
  const std::optional<uint32_t> tensor = source_->tensor();
  for (Target& target : targets_) {
    if (tensor.has_value() && !target.layouts[*tensor].Has(key.id)) continue;
    MF_RETURN_IF_ERROR(target.store->Put(key.space, key.id, source_->data(), source_->bytes()));
    if (key.space == kRecordSpace) break;  // kept by shard 0 alone
  }
  return Status::Ok();
}

Status Resharder::CopyRow() {
  const SnapshotKey& key = source_->key();
  for (Target& target : targets_) {
    if (!target.layouts[key.space].Has(key.id)) continue;
    const RowFormat& part = target.formats[key.space];
    cut_.resize(part.bytes());
    part.Cut(source_->format(key.space), source_->data(), cut_.data());
    MF_RETURN_IF_ERROR(target.store->Put(key.space, key.id, cut_.data(), cut_.size()));
  }
  return Status::Ok();
}

Status Resharder::Publish() {
  for (uint32_t i = 0; i < options_.shards; ++i) {
    SnapshotInfo info = source_->info();
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
  MF_RETURN_IF_ERROR(PublishFile(description, source_->info().description));
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
