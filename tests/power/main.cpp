// Goal: whatever of its unsynced changes a disk forgets when the power goes, what was acknowledged
// is there, and nothing is half there.
//   power_cuts store [--trials N] [--seed N] [--links 0] [--starts N]
//                                          records a store that is started so often, and cuts that
//   power_cuts check KIND LOG [--trials N] [--seed N]    cuts a recording so many times
//   power_cuts cut LOG --at N [--trials N] [--seed N] --to FOLDER
//                                          the N-th of those cuts, to look at or to start on
// KIND: store, servers=S, files (tests/power/checks.h). A half of the cuts come within a few
// records of a sync, a rename or an acknowledgement. The folder that was recorded has to be there:
// it is compared with what the recording says.
#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>

#include "common/base/files.h"
#include "common/base/logging.h"
#include "tests/power/checks.h"
#include "tests/power/disk.h"
#include "tests/support/versioned_rows.h"

namespace mf {
namespace {

struct Flags {
  uint64_t trials = 200, seed = 0, at = 0, links = 1, starts = 5;
  std::string to;
};

constexpr size_t kNear = 4;     // records
constexpr uint64_t kSteps = 9;  // of a start

/// As a process that is started again and again.
Status Publish(const std::string& folder, const Flags& flags) {
  for (uint64_t start = 0; start < flags.starts; ++start) {
    MF_RETURN_IF_ERROR(PublishVersionedRows(folder, flags.seed, kSteps, [](uint64_t step) {
      const std::string words = "saved " + std::to_string(step) + "\n";
      return write(STDOUT_FILENO, words.data(), words.size()) > 0
                 ? Status::Ok()
                 : Status::Failed("nobody listens");
    }));
  }
  return Status::Ok();
}

std::unique_ptr<PowerCheck> MakeCheck(const std::string& kind, uint64_t seed) {
  if (kind == "store") return MakeStoreCheck(seed);
  if (kind == "files") return MakeFilesCheck();
  unsigned shards = 0;
  if (std::sscanf(kind.c_str(), "servers=%u", &shards) == 1 && shards > 0)
    return MakeServersCheck(shards);
  return nullptr;
}

/// Where the power goes, rising.
std::vector<size_t> DrawPositions(const std::vector<Record>& records, const Flags& flags) {
  std::vector<size_t> near;
  for (size_t i = 0; i < records.size(); ++i) {
    const FileOp op = records[i].op;
    if (op == FileOp::kSyncBegin || op == FileOp::kSyncEnd || op == FileOp::kRename ||
        op == FileOp::kSaid)
      near.push_back(i);
  }
  std::mt19937_64 random(flags.seed);
  std::multiset<size_t> positions;
  for (uint64_t i = 0; i < flags.trials; ++i) {
    size_t at = 1 + random() % records.size();
    if (i % 2 == 0 && !near.empty()) at = near[random() % near.size()] + random() % kNear;
    positions.insert(std::min(at, records.size()));
  }
  return {positions.begin(), positions.end()};
}

/// A third of the cuts of several machines spares one of them: its server is killed at most.
std::vector<std::string> DrawSpared(const std::vector<std::string>& machines,
                                    std::mt19937_64* random) {
  if (machines.size() < 2 || (*random)() % 3 != 0) return {};
  return {machines[(*random)() % machines.size()]};
}

class Cutter {
 public:
  Cutter(const std::vector<Record>& records, Flags flags)
      : records_(records), flags_(std::move(flags)), disk_(std::in_place, records) {}

  /// Reads it to its end: it has to tell all that took place.
  Status Learn(PowerCheck* check) {
    MF_RETURN_IF_ERROR(Advance(records_.size(), check));
    MF_RETURN_IF_ERROR(disk_->Compare());
    disk_.emplace(records_);
    if (check != nullptr) check->Rewind();
    return Status::Ok();
  }

  Status Run(PowerCheck* check, const TemporaryFolder& place) {
    const std::vector<size_t> positions = DrawPositions(records_, flags_);
    const std::string cache = place.path() + "/cache";
    MF_RETURN_IF_ERROR(MakeFolder(cache));
    for (size_t trial = 0; trial < positions.size(); ++trial) {
      MF_RETURN_IF_ERROR(Advance(positions[trial], check));
      // Every fourth is also started on: its files are its own.
      const bool starts = trial % 4 == 0;
      const std::string folder = place.path() + "/cut", own = place.path() + "/own";
      if (starts) MF_RETURN_IF_ERROR(MakeFolder(own));
      Fate fate;
      MF_RETURN_IF_ERROR(Cut(trial, folder, starts ? own : cache, &fate));
      Status status = check->Look(folder);
      if (status.ok() && starts) status = check->GoOn(folder);
      if (!status.ok()) return Explain(trial, fate, status);
      MF_RETURN_IF_ERROR(RemoveTree(folder));
      MF_RETURN_IF_ERROR(RemoveTree(own));
      ++fates_[fate.words];
      losing_ += fate.lost > 0;
    }
    return Status::Ok();
  }

  /// The one trial with this number and its position.
  Status Write(size_t trial, const std::string& folder, const std::string& cache) {
    const std::vector<size_t> positions = DrawPositions(records_, flags_);
    if (trial >= positions.size()) return Status::Failed("there is no such cut");
    MF_RETURN_IF_ERROR(Advance(positions[trial], nullptr));
    Fate fate;
    MF_RETURN_IF_ERROR(Cut(trial, folder, cache, &fate));
    std::printf("before record %zu; %s; %zu changes lost\n", positions[trial], fate.words.c_str(),
                fate.lost);
    return Status::Ok();
  }

  uint64_t losing() const { return losing_; }
  size_t fates() const { return fates_.size(); }

