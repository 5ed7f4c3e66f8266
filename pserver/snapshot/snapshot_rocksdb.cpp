#include "pserver/snapshot/snapshot_rocksdb.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <new>
#include <optional>

#include "common/base/machine_limits.h"
#include "common/base/mutex.h"
#include "pserver/snapshot/snapshot_digest.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_increment.h"
#include "pserver/snapshot/snapshot_key_set.h"
#include "pserver/snapshot/snapshot_live.h"
#include "pserver/snapshot/snapshot_reader.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class RocksSnapshots : public SnapshotStore {
 public:
  RocksSnapshots(const std::string& folder, const RocksSnapshotOptions& options)
      : folder_(folder),
        options_(options),
        live_(folder + "/live"),
        increment_(folder + "/tmp-increment") {}
  ~RocksSnapshots() override { Abandon(); }

  Status Open();

  std::vector<uint64_t> Published() const override;
  Result<SnapshotSummary> Summary(uint64_t step) const override {
    return SummaryOfSnapshot(StepPath(folder_, step));
  }
  Result<SnapshotInfo> Info(uint64_t step) const override;
  Status VerifyFiles(uint64_t step) const override {
    return VerifySnapshotFiles(StepPath(folder_, step));
  }
  Result<std::unique_ptr<SnapshotCursor>> Open(uint64_t step) const override {
    return OpenSnapshotCursor(StepPath(folder_, step));
  }
  Result<SnapshotInfo> Read(uint64_t step, const SnapshotVisit& visit) override;

  Status Begin() override;
  Status Put(uint32_t space, uint64_t id, const void* data, size_t bytes) override;
  Status Remove(uint32_t space, uint64_t id) override;
  Status Publish(const SnapshotInfo& info) override;
  void Abandon() override;

  Status Delete(uint64_t step) override;
  Status Reset(uint64_t step) override;
  Status Quarantine(uint64_t step) override;
  PublishStats last_publish() const override {
    MutexLock lock(mutex_);
    return stats_;
  }
  void WaitForMerge() override { (void)live_.WaitForMerge(); }  // the log has how it went

 private:
  bool IsPublished(uint64_t step) const;
  /// Renames a published step and takes it off the list.
  Status TakeAway(uint64_t step, const std::string& name);
  /// Removes what a publish could neither finish nor take back.
  Status RemoveStrays();
  Status EnsureLive();
  Status EnsureKeys();
  /// The increments together are `patience` times as large or as many as they should become.
  bool MergeIsDue(double patience) const;
  /// The increment holds all rows that there are: it becomes the live database.
  Status Replace();
  Status PublishIncrement(const SnapshotInfo& info);
  Status WriteDigest(const SnapshotInfo& info, const std::string& folder, uint64_t* bytes);

  const std::string folder_;
  const RocksSnapshotOptions options_;

  // Of whoever has the increment, and between increments of the server's thread.
  LiveDatabase live_;
  Increment increment_;
  std::optional<uint64_t> begun_;  // merged bytes at Begin(); no value: no increment
  Clock::time_point begun_at_;
  Status failed_;                   // of the increment
  uint64_t base_ = 0;               // step that increments stand on; 0: nothing
  SnapshotKeySet keys_;             // of the published base
  SnapshotKeySet added_, removed_;  // by the increment
  bool keys_known_ = true;
  bool emptied_ = false;  // the live database was begun anew for an increment not yet published
  // Keys seen by the last complete Read(): usually of the step that Reset() names.
  SnapshotKeySet read_keys_;
  uint64_t read_step_ = 0;
  uint64_t merged_before_ = 0;  // bytes merged until the last publish

  // While published steps are renamed: until then one that is off the list looks like a stray one.
  Mutex names_mutex_ MF_ACQUIRED_BEFORE(mutex_);
  mutable Mutex mutex_;
  std::vector<uint64_t> published_ MF_GUARDED_BY(mutex_);
  PublishStats stats_ MF_GUARDED_BY(mutex_);
};

Status RocksSnapshots::Open() {
  const auto invalid = [&](const Status& status) {
    return Status::Invalid(status.message() + "; name a folder that this user can write");
  };
  const std::filesystem::path parent =
      std::filesystem::path(folder_).lexically_normal().parent_path();
  if (const std::string other = (parent / kReshardFolder).string(); FileExists(other)) {
    return Status::Invalid(other + ": a reshard into this folder runs or was cut off; if none " +
                           "runs, remove it and the shards beside it and reshard again");
  }
  if (const Status made = MakeFolder(folder_); !made.ok()) return invalid(made);
  const std::vector<uint64_t> published = StepsIn(folder_);
  for (const uint64_t step : published) {
    // What is damaged is dealt with by whoever reads it. Of another version: no run could go on,
    // and nothing beside it is ours to remove.
    if (const Status read = Summary(step).status(); read.code() == Code::kInvalid) return read;
  }
  for (const std::string& name : FileNames(folder_)) {
    if (!name.starts_with("tmp-") && !name.starts_with(kGonePrefix)) continue;
    if (const Status removed = RemoveTree(folder_ + "/" + name); !removed.ok())
      return invalid(removed);
  }
  if (const Status status = live_.Remove(); !status.ok()) return invalid(status);
  if (const Status status = MakeScratchFolder(live_.folder()); !status.ok()) return invalid(status);
  MutexLock lock(mutex_);
  published_ = published;
  return Status::Ok();
}

