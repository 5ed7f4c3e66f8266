#include "pserver/offline/merged_snapshot.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "pserver/shard/data_directory.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {
namespace {

std::string NameOf(const SnapshotKey& key) {
  return "entry " + std::to_string(key.id) + " of " + SpaceName(key.space);
}

/// The one complete set of shards in the folder.
Result<std::vector<ShardFolder>> CompleteSet(const MergedSnapshot::Options& options) {
  const std::string where = options.flag + " " + options.from;
  MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> all, FindShardFolders(options.from));
  std::map<uint32_t, std::vector<ShardFolder>> sets;
  for (const ShardFolder& folder : all) sets[folder.shards].push_back(folder);
  std::vector<ShardFolder> found;
  for (const auto& [shards, folders] : sets) {
    if (folders.size() != shards) continue;
    if (!found.empty())
      return Status::Invalid(where + ": shards of " + std::to_string(found.size()) + " and of " +
                             std::to_string(shards) + " servers are in it; move one set elsewhere");
    found = folders;
  }
  if (!found.empty()) return found;
  return Status::Invalid(where + ": only " + std::to_string(all.size()) + " of the shards of " +
                         std::to_string(all.back().shards) +
                         " servers are in it; bring all of them together");
}

Status NoCommonStep(const MergedSnapshot::Options& options, size_t shards) {
  return Status::Failed(options.flag + " " + options.from + ": no step that all " +
                        std::to_string(shards) + " shards have; nothing to read");
}

}  // namespace

Status MergedSnapshot::Disagree(const Source& a, const Source& b, const std::string& what) {
  return Status::Failed(a.path + " and " + b.path + " disagree about " + what +
                        "; they are not of one run: use another step or other folders");
}

Result<std::unique_ptr<MergedSnapshot>> MergedSnapshot::Open(const Options& options) {
  std::unique_ptr<MergedSnapshot> merged(new MergedSnapshot());
  MF_RETURN_IF_ERROR(merged->OpenSources(options));
  return merged;
}

Result<std::vector<MergedSnapshot::Published>> MergedSnapshot::List(const Options& options) {
  MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> folders, CompleteSet(options));
  std::vector<std::unique_ptr<SnapshotReader>> readers;
  for (const ShardFolder& folder : folders) {
    MF_ASSIGN_OR_RETURN(readers.emplace_back(), OpenRocksSnapshotReader(folder.path));
  }
  std::vector<Published> list;
  for (const uint64_t step : CommonSteps(readers)) {
    Published& one = list.emplace_back(Published{.step = step});
    for (const auto& reader : readers) {
      const Result<SnapshotSummary> summary = reader->Summary(step);
      if (!summary.ok()) continue;  // who opens it hears why
      one.unix_seconds = std::max(one.unix_seconds, summary.value().published_unix);
      one.run_id = summary.value().info.run_id;
    }
  }
  if (list.empty()) return NoCommonStep(options, folders.size());
  return list;
}

Status MergedSnapshot::OpenSources(const Options& options) {
  MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> folders, CompleteSet(options));
  std::vector<std::unique_ptr<SnapshotReader>> readers;
  for (const ShardFolder& folder : folders) {
    Source& source = sources_.emplace_back();
    if (options.keep_off) {
      MF_ASSIGN_OR_RETURN(source.lock, DataDirectory::HoldFree(folder.path));
    }
    MF_ASSIGN_OR_RETURN(auto reader, OpenRocksSnapshotReader(folder.path));
    readers.push_back(std::move(reader));
  }
  const std::vector<uint64_t> common = CommonSteps(readers);
  if (common.empty()) return NoCommonStep(options, folders.size());
  step_ = options.step != 0 ? options.step : common.back();
  if (!std::binary_search(common.begin(), common.end(), step_))
    return Status::Invalid(options.flag + " " + options.from + ": not all shards have step " +
                           std::to_string(step_) + "; the newest that all have is " +
                           std::to_string(common.back()));
  for (size_t i = 0; i < folders.size(); ++i) {
    Source& source = sources_[i];
    source.path = StepPath(folders[i].path, step_);
    MF_ASSIGN_OR_RETURN(source.info, readers[i]->Info(step_));
    if (source.info.run_id != sources_[0].info.run_id)
      return Disagree(sources_[0], source, "the run");
    if (source.info.applied != sources_[0].info.applied || source.info.step != step_)
      return Disagree(sources_[0], source, "the number of applied steps");
    if (source.info.shard != folders[i].shard || source.info.shards != folders[i].shards)
      return Status::Failed(source.path + ": is of shard " + std::to_string(source.info.shard) +
                            " of " + std::to_string(source.info.shards) +
                            "; put every folder back under its own name");
  }
  MF_ASSIGN_OR_RETURN(run_, RunDescription::FromJson(sources_[0].info.description));
  MF_RETURN_IF_ERROR(CheckShards(run_, static_cast<int64_t>(sources_.size())));
  for (const TensorSpec& spec : run_.tensors) {
    formats_.push_back(RowFormat::Whole(spec, run_.rules.column_blocks));
  }
  for (size_t i = 0; i < folders.size(); ++i) {
    for (const TensorSpec& spec : run_.tensors) {
      sources_[i].layouts.push_back(
          LayoutOf(spec, run_.rules.column_blocks, folders[i].shard, folders[i].shards));
      sources_[i].formats.emplace_back(spec, sources_[i].layouts.back().share);
    }
    MF_ASSIGN_OR_RETURN(sources_[i].cursor, readers[i]->Open(step_));
  }
  for (const auto& reader : readers) {
    MF_ASSIGN_OR_RETURN(const SnapshotSummary summary, reader->Summary(step_));
    for (const SpaceCount& space : summary.spaces) {
      if (space.space >= run_.tensors.size()) continue;
      // Of keyed tensors each has rows of its own, of the others all have the same ones.
      const bool own = run_.tensors[space.space].kind == TensorKind::kKeyed;
      if (own || reader == readers[0]) rows_ += space.entries;
    }
  }
  return Status::Ok();
}

