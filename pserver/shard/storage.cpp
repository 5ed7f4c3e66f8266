#include "pserver/shard/storage.h"

#include "common/base/files.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {
namespace {

/// The number of servers of which the run's folder holds snapshots, if it is not `shards`; 0:
/// `shards`, or none at all.
uint32_t OtherShards(const std::string& run, uint32_t shards) {
  uint32_t other = 0;
  for (const std::string& name : FileNames(run)) {
    uint32_t shard = 0, of = 0;
    if (!ParseShardName(name, &shard, &of)) continue;
    const auto reader = OpenRocksSnapshotReader(run + "/" + name);
    if (!reader.ok() || (*reader.value()).Published().empty()) continue;
    if (of == shards) return 0;
    other = of;
  }
  return other;
}

Status NeedsReshard(const std::string& run, uint32_t other, uint32_t shards) {
  return Status::Invalid(run + " holds snapshots of " + std::to_string(other) +
                         " servers, this is one of " + std::to_string(shards) +
                         "; run: pserver reshard --from " + run + " --to NEW_FOLDER --shards " +
                         std::to_string(shards));
}

/// Before runs had folders of their own, snapshots lay directly in DIR.
Status CheckLayout(const std::string& dir) {
  for (const std::string& name : FileNames(dir)) {
    uint32_t shard = 0, shards = 0;
    if (!ParseShardName(name, &shard, &shards) || StepsIn(dir + "/" + name).empty()) continue;
    return Status::Invalid(dir + "/" + name +
                           ": a snapshot of an older version of this program, which this one does "
                           "not read; export the model with that version, or name another folder");
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<RunStorage>> RunStorage::Open(const std::string& run, uint32_t shard,
                                                     uint32_t shards, NoLocks without) {
  if (const uint32_t other = OtherShards(run, shards); other != 0) {
    return NeedsReshard(run, other, shards);
  }
  std::unique_ptr<RunStorage> storage(new RunStorage());
  MF_ASSIGN_OR_RETURN(storage->folder_, DataDirectory::Open(run, shard, shards, without));
  MF_ASSIGN_OR_RETURN(storage->store_, OpenRocksSnapshots(storage->folder_->path()));
  MF_RETURN_IF_ERROR(CheckThreads(2));
  storage->writer_ = MakeThreadedSnapshotWriter(*storage->store_);
  storage->disk_ = std::make_unique<DiskThread>();
  return storage;
}

Status RunStorage::OpenInitial() {
  MF_ASSIGN_OR_RETURN(initial_, OpenRocksSnapshots(folder_->path() + "/initial"));
  return Status::Ok();
}

Status RunStorage::Describe(const RunDescription& description) const {
  const std::string run = FolderOf(folder_->path());
  const std::string text = description.Json();
  const auto there = ReadDescription(run);
  if (there.ok() && there.value() == text) return Status::Ok();
  // By way of this server's own folder: others may be writing theirs, of the same process id where
  // each is in a container.
  const std::string temporary = folder_->path() + "/tmp-description";
  MF_RETURN_IF_ERROR(WriteSynced(temporary, text));
  return PublishPath(temporary, run + "/" + kDescriptionFile);
}

void RunStorage::SetOptions(Shard::Options* options) const {
  options->boot_count = folder_->boot_count();
  options->folder = folder_.get();
  options->store = store_.get();
  options->initial = initial_.get();
  options->writer = writer_.get();
  options->disk = disk_.get();
}

Result<std::unique_ptr<Storage>> Storage::Open(const std::string& dir, uint32_t shard,
                                               uint32_t shards, NoLocks without) {
  std::unique_ptr<Storage> storage(new Storage());
  storage->without_ = without;
  storage->dir_ = dir;
  storage->shard_ = shard;
  storage->shards_ = shards;
  MF_RETURN_IF_ERROR(CheckLayout(dir));
  // Runs of this number of servers may stand beside those of another one.
  Status other;
  for (const RunFolder& run : FindRuns(dir)) {
    const uint32_t of = OtherShards(run.path, shards);
    other = of == 0 ? Status::Ok() : NeedsReshard(run.path, of, shards);
    if (other.ok()) break;
  }
  MF_RETURN_IF_ERROR(other);
  if (Status made = MakeFolder(dir); !made.ok()) {
    return Status::Invalid("--data " + made.message());
  }
  const std::string lock = DataDirectory::PathOf(dir, shard, shards) + ".lock";
  MF_ASSIGN_OR_RETURN(storage->lock_, LockForServer(lock, dir, without));
  storage->RemoveGone();
  return storage;
}

Result<std::unique_ptr<RunStorage>> Storage::OpenRun(const RunDescription& run) {
  const std::string path = dir_ + "/" + RunFolderName(run.RunId());
  const bool is_new = !FileExists(OwnFolder(path));
  Result<std::unique_ptr<RunStorage>> storage = RunStorage::Open(path, shard_, shards_, without_);
  if (storage.ok()) {
    Status described = storage.value()->Describe(run);
    if (described.ok() && !run.initial.empty()) described = storage.value()->OpenInitial();
    if (!described.ok()) storage = described;
  }
  if (!storage.ok() && is_new) {
    // What is told is why it could not be opened; an empty folder is nobody's harm.
    (void)RemoveTree(OwnFolder(path));
    (void)RemoveIfEmpty(path);
  }
  return storage;
}

void Storage::RemoveGone() const {
  const auto remove = [](const std::string& path) {
    if (const Status removed = RemoveTree(path); !removed.ok()) spdlog::warn(removed.message());
  };
  for (const std::string& name : FileNames(dir_))
    if (name.starts_with(std::string(kGonePrefix) + "run-")) remove(dir_ + "/" + name);
  for (const RunFolder& run : FindRuns(dir_)) {
    const std::string gone = GonePath(OwnFolder(run.path));
    if (!FileExists(gone)) continue;
    remove(gone);
    (void)RemoveIfEmpty(run.path);  // it only takes room
  }
}

Status Storage::CheckNoOther(const RunDescription& run) const {
  for (const StoredRun& other : Runs()) {
    const std::string folder = RunFolderName(other.id);
    if (other.newest == 0 || folder == RunFolderName(run.RunId())) continue;
    return AnotherTrainingThere(StoredDescription(dir_ + "/" + folder), run);
  }
  return Status::Ok();
}

std::string Storage::OwnFolder(const std::string& run_folder) const {
  return DataDirectory::PathOf(run_folder, shard_, shards_);
}

std::vector<StoredRun> Storage::Runs() const {
  std::vector<StoredRun> runs;
  for (const RunFolder& folder : FindRuns(dir_)) {
    if (!FileExists(OwnFolder(folder.path))) continue;
    StoredRun run = DescribeStored(folder);
    const std::vector<uint64_t> steps = StepsIn(OwnFolder(folder.path));
    run.newest = steps.empty() ? 0 : steps.back();
    runs.push_back(std::move(run));
  }
  return runs;
}

Status Storage::Delete(const std::string& id) {
  for (const StoredRun& run : Runs()) {
    if (run.id != id) continue;
    const std::string path = dir_ + "/" + RunFolderName(id);
    MF_RETURN_IF_ERROR(RemoveAtOnce(OwnFolder(path)));
    return RemoveIfEmpty(path);
  }
  return Status::Invalid("run " + id + " is not stored on this server");
}

}  // namespace mf