std::vector<uint64_t> RocksSnapshots::Published() const {
  MutexLock lock(mutex_);
  return published_;
}

bool RocksSnapshots::IsPublished(uint64_t step) const {
  MutexLock lock(mutex_);
  return std::binary_search(published_.begin(), published_.end(), step);
}

Result<SnapshotInfo> RocksSnapshots::Info(uint64_t step) const {
  MF_ASSIGN_OR_RETURN(const SnapshotSummary summary, Summary(step));
  return summary.info;
}

Result<SnapshotInfo> RocksSnapshots::Read(uint64_t step, const SnapshotVisit& visit) {
  read_step_ = 0;
  read_keys_.Clear();
  SnapshotKeySet keys;
  MF_ASSIGN_OR_RETURN(SnapshotInfo info, ReadSnapshot(StepPath(folder_, step),
                                                      [&](uint32_t space, uint64_t id,
                                                          const std::byte* data, size_t bytes) {
                                                        keys.Add(space, id, bytes);
                                                        return visit(space, id, data, bytes);
                                                      }));
  if (!keys_known_ && step == base_) {
    keys_ = std::move(keys);
    keys_known_ = true;
  } else {
    read_keys_ = std::move(keys);
    read_step_ = step;
  }
  return info;
}

Status RocksSnapshots::RemoveStrays() {
  MutexLock naming(names_mutex_);
  for (const uint64_t step : StepsIn(folder_)) {
    if (IsPublished(step)) continue;
    const std::string gone = folder_ + "/gone-stray-" + std::to_string(step);
    MF_RETURN_IF_ERROR(RemoveTree(gone));
    MF_RETURN_IF_ERROR(RenamePath(StepPath(folder_, step), gone));
    MF_RETURN_IF_ERROR(RemoveTree(gone));
  }
  return Status::Ok();
}

Status RocksSnapshots::EnsureLive() {
  if (live_.usable()) return Status::Ok();
  if (base_ == 0 || IsPublished(base_)) {
    emptied_ = true;  // until it is whole again
    MF_RETURN_IF_ERROR(live_.Rebuild(base_ == 0 ? "" : StepPath(folder_, base_)));
    emptied_ = false;
    return Status::Ok();
  }
  // The snapshot it stood on is deleted; the files of the live database still are what it was,
  // maybe with some of an increment.
  if (emptied_) {
    return Status::Failed(live_.folder() + ": " + StepPath(folder_, base_) +
                          " that it is made from was deleted; roll back to another snapshot");
  }
  keys_known_ = false;
  return live_.Reopen();
}

Status RocksSnapshots::EnsureKeys() {
  if (keys_known_) return Status::Ok();
  keys_.Clear();
  MF_RETURN_IF_ERROR(live_.Visit(0, [&](uint32_t space, uint64_t id, std::string_view value) {
    keys_.Add(space, id, value.size());
    return Status::Ok();
  }));
  keys_known_ = true;
  return Status::Ok();
}

Status RocksSnapshots::Begin() {
  Abandon();
  MF_RETURN_IF_ERROR(RemoveStrays());
  MF_RETURN_IF_ERROR(EnsureLive());
  MF_RETURN_IF_ERROR(EnsureKeys());
  read_keys_.Clear();
  read_step_ = 0;
  begun_at_ = Clock::now();
  MF_RETURN_IF_ERROR(increment_.Begin(std::max(options_.file_bytes, live_.bytes() / 16)));
  begun_ = live_.merged_bytes();
  return Status::Ok();
}

Status RocksSnapshots::Put(uint32_t space, uint64_t id, const void* data, size_t bytes) {
  if (!begun_) return Status::Failed(folder_ + ": Put() without Begin(): a bug of this program");
  MF_RETURN_IF_ERROR(failed_);
  const bool known = keys_.Has(space, id);
  if (!keys_.Fits(space, bytes) || (!known && !added_.Add(space, id, bytes))) {
    failed_ = Status::Failed(folder_ + ": an entry of " + SpaceName(space) + " has " +
                             std::to_string(bytes) +
                             " bytes, others of it have not: a bug of this program");
  } else {
    failed_ = increment_.Put(space, id, data, bytes);
  }
  return failed_;
}