bool MergedSnapshot::is_row() const { return key_.space < kFirstWaitingSpace; }

std::optional<uint32_t> MergedSnapshot::tensor() const {
  if (key_.space >= kFirstStepSpace) return std::nullopt;
  return is_row() ? key_.space : key_.space - kFirstWaitingSpace;
}

Result<bool> MergedSnapshot::Next() {
  if (std::exchange(begun_, true)) {
    for (Source& source : sources_)
      if (source.At(key_)) source.cursor->Next();
  }
  const Source* lowest = nullptr;
  for (const Source& source : sources_) {
    if (!source.cursor->Valid()) {
      MF_RETURN_IF_ERROR(source.cursor->status());
      continue;
    }
    const SnapshotKey key{source.cursor->space(), source.cursor->id()};
    if (lowest == nullptr || key < key_) {
      lowest = &source;
      key_ = key;
    }
  }
  if (lowest == nullptr) return false;
  // Records are kept by shard 0 alone, everything else by all.
  if (key_.space == kRecordSpace) {
    if (lowest != sources_.data())
      return Status::Failed(lowest->path + ": has records, which only shard 0 keeps; it is not " +
                            "a snapshot of this version");
  } else {
    MF_RETURN_IF_ERROR(CheckKey(*lowest));
    const std::optional<uint32_t> of = tensor();
    for (const Source& source : sources_)
      if ((!of.has_value() || source.Has(*of, key_.id)) && !source.At(key_))
        return Disagree(*lowest, source, NameOf(key_));
  }
  MF_RETURN_IF_ERROR(is_row() ? TakeRow(*lowest) : TakeOther(*lowest));
  return true;
}

Status MergedSnapshot::TakeOther(const Source& first) {
  const SnapshotCursor& cursor = *first.cursor;
  for (const Source& source : sources_) {
    if (!source.At(key_)) continue;
    if (source.cursor->bytes() != cursor.bytes() ||
        std::memcmp(source.cursor->data(), cursor.data(), cursor.bytes()) != 0) {
      return Disagree(first, source, NameOf(key_));
    }
  }
  entry_.assign(cursor.data(), cursor.data() + cursor.bytes());
  return Status::Ok();
}

Status MergedSnapshot::CheckKey(const Source& source) const {
  const std::optional<uint32_t> of = tensor();
  if (!of.has_value() || (*of < run_.tensors.size() && source.Has(*of, key_.id)))
    return Status::Ok();
  return Status::Failed(source.path + ": " + NameOf(key_) +
                        " is not of its run; the snapshot is of another version");
}

Status MergedSnapshot::TakeRow(const Source& first) {
  const RowFormat& whole = formats_[key_.space];
  entry_.resize(whole.bytes());
  for (const Source& source : sources_) {
    if (!source.Has(key_.space, key_.id)) continue;
    const RowFormat& part = source.formats[key_.space];
    const size_t due = part.bytes();
    if (source.cursor->bytes() != due)
      return Status::Failed(source.path + ": " + NameOf(key_) + " has " +
                            std::to_string(source.cursor->bytes()) + " bytes instead of " +
                            std::to_string(due) + "; the snapshot is of another version");
    const std::byte* data = source.cursor->data();
    if (std::memcmp(first.cursor->data(), data, sizeof(uint32_t)) != 0)  // updated_at
      return Disagree(first, source, NameOf(key_));
    part.PutInto(whole, data, entry_.data());
  }
  return Status::Ok();
}

}  // namespace mf
