#include "pserver/shard/data_directory.h"

#include <sys/statvfs.h>

#include <charconv>
#include <string_view>

#include "common/base/files.h"
#include "common/base/logging.h"

namespace mf {
namespace {

constexpr uint64_t kBootCountMax = 1 << 30;   // an epoch has 32 bits for it
constexpr uint64_t kStepMax = 1'000'000'000;  // of any run

/// A file with one number; 0 if it is not there.
Result<uint64_t> ReadCount(const std::string& file, uint64_t most, const std::string& advice) {
  constexpr uint64_t kBytesMax = 64;
  if (!FileExists(file)) return uint64_t{0};
  MF_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(file, kBytesMax));
  uint64_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, count);
  if (error == std::errc() && count <= most && std::string_view(stop, end) == "\n") return count;
  return Status::Invalid(file + ": not a number from 0 to " + std::to_string(most) + advice);
}

Status Served(const std::string& path) {
  return Status::Failed(path + ": a server runs on it; stop that one first");
}

}  // namespace

Result<FileLock> LockForServer(const std::string& file, const std::string& dir, NoLocks without) {
  auto lock = FileLock::Take(file, FileLock::Kind::kExclusive, without);
  if (lock.ok()) return lock;
  if (lock.status().code() == Code::kUnavailable) {
    return Status::Failed("--data " + dir +
                          ": another server runs on it; stop that one or name another folder");
  }
  const bool no_locks = lock.status().code() == Code::kInvalid;
  return Status::Invalid("--data " + lock.status().message() +
                         (no_locks ? "" : "; name a folder that this user can write"));
}

std::string DataDirectory::PathOf(const std::string& dir, uint32_t shard, uint32_t shards) {
  return dir + "/shard-" + std::to_string(shard) + "-of-" + std::to_string(shards);
}

Result<std::unique_ptr<DataDirectory>> DataDirectory::Open(const std::string& dir, uint32_t shard,
                                                           uint32_t shards, NoLocks without) {
  std::unique_ptr<DataDirectory> data(new DataDirectory());
  data->path_ = PathOf(dir, shard, shards);
  // The lock says what is wrong with a folder that could not be made.
  const Status made = MakeFolder(data->path_);
  MF_ASSIGN_OR_RETURN(data->lock_, LockForServer(data->path_ + "/lock", data->path_, without));
  MF_RETURN_IF_ERROR(made);
  MF_RETURN_IF_ERROR(CheckFileSystem(data->path_));
  MF_RETURN_IF_ERROR(data->CountBoot());
  MF_ASSIGN_OR_RETURN(const uint64_t common,
                      ReadCount(data->path_ + "/common", kStepMax,
                                "; a server that forgets which step was common could begin anew "
                                "where it should not: restore the file or start on an empty "
                                "--data"));
  data->common_step_.store(common);
  return data;
}

Status DataDirectory::CheckFree(const std::string& path) {
  if (!FileExists(path + "/lock")) return Status::Ok();
  const auto lock = FileLock::Take(path + "/lock", FileLock::Kind::kShared, NoLocks::kRefuse);
  if (lock.status().code() == Code::kUnavailable) return Served(path);
  if (lock.status().code() != Code::kInvalid) return lock.status();
  return Status::Invalid(path +
                         ": on a file system without locks nobody knows whether a server runs "
                         "on it; stop all servers and remove the folder by hand");
}

Result<FileLock> DataDirectory::HoldFree(const std::string& path) {
  if (!FileExists(path + "/lock")) return FileLock();
  auto lock = FileLock::Take(path + "/lock", FileLock::Kind::kShared, NoLocks::kGoOn);
  if (lock.status().code() == Code::kUnavailable) return Served(path);
  return lock;
}

Status DataDirectory::KeepCommonStep(uint64_t step) {
  if (step <= common_step_.load()) return Status::Ok();
  MF_RETURN_IF_ERROR(PublishFile(path_ + "/common", std::to_string(step) + "\n"));
  common_step_.store(step);
  return Status::Ok();
}

void DataDirectory::LookForIt() {
  const bool moved = lock_.Moved(path_ + "/lock");
  if (moved == moved_.exchange(moved)) return;
  if (moved) {
    spdlog::error(
        "{}: the folder is not there any more, or is another one: training goes on, and nothing is "
        "saved; bring it back",
        path_);
  } else {
    spdlog::info("{}: the folder is back", path_);
  }
}

DataDirectory::Space DataDirectory::DiskSpace() const {
  struct statvfs disk;
  if (statvfs(path_.c_str(), &disk) != 0) return {};
  const uint64_t block = disk.f_frsize != 0 ? disk.f_frsize : disk.f_bsize;
  return {uint64_t{disk.f_bavail} * block, uint64_t{disk.f_blocks} * block};
}

Status DataDirectory::CountBoot() {
  MF_ASSIGN_OR_RETURN(const uint64_t count,
                      ReadCount(path_ + "/boot", kBootCountMax,
                                "; a server 0 that forgets its boot count could issue an epoch "
                                "twice: restore the file or start on an empty --data"));
  boot_count_ = count + 1;
  return PublishFile(path_ + "/boot", std::to_string(boot_count_) + "\n");
}

}  // namespace mf
