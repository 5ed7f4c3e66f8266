#include "worker/prepare/text_cache.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "common/base/digest.h"
#include "common/base/file_lock.h"
#include "common/base/files.h"
#include "common/base/logging.h"
#include "worker/data/checked_file.h"
#include "worker/data/token_shard.h"
#include "worker/prepare/prepare.h"
#include "worker/prepare/text_pieces.h"

namespace mf {
namespace {

constexpr auto kBetweenLooks = std::chrono::milliseconds(200);
constexpr auto kBetweenWords = std::chrono::seconds(10);

bool IsPlainText(const std::string& path) {
  const auto ends = [&](const char* suffix) { return path.ends_with(suffix); };
  return !IsJsonLines(path) && !ends(".bin") && !ends(".gz") && !ends(".zst");
}

/// The text of some files, by all its bytes, and that it has not changed since.
class KnownText {
 public:
  static Result<KnownText> Read(const std::vector<std::string>& paths) {
    KnownText text;
    for (const std::string& path : paths) {
      MF_ASSIGN_OR_RETURN(auto file, CheckedFile::Open(path, /*held=*/false));
      MF_RETURN_IF_ERROR(file->ReadAll(/*digest=*/true, [](const char*, size_t) {}));
      text.digests_ += file->Digest() + "\n";
      text.files_.push_back(std::move(file));
    }
    return text;
  }
  /// One line a file.
  const std::string& digests() const { return digests_; }
  Status CheckUnchanged() const {
    for (const auto& file : files_) {
      MF_ASSIGN_OR_RETURN(const InputFile now, InputFile::Open(file->path()));
      MF_ASSIGN_OR_RETURN(const FileIdentity identity, now.Identity());
      if (identity.SameContent(file->identity())) continue;
      return Status::Failed(file->path() +
                            ": was changed while its ids were made; start again when it is whole");
    }
    return Status::Ok();
  }

 private:
  std::string digests_;
  std::vector<std::unique_ptr<CheckedFile>> files_;
};

/// All shards have their names (shard_folder.h).
bool IsWhole(const std::string& folder) {
  const std::vector<std::string> names = FileNames(folder);
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name.ends_with(kShardSuffix); }) &&
         std::none_of(names.begin(), names.end(), IsUnfinishedShard);
}

/// Of one folder of the cache, once nobody else has it.
Result<FileLock> AwaitLock(const std::string& path) {
  for (bool said = false;; said = true) {
    Result<FileLock> lock = FileLock::TakeFolder(path);
    if (lock.status().code() != Code::kUnavailable) return lock;
    if (!said) spdlog::info("{}: waits for another worker, which makes ids of the same text", path);
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

std::string CacheFolder(const std::string& otherwise) {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  std::string folder;
  if (cache != nullptr && *cache == '/') {
    folder = cache;
  } else if (home != nullptr && *home == '/') {
    folder = std::string(home) + "/.cache";
  }
  if (folder.empty()) return otherwise;
  folder += "/memoryformer";
  return MakeFolder(folder).ok() && access(folder.c_str(), W_OK) == 0 ? folder : otherwise;
}

}  // namespace

Result<std::string> TextCache::Find(const std::string& path,
                                    const std::vector<OwnPlace>& own) const {
  if (tokenizer_.content().empty()) return path;
  MF_ASSIGN_OR_RETURN(const DataFiles files, FindDataFiles(path, own));
  if (!std::all_of(files.paths.begin(), files.paths.end(), IsPlainText)) return path;
  uint64_t bytes = 0;
  for (const std::string& file : files.paths) bytes += FileBytes(file);
  if (bytes < kCachedTextBytes) return path;
  return Make(files.paths, bytes, path);
}

Result<std::string> TextCache::Make(const std::vector<std::string>& paths, uint64_t bytes,
                                    const std::string& name) const {
  MF_ASSIGN_OR_RETURN(const KnownText text, KnownText::Read(paths));
  const std::string key = Sha256Hex("ids of text, 1\n" + tokenizer_.Digest() +
                                    (binary_ ? " of any bytes\n" : "\n") + text.digests());
  const std::string folder = CacheFolder(otherwise_);
  const std::string made = folder + "/ids-" + key, lock_path = made + ".lock";
  MF_RETURN_IF_ERROR(MakeFolder(folder));
  MF_ASSIGN_OR_RETURN(FileLock lock, AwaitLock(lock_path));
  Status status;
  if (!IsWhole(made)) {
    spdlog::info("{}: makes ids of {} MiB of text, once for all workers of this machine: {}", name,
                 bytes >> 20, made);
    ThreadPool pool(threads_);
    auto said = std::chrono::steady_clock::now();
    const auto progress = [&](uint64_t read, uint64_t of, const PrepareReport&) {
      const auto now = std::chrono::steady_clock::now();
      if (now - said < kBetweenWords) return Status::Ok();
      said = now;
      spdlog::info("{}: {}% are ids", name, 100 * read / std::max<uint64_t>(of, 1));
      return Status::Ok();
    };
    status = Prepare({.data = paths, .out = made, .binary = binary_}, tokenizer_, pool, progress)
                 .status();
    if (status.ok()) status = text.CheckUnchanged();
    if (!status.ok()) (void)RemoveAtOnce(made);  // what stays is noticed by who reads it
  }
  lock.ReleaseAndRemove(lock_path);
  if (!status.ok()) return status;
  return made;
}

}  // namespace mf
