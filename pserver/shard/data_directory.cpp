#include "pserver/shard/data_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/base/files.h"

namespace mf {
namespace {

Status Broken(const std::string& path, const char* what) {
  return Status::Invalid("--data " + path + ": " + what + ": " + std::strerror(errno) +
                         "; name a folder that this user can write");
}

}  // namespace

std::string DataDirectory::PathOf(const std::string& dir, uint32_t shard, uint32_t shards) {
  return dir + "/shard-" + std::to_string(shard) + "-of-" + std::to_string(shards);
}

Result<std::unique_ptr<DataDirectory>> DataDirectory::Open(const std::string& dir, uint32_t shard,
                                                           uint32_t shards) {
  std::unique_ptr<DataDirectory> data(new DataDirectory());
  data->path_ = PathOf(dir, shard, shards);
  std::error_code error;
  std::filesystem::create_directories(data->path_, error);
  const std::string lock = data->path_ + "/lock";
  data->lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (data->lock_ < 0) return Broken(data->path_, "cannot write");
  if (flock(data->lock_, LOCK_EX | LOCK_NB) != 0) {
    return Status::Failed("--data " + data->path_ +
                          ": another server runs on it; stop that one or name "
                          "another folder");
  }
  MF_RETURN_IF_ERROR(data->CountBoot());
  std::ifstream(data->path_ + "/common") >> data->common_step_;
  return data;
}

Status DataDirectory::CheckFree(const std::string& path) {
  const int lock = open((path + "/lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (lock < 0) return Status::Ok();  // never served from: a copy
  const bool free = flock(lock, LOCK_SH | LOCK_NB) == 0;
  close(lock);
  if (free) return Status::Ok();
  return Status::Failed(path + ": a server runs on it; stop that one first");
}

Status DataDirectory::KeepCommonStep(uint64_t step) {
  if (step <= common_step_) return Status::Ok();
  MF_RETURN_IF_ERROR(PublishFile(path_ + "/common", std::to_string(step) + "\n"));
  common_step_ = step;
  return Status::Ok();
}

DataDirectory::Space DataDirectory::DiskSpace() const {
  struct statvfs disk;
  if (statvfs(path_.c_str(), &disk) != 0) return {};
  return {uint64_t{disk.f_bavail} * disk.f_frsize, uint64_t{disk.f_blocks} * disk.f_frsize};
}

DataDirectory::~DataDirectory() {
  if (lock_ >= 0) close(lock_);
}

Status DataDirectory::CountBoot() {
  const std::string file = path_ + "/boot";
  uint64_t count = 0;
  if (FileExists(file)) {
    std::ifstream in(file);
    if (!(in >> count)) {
      return Status::Invalid(
          file +
          ": not a number; a server 0 that forgets its boot count could issue an "
          "epoch twice: restore the file or start on an empty --data");
    }
  }
  boot_count_ = count + 1;
  return PublishFile(path_ + "/boot", std::to_string(boot_count_) + "\n");
}

}  // namespace mf
