#include "worker/data/data_files.h"

#include <dirent.h>
#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "common/base/files.h"
#include "common/base/input_file.h"
#include "worker/data/mixture.h"
#include "worker/data/token_shard.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostFiles = 10'000'000;

using FileId = std::pair<uint64_t, uint64_t>;  // device, inode

FileId IdOf(const struct stat& info) { return {info.st_dev, info.st_ino}; }

std::string Join(const std::string& folder, const std::string& name) {
  return folder.ends_with('/') ? folder + name : folder + "/" + name;
}

/// A folder above a place, and how the place is called from there.
struct Above {
  FileId id;
  fs::path rest;  // empty: the place itself
};

/// All folders from the place to the root, as far as they are there, links resolved.
std::vector<Above> FoldersAbove(const std::string& path) {
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(fs::absolute(path, error), error);
  std::vector<Above> above;
  if (error) return above;
  fs::path rest;
  for (fs::path at = whole; !at.empty(); at = at.parent_path()) {
    struct stat info;
    if (stat(at.c_str(), &info) == 0) above.push_back({IdOf(info), rest});
    if (at == at.parent_path()) break;
    rest = rest.empty() ? at.filename() : at.filename() / rest;
  }
  return above;
}

bool IsHidden(const fs::path& rest) {
  return std::any_of(rest.begin(), rest.end(),
                     [](const fs::path& part) { return part.string().starts_with("."); });
}

bool IsShardFolder(const std::string& name) {
  unsigned shard = 0, shards = 0;
  char end = 0;
  return std::sscanf(name.c_str(), "shard-%u-of-%u%c", &shard, &shards, &end) == 2;
}

/// Half of a corpus is not taken for all of it.
Status CheckFinished(const std::string& folder, const std::vector<std::string>& names) {
  if (std::none_of(names.begin(), names.end(), IsUnfinishedShard)) return Status::Ok();
  return Status::Invalid(folder +
                         ": worker prepare has not finished this folder; wait for it, or run it "
                         "again if it was ended");
}

class Walk {
 public:
  Walk(std::string data, const std::vector<OwnPlace>& own) : data_(std::move(data)) {
    for (const OwnPlace& place : own) {
      if (!place.path.empty()) own_.push_back({place, FoldersAbove(place.path)});
    }
  }

  /// `path` is, or is in, what this run writes.
  Status CheckNotWritten(const std::string& path) const {
    const std::vector<Above> above = FoldersAbove(path);
    for (const auto& [place, unused] : own_) {
      struct stat itself;
      const bool there = stat(place.path.c_str(), &itself) == 0 && S_ISREG(itself.st_mode);
      if (there && !above.empty() && above[0].id == IdOf(itself)) return Written(path, place);
      if (place.flag != "--out") continue;
      struct stat state;
      const bool has_state = stat((place.path + "/state").c_str(), &state) == 0;
      for (const Above& folder : above) {
        if (has_state && folder.id == IdOf(state)) return Written(path, place);
      }
      for (const char* name : {"metrics.jsonl", "run", "loss.svg"}) {
        struct stat file;
        const std::string made = place.path + "/" + name;
        if (stat(made.c_str(), &file) == 0 && !above.empty() && above[0].id == IdOf(file)) {
          return Written(path, place);
        }
      }
    }
    return Status::Ok();
  }

  /// Nothing that a run writes is in this folder, below a name that matches.
  Status CheckFolder(const std::string& folder, const FileId& id,
                     const std::string& pattern) const {
    if (IsShardFolder(fs::path(folder).filename().string())) {
      return Status::Invalid(folder + ": holds snapshots of a server, which are no data; name " +
                             "another folder");
    }
    for (const auto& [place, above] : own_) {
      for (const Above& at : above) {
        if (at.id != id || IsHidden(at.rest)) continue;
        const std::string name = at.rest.empty() ? "" : at.rest.begin()->string();
        if (fnmatch(pattern.c_str(), name.c_str(), 0) != 0) continue;
        return Status::Invalid(place.flag + " " + place.path + " lies in the data (" + folder +
                               "): the next start would read it as text; give a place outside of " +
                               data_);
      }
    }
    return Status::Ok();
  }

