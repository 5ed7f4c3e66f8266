// The folder that `worker prepare` writes: whole, or unfinished and known as such. While one of its
// shards has the name of an unfinished one (worker/data/token_shard.h) no command reads it, and the
// next `worker prepare` begins it anew.
#pragma once

#include <memory>
#include <string>

#include "common/base/file_lock.h"
#include "common/base/status.h"

namespace mf {

class ShardFolder {
 public:
  /// Makes it if it is not there; takes away what an earlier process has left unfinished. kInvalid
  /// if something else is in it, or another process writes it.
  static Result<std::unique_ptr<ShardFolder>> Open(const std::string& path);
  /// Takes everything away again, unless it was finished.
  ~ShardFolder();
  ShardFolder(const ShardFolder&) = delete;
  ShardFolder& operator=(const ShardFolder&) = delete;

  const std::string& path() const { return path_; }
  void SetFinished() { finished_ = true; }

 private:
  ShardFolder(std::string path, FileLock lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  const std::string path_;
  FileLock lock_;
  bool finished_ = false;
};

}  // namespace mf