 private:
  Status Advance(size_t position, PowerCheck* check) {
    while (disk_->position() < position) {
      const Record& record = records_[disk_->position()];
      MF_RETURN_IF_ERROR(disk_->Advance(disk_->position() + 1));
      if (record.op == FileOp::kSaid && check != nullptr)
        MF_RETURN_IF_ERROR(check->Hear(*disk_, record.data));
    }
    return Status::Ok();
  }

  Status Cut(size_t trial, const std::string& folder, const std::string& cache, Fate* fate) {
    std::mt19937_64 random(flags_.seed * 1000003 + trial);
    const std::vector<std::string> spared = DrawSpared(disk_->Machines(), &random);
    MF_RETURN_IF_ERROR(disk_->Cut(&random, folder, cache, spared, fate));
    for (const std::string& name : spared) fate->words += ", " + name + " keeps its power";
    return Status::Ok();
  }

  Status Explain(size_t trial, const Fate& fate, const Status& status) const {
    const Record& record = records_[disk_->position() - 1];
    return Status::Failed(
        "cut " + std::to_string(trial) + " of --trials " + std::to_string(flags_.trials) +
        " --seed " + std::to_string(flags_.seed) + ", after record " +
        std::to_string(disk_->position() - 1) + " (" + NameOf(record.op) + " " + record.path + " " +
        (record.op == FileOp::kRename || record.op == FileOp::kLink ? record.data : "") + "), " +
        fate.words + ": " + status.message());
  }

  const std::vector<Record>& records_;
  const Flags flags_;
  std::optional<PowerDisk> disk_;
  uint64_t losing_ = 0;
  std::map<std::string, uint64_t> fates_;
};

Status Check(const std::string& kind, const std::string& log, const Flags& flags) {
  MF_ASSIGN_OR_RETURN(const std::vector<Record> records, ReadRecording(log));
  const std::unique_ptr<PowerCheck> check = MakeCheck(kind, flags.seed);
  if (check == nullptr) return Status::Invalid("no kind of recording: " + kind);
  const TemporaryFolder place(TemporaryFolder::Where::kMemory);
  Cutter cutter(records, flags);
  MF_RETURN_IF_ERROR(cutter.Learn(check.get()));
  MF_RETURN_IF_ERROR(cutter.Run(check.get(), place));
  std::printf("%s: %" PRIu64 " cuts of %zu records, --seed %" PRIu64 ": %" PRIu64
              " lost something, in %zu ways; what was acknowledged is there, and whole\n",
              kind.c_str(), flags.trials, records.size(), flags.seed, cutter.losing(),
              cutter.fates());
  // Cuts that lose nothing would prove nothing.
  return cutter.losing() * 3 > flags.trials ? Status::Ok() : Status::Failed("too little was lost");
}

/// Records this program, in another process, and cuts that.
Status RecordStore(const Flags& flags) {
  const TemporaryFolder place(TemporaryFolder::Where::kMemory);
  const std::string root = place.path() + "/root", log = place.path() + "/log";
  MF_RETURN_IF_ERROR(MakeScratchFolder(root));
  const std::string folder = root + "/shard-0-of-1", seed = std::to_string(flags.seed);
  const std::string starts = std::to_string(flags.starts);
  const pid_t child = fork();
  if (child == 0) {
    setenv("MF_POWER_ROOT", root.c_str(), 1);
    setenv("MF_POWER_LOG", log.c_str(), 1);
    if (flags.links == 0) setenv("MF_POWER_NO_LINKS", "1", 1);
    if (std::freopen("/dev/null", "w", stdout) == nullptr) _exit(1);
    execl("/proc/self/exe", "power_cuts", "publish", folder.c_str(), "--seed", seed.c_str(),
          "--starts", starts.c_str(), nullptr);
    _exit(1);
  }
  int ended = 0;
  if (child < 0 || waitpid(child, &ended, 0) != child || ended != 0)
    return Status::Failed("the recorded process failed");
  return Check("store", log, flags);
}

Status CutOnce(const std::string& log, const Flags& flags) {
  MF_ASSIGN_OR_RETURN(const std::vector<Record> records, ReadRecording(log));
  const TemporaryFolder cache;
  Cutter cutter(records, flags);
  return cutter.Write(flags.at, flags.to, cache.path());
}

int Run(const std::vector<std::string>& words, const Flags& flags) {
  Status status = Status::Invalid("usage: power_cuts store | check KIND LOG | cut LOG");
  if (words.size() == 1 && words[0] == "store") status = RecordStore(flags);
  if (words.size() == 2 && words[0] == "publish") status = Publish(words[1], flags);
  if (words.size() == 3 && words[0] == "check") status = Check(words[1], words[2], flags);
  if (words.size() == 2 && words[0] == "cut") status = CutOnce(words[1], flags);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : status.code() == Code::kInvalid ? 2 : 1;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  mf::Flags flags;
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (!word.starts_with("--")) {
      words.push_back(word);
      continue;
    }
    const std::map<std::string, uint64_t*> numbers = {{"--trials", &flags.trials},
                                                      {"--seed", &flags.seed},
                                                      {"--at", &flags.at},
                                                      {"--links", &flags.links},
                                                      {"--starts", &flags.starts}};
    const auto number = numbers.find(word);
    if (++i == argc || (number == numbers.end() && word != "--to")) {
      std::fprintf(stderr, "power_cuts: %s is unknown or has no value\n", word.c_str());
      return 2;
    }
    if (number != numbers.end()) *number->second = std::strtoull(argv[i], nullptr, 10);
    if (number == numbers.end()) flags.to = argv[i];
  }
  if (!mf::SetUpLogging("off").ok()) return 1;
  return mf::Run(words, flags);
}