Status RocksSnapshots::Remove(uint32_t space, uint64_t id) {
  if (!begun_) return Status::Failed(folder_ + ": Remove() without Begin(): a bug of this program");
  MF_RETURN_IF_ERROR(failed_);
  if (!keys_.Has(space, id)) return Status::Ok();
  removed_.Add(space, id, keys_.EntryBytes(space));
  return failed_ = increment_.Remove(space, id);
}

void RocksSnapshots::Abandon() {
  begun_.reset();
  failed_ = Status::Ok();
  added_.Clear();
  removed_.Clear();
  increment_.Drop();
}

Status RocksSnapshots::Publish(const SnapshotInfo& info) {
  if (!begun_)
    return Status::Failed(folder_ + ": Publish() without Begin(): a bug of this program");
  MF_RETURN_IF_ERROR(failed_);
  if (info.step == 0 || IsPublished(info.step) || FileExists(StepPath(folder_, info.step))) {
    return failed_ = Status::Failed(StepPath(folder_, info.step) +
                                    ": cannot be published again; delete it first");
  }
  try {
    failed_ = PublishIncrement(info);
  } catch (const std::bad_alloc&) {
    failed_ = Status::Failed("out of memory");  // short: takes none itself
    keys_known_ = false;                        // some of the increment's may be among them
  }
  if (!failed_.ok()) {
    live_.Invalidate();
    // What a failed attempt left would only fill the disk; the next attempt removes it again.
    for (const std::string& name : FileNames(folder_)) {
      if (name.starts_with("tmp-step-") && !RemoveTree(folder_ + "/" + name).ok()) break;
    }
    return failed_;
  }
  Abandon();
  GiveBackMemory();
  if (MergeIsDue(1.0)) live_.StartMerge();
  return Status::Ok();
}

bool RocksSnapshots::MergeIsDue(double patience) const {
  const double runs = live_.increments(), base = static_cast<double>(live_.base_bytes());
  return runs >= patience * options_.merge_increments ||
         (base > 0 &&
          static_cast<double>(live_.increment_bytes()) >= patience * options_.merge_ratio * base);
}

Status RocksSnapshots::Replace() {
  // Rows are replaced as a whole; keys that wait and the few bytes of every step come along.
  std::vector<Increment::Entry> kept;
  MF_RETURN_IF_ERROR(
      live_.Visit(kFirstWaitingSpace, [&](uint32_t space, uint64_t id, std::string_view value) {
        kept.push_back({{space, id}, std::string(value)});
        return Status::Ok();
      }));
  increment_.Keep(std::move(kept));
  emptied_ = true;
  return live_.Rebuild("");
}

Status RocksSnapshots::PublishIncrement(const SnapshotInfo& info) {
  const uint64_t rows = increment_.entries();
  const bool replaces = increment_.rows() > 0 && live_.bytes() > 0 &&
                        increment_.rows() == keys_.EntriesBelow(kFirstWaitingSpace) +
                                                 added_.EntriesBelow(kFirstWaitingSpace) -
                                                 removed_.EntriesBelow(kFirstWaitingSpace) &&
                        (base_ == 0 || IsPublished(base_));
  if (replaces) MF_RETURN_IF_ERROR(Replace());
  MF_RETURN_IF_ERROR(increment_.Finish());
  MF_RETURN_IF_ERROR(live_.Ingest(increment_.tables()));
  // A merge is kept by the next publish only. Where the process ends or the disk fails before that
  // again and again, it is done here: runs and bytes stay bounded whatever happens.
  if (MergeIsDue(1.5)) {
    live_.StartMerge();
    MF_RETURN_IF_ERROR(live_.WaitForMerge());
  }

  const std::string path = StepPath(folder_, info.step);
  const std::string temporary = folder_ + "/tmp-" + path.substr(folder_.size() + 1);
  MF_RETURN_IF_ERROR(RemoveTree(temporary));
  MF_RETURN_IF_ERROR(RemoveTree(temporary + ".tmp"));  // RocksDB's own
  MF_RETURN_IF_ERROR(live_.Checkpoint(temporary));
  uint64_t small_bytes = 0;
  MF_RETURN_IF_ERROR(WriteDigest(info, temporary, &small_bytes));
  for (const std::string& name : FileNames(temporary))
    MF_RETURN_IF_ERROR(SyncPath(temporary + "/" + name));
  MF_RETURN_IF_ERROR(SyncPath(temporary));
  {
    // Once it has its name nothing may end for want of memory but what Publish() knows of.
    MutexLock lock(mutex_);
    published_.reserve(published_.size() + 1);
  }
  MF_RETURN_IF_ERROR(RenamePath(temporary, path));
  if (const Status synced = SyncPath(folder_); !synced.ok()) {
    // Nobody knows whether the name would survive a crash: it must not be counted on. If it cannot
    // be taken back either, it is a stray one: complete and right, but not on the list.
    (void)RenamePath(path, temporary);
    return synced;
  }

  keys_.Merge(std::move(added_));
  keys_.Subtract(removed_);
  base_ = info.step;
  emptied_ = false;
  const uint64_t merged = live_.merged_bytes();
  MutexLock lock(mutex_);
  published_.insert(std::upper_bound(published_.begin(), published_.end(), info.step), info.step);
  stats_ = {.rows = rows,
            .bytes = increment_.bytes() + small_bytes,
            .merged_bytes = merged - merged_before_,
            .seconds = SecondsSince(begun_at_)};
  merged_before_ = merged;
  return Status::Ok();
}

