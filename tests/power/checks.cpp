#include "tests/power/checks.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <sstream>

#include "common/base/files.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/versioned_rows.h"

namespace mf {
namespace {

/// Lines of what was said, in words.
std::vector<std::vector<std::string>> Lines(const std::string& text) {
  std::vector<std::vector<std::string>> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    lines.emplace_back();
    for (std::string word; words >> word;) lines.back().push_back(word);
  }
  return lines;
}

class StoreCheck final : public PowerCheck {
 public:
  explicit StoreCheck(uint64_t seed) : seed_(seed) {}

  Status Hear(const PowerDisk&, const std::string& text) override {
    for (const auto& words : Lines(text))
      if (words.size() == 2 && words[0] == "saved") saved_ = std::stoull(words[1]);
    return Status::Ok();
  }
  void Rewind() override { saved_ = 0; }
  Status Look(const std::string& folder) override {
    if (saved_ == 0 && !FileExists(Shard(folder))) return Status::Ok();
    return CheckVersionedRows(Shard(folder), seed_, saved_);
  }
  Status GoOn(const std::string& folder) override {
    uint64_t newest = saved_;
    MF_RETURN_IF_ERROR(PublishVersionedRows(Shard(folder), seed_, 2, [&](uint64_t step) {
      newest = step;
      return Status::Ok();
    }));
    if (newest < saved_ + 2) return Status::Failed("a start forgot step " + std::to_string(saved_));
    return CheckVersionedRows(Shard(folder), seed_, newest);
  }

 private:
  static std::string Shard(const std::string& folder) { return folder + "/shard-0-of-1"; }
  const uint64_t seed_;
  uint64_t saved_ = 0;
};

class ServersCheck final : public PowerCheck {
 public:
  explicit ServersCheck(uint32_t shards) : shards_(shards) {}

  Status Hear(const PowerDisk&, const std::string& text) override {
    for (const auto& words : Lines(text)) {
      if (words.size() != 3 || words[0] != "saved") continue;
      saved_[static_cast<uint32_t>(std::stoul(words[1]))].insert(std::stoull(words[2]));
    }
    return Status::Ok();
  }

  void Rewind() override { saved_.clear(); }
  Status Look(const std::string& folder) override {
    std::vector<std::set<uint64_t>> found(shards_);
    std::vector<uint64_t> told(shards_);
    for (const std::string& machine : FileNames(folder)) {
      for (const RunFolder& run : FindRuns(folder + "/" + machine + "/data"))
        MF_RETURN_IF_ERROR(LookAtRun(run, &found, &told));
    }
    const uint64_t common = NewestOfAll(found);
    uint64_t saved = 0;
    if (saved_.size() == shards_) {
      std::vector<std::set<uint64_t>> all;
      for (const auto& [shard, steps] : saved_) all.push_back(steps);
      saved = NewestOfAll(all);
    }
    if (common < saved)
      return Status::Failed("all had saved step " + std::to_string(saved) +
                            ", the newest that all have now is " + std::to_string(common));
    for (const uint64_t step : told) {
      if (step > common)
        return Status::Failed("a server was told that all have step " + std::to_string(step) +
                              ", the newest that all have now is " + std::to_string(common));
    }
    return Status::Ok();
  }
  /// Servers are started by who runs this program.
  Status GoOn(const std::string&) override { return Status::Ok(); }

 private:
  static uint64_t NewestOfAll(const std::vector<std::set<uint64_t>>& servers) {
    for (auto step = servers[0].rbegin(); step != servers[0].rend(); ++step) {
      if (std::all_of(servers.begin(), servers.end(),
                      [&](const std::set<uint64_t>& steps) { return steps.contains(*step); }))
        return *step;
    }
    return 0;
  }

  Status LookAtRun(const RunFolder& run, std::vector<std::set<uint64_t>>* found,
                   std::vector<uint64_t>* told) const {
    for (const std::string& name : FileNames(run.path)) {
      uint32_t shard = 0, shards = 0;
      if (!ParseShardName(name, &shard, &shards)) continue;
      const std::string folder = run.path + "/" + name;
      if (shard >= shards_) return Status::Failed(folder + ": nobody made it");
      MF_RETURN_IF_ERROR(ReadNumber(folder + "/boot", nullptr));
      MF_RETURN_IF_ERROR(ReadNumber(folder + "/common", &(*told)[shard]));
      MF_ASSIGN_OR_RETURN(const auto reader, OpenRocksSnapshotReader(folder));
      for (const uint64_t step : reader->Published()) {
        MF_RETURN_IF_ERROR(reader->VerifyFiles(step));
        auto read = reader->Read(step, [](auto&&...) { return Status::Ok(); });
        MF_RETURN_IF_ERROR(read.status());
        if (read->step != step || read->shard != shard)
          return Status::Failed(folder + ": a snapshot says it is another");
        if (RunFolderName(read->run_id) != run.name ||
            ReadSmallFile(run.path + "/" + kDescriptionFile, 1 << 20).value() != read->description)
          return Status::Failed(run.path + ": it is not described");
        (*found)[shard].insert(step);
      }
    }
    return Status::Ok();
  }

  static Status ReadNumber(const std::string& path, uint64_t* number) {
    if (!FileExists(path)) return Status::Ok();
    MF_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, 100));
    unsigned long long value = 0;
    char end = 0;
    if (std::sscanf(text.c_str(), "%llu%c", &value, &end) != 2 || end != '\n')
      return Status::Failed(path + ": not a number");
    if (number != nullptr) *number = value;
    return Status::Ok();
  }

  const uint32_t shards_;
  std::map<uint32_t, std::set<uint64_t>> saved_;
};

class FilesCheck final : public PowerCheck {
 public:
  Status Hear(const PowerDisk& disk, const std::string& text) override {
    for (const auto& words : Lines(text)) {
      if (words.size() != 2 || words[0] != "file") continue;
      ++told_[words[1]];
      if (rewound_) continue;
      MF_ASSIGN_OR_RETURN(std::string bytes, disk.Bytes(words[1]));
      held_[words[1]].push_back(std::move(bytes));
    }
    return Status::Ok();
  }
  void Rewind() override {
    rewound_ = true;
    told_.clear();
  }
  Status Look(const std::string& folder) override {
    for (const auto& [path, times] : told_) {
      MF_ASSIGN_OR_RETURN(const std::string found, ReadSmallFile(folder + path, UINT32_MAX));
      const std::vector<std::string>& held = held_[path];
      if (found != held[times - 1] && (times == held.size() || found != held[times]))
        return Status::Failed(path + ": neither what it was nor what it becomes");
    }
    return Status::Ok();
  }
  Status GoOn(const std::string&) override { return Status::Ok(); }

 private:
  bool rewound_ = false;
  std::map<std::string, size_t> told_;                    // so many times, by the path
  std::map<std::string, std::vector<std::string>> held_;  // each time
};

}  // namespace

std::unique_ptr<PowerCheck> MakeStoreCheck(uint64_t seed) {
  return std::make_unique<StoreCheck>(seed);
}
std::unique_ptr<PowerCheck> MakeServersCheck(uint32_t shards) {
  return std::make_unique<ServersCheck>(shards);
}
std::unique_ptr<PowerCheck> MakeFilesCheck() { return std::make_unique<FilesCheck>(); }

}  // namespace mf