  Status Visit(const std::string& folder, const struct stat& info) {
    const FileId id = IdOf(info);
    if (std::find(open_.begin(), open_.end(), id) != open_.end()) return Status::Ok();
    MF_RETURN_IF_ERROR(CheckFolder(folder, id, "*"));
    MF_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(folder));
    MF_RETURN_IF_ERROR(CheckFinished(folder, names));
    const auto has = [&](const char* name) {
      return std::binary_search(names.begin(), names.end(), name);
    };
    if (has("metrics.jsonl") && has("run")) {
      return Status::Invalid(folder +
                             ": holds what a run has written (metrics.jsonl, run), which " +
                             "is no data; name another folder");
    }
    open_.push_back(id);
    for (const std::string& name : names) MF_RETURN_IF_ERROR(Take(Join(folder, name), true));
    open_.pop_back();
    return Status::Ok();
  }

  /// Names without a dot at their beginning, sorted.
  static Result<std::vector<std::string>> NamesIn(const std::string& folder) {
    const auto fail = [&] {
      return Status::Invalid(folder + ": this folder cannot be read: " + std::strerror(errno));
    };
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(folder.c_str()), closedir);
    if (entries == nullptr) return fail();
    std::vector<std::string> names;
    for (;;) {
      errno = 0;
      const dirent* entry = readdir(entries.get());
      if (entry == nullptr && errno != 0) return fail();
      if (entry == nullptr) break;
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  Status Take(const std::string& path, bool folders) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) {
      return Status::Invalid(path + ": cannot be read: " + WhyNotOpened(path, errno));
    }
    if (S_ISDIR(info.st_mode) && folders) return Visit(path, info);
    if (!S_ISREG(info.st_mode)) {
      return Status::Invalid(path + ": is " + SpecialFile(info.st_mode) +
                             ", not a file to read; take it out, or let its name begin with a dot");
    }
    if (paths_.size() == kMostFiles) {
      return Status::Invalid(data_ + ": more than " + std::to_string(kMostFiles) +
                             " files; put them together");
    }
    paths_.push_back(path);
    return Status::Ok();
  }

  std::vector<std::string> TakePaths() {
    std::sort(paths_.begin(), paths_.end());
    return std::move(paths_);
  }

 private:
  static Status Written(const std::string& path, const OwnPlace& place) {
    return Status::Invalid(path + ": is what the run writes to " + place.flag + " " + place.path +
                           ", not data; name the data itself, or another " + place.flag);
  }

  const std::string data_;
  std::vector<std::pair<OwnPlace, std::vector<Above>>> own_;
  std::vector<FileId> open_;  // the folders that are being read, from the top
  std::vector<std::string> paths_;
};

/// DIR/PATTERN: the files of DIR that match.
Status TakeMatching(const std::string& path, Walk* walk) {
  const std::string folder = FolderOf(path);
  const std::string pattern = fs::path(path).filename().string();
  MF_ASSIGN_OR_RETURN(const auto names, Walk::NamesIn(folder));
  MF_RETURN_IF_ERROR(CheckFinished(folder, names));
  struct stat info;
  if (stat(folder.c_str(), &info) != 0) return Status::Invalid(folder + ": is gone");
  MF_RETURN_IF_ERROR(walk->CheckFolder(folder, IdOf(info), pattern));
  bool any = false;
  for (const std::string& name : names) {
    if (fnmatch(pattern.c_str(), name.c_str(), 0) != 0) continue;
    any = true;
    const std::string file = Join(folder, name);
    MF_RETURN_IF_ERROR(walk->CheckNotWritten(file));
    MF_RETURN_IF_ERROR(walk->Take(file, /*folders=*/false));
  }
  return any ? Status::Ok() : Status::Invalid(path + ": no file of this folder matches");
}

}  // namespace

Result<DataFiles> FindDataFiles(const std::string& path, const std::vector<OwnPlace>& own) {
  Walk walk(path, own);
  DataFiles files;
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    const int error = errno;
    const bool pattern =
        fs::path(path).filename().string().find_first_of("*?[") != std::string::npos;
    if (error == ENOENT && pattern && IsFolder(FolderOf(path))) {
      MF_RETURN_IF_ERROR(TakeMatching(path, &walk));
      return DataFiles{.folder = true, .paths = walk.TakePaths()};
    }
    const std::string why = error == ENOENT && !FileExists(path)
                                ? "no such file or directory"
                                : "cannot be read: " + WhyNotOpened(path, error);
    return Status::Invalid(path + ": " + why +
                           "; --data and --val take text files, directories of them, or .bin "
                           "tokens");
  }
  MF_RETURN_IF_ERROR(walk.CheckNotWritten(path));
  if (IsMixture(path)) {
    return Status::Invalid(path +
                           ": a mixture of corpora, which only worker train --data takes; give one "
                           "of its corpora");
  }
  if (!S_ISDIR(info.st_mode)) return DataFiles{.folder = false, .paths = {path}};
  MF_RETURN_IF_ERROR(walk.Visit(path, info));
  return DataFiles{.folder = true, .paths = walk.TakePaths()};
}

Result<std::vector<std::string>> FindAllDataFiles(const std::vector<std::string>& all,
                                                  const std::vector<OwnPlace>& own) {
  std::vector<std::string> paths;
  for (const std::string& path : all) {
    MF_ASSIGN_OR_RETURN(const DataFiles found, FindDataFiles(path, own));
    paths.insert(paths.end(), found.paths.begin(), found.paths.end());
  }
  return paths;
}

}  // namespace mf