Status RocksSnapshots::WriteDigest(const SnapshotInfo& info, const std::string& folder,
                                   uint64_t* bytes) {
  SnapshotDigest digest;
  digest.info = info;
  digest.published_unix = std::chrono::duration_cast<std::chrono::seconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count();
  digest.increments = live_.increments();
  digest.spaces = keys_.CountsWith(added_, removed_);
  for (const std::string& name : FileNames(folder)) {
    MF_ASSIGN_OR_RETURN(DigestFile file, live_.Describe(folder, name));
    if (!file.is_table()) *bytes += file.bytes;
    digest.files.push_back(std::move(file));
  }
  const std::string text = EncodeDigest(digest);
  *bytes += text.size();
  return WriteSynced(folder + "/" + kDigestName, text);
}

Status RocksSnapshots::TakeAway(uint64_t step, const std::string& name) {
  const auto place = [&]() MF_REQUIRES(mutex_) {
    return std::lower_bound(published_.begin(), published_.end(), step);
  };
  MutexLock naming(names_mutex_);
  {
    // Off the list first: nobody is told of what goes, or waits for the disk to look at the list.
    MutexLock lock(mutex_);
    const auto found = place();
    if (found == published_.end() || *found != step)
      return Status::Failed(StepPath(folder_, step) + ": no such snapshot; list the folder");
    published_.erase(found);
  }
  const Status renamed = RenamePath(StepPath(folder_, step), folder_ + "/" + name);
  if (renamed.ok()) return renamed;
  if (!FileExists(StepPath(folder_, step))) {
    spdlog::warn("{}: somebody else has removed it", StepPath(folder_, step));
    return Status::Ok();
  }
  MutexLock lock(mutex_);
  published_.insert(place(), step);
  return renamed;
}

Status RocksSnapshots::Delete(uint64_t step) {
  std::string name = kGonePrefix + std::to_string(step);
  while (FileExists(folder_ + "/" + name)) name += "x";
  MF_RETURN_IF_ERROR(TakeAway(step, name));
  MF_RETURN_IF_ERROR(SyncPath(folder_));
  // It is deleted; what is left of it is removed at the next start at the latest.
  if (const Status removed = RemoveTree(folder_ + "/" + name); !removed.ok())
    spdlog::warn("{}", removed.message());
  return Status::Ok();
}

Status RocksSnapshots::Quarantine(uint64_t step) {
  std::string name = "damaged-step-" + std::to_string(step);
  while (FileExists(folder_ + "/" + name)) name += "-again";
  MF_RETURN_IF_ERROR(TakeAway(step, name));
  return SyncPath(folder_);
}

Status RocksSnapshots::Reset(uint64_t step) {
  Abandon();
  if (step != 0 && !IsPublished(step))
    return Status::Failed(StepPath(folder_, step) + ": no such snapshot; list the folder");
  live_.Invalidate();
  base_ = step;
  keys_.Clear();
  keys_known_ = step == 0;
  if (step != 0 && read_step_ == step) {
    keys_ = std::move(read_keys_);
    keys_known_ = true;
  }
  read_keys_.Clear();
  read_step_ = 0;
  // Going back must not fail for want of a few bytes on a full disk: Begin() tries again.
  if (!RemoveStrays().ok() || !EnsureLive().ok()) live_.Invalidate();
  GiveBackMemory();  // of what was there before, and of reading
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<SnapshotStore>> OpenRocksSnapshots(const std::string& folder,
                                                          const RocksSnapshotOptions& options) {
  auto store = std::make_unique<RocksSnapshots>(folder, options);
  MF_RETURN_IF_ERROR(store->Open());
  return std::unique_ptr<SnapshotStore>(std::move(store));
}

}  // namespace mf
