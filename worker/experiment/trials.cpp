#include "worker/experiment/trials.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "common/base/file_lock.h"
#include "common/base/files.h"
#include "common/base/input_file.h"
#include "common/base/logging.h"
#include "worker/data/data_files.h"
#include "worker/train/output_folder.h"
#include "worker/train/run_file.h"

namespace mf {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLook(100);
constexpr std::chrono::seconds kBetweenRecords(5);
constexpr std::chrono::seconds kSavePatience(60);  // more than the grace of a worker that ends
constexpr size_t kRecordMax = 1 << 20;
constexpr int kCannotBegin = 127;

std::string RecordPath(const Trial& trial) { return trial.folder + "/trial.json"; }
std::string LogPath(const Trial& trial) { return trial.folder + "/log"; }
std::string ConfigPath(const Trial& trial) { return trial.folder + "/config.toml"; }

Status WriteRecord(const Trial& trial) {
  const nlohmann::ordered_json record = {{"data", trial.data},
                                         {"validation", trial.validation},
                                         {"configuration", trial.configuration},
                                         {"finished", trial.finished},
                                         {"seconds", trial.seconds},
                                         {"peak_bytes", trial.peak_bytes}};
  return PublishFile(RecordPath(trial),
                     record.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
}

/// What an earlier start has left.
Status ReadRecord(Trial* trial) {
  const bool trained = FileExists(trial->folder + "/metrics.jsonl");
  if (!FileExists(RecordPath(*trial))) return Status::Ok();
  MF_ASSIGN_OR_RETURN(const std::string text,
                      ReadInput(RecordPath(*trial), "this trial", kRecordMax));
  const json record = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto member = [&](const char* name) {
    return record.is_object() ? record.value(name, json()) : json();
  };
  const json finished = member("finished"), seconds = member("seconds"),
             peak = member("peak_bytes");
  trial->finished = finished.is_boolean() && finished.get<bool>();
  if (member("data") != json(trial->data) || member("validation") != json(trial->validation) ||
      member("configuration") != json(trial->configuration)) {
    if (!trained && !trial->finished) return Status::Ok();  // nothing is lost
    return Status::Invalid(trial->folder +
                           ": holds a trial of other data or another configuration (trial.json); "
                           "name another --out, or delete this folder");
  }
  if (seconds.is_number()) trial->seconds = seconds.get<double>();
  if (peak.is_number_unsigned()) trial->peak_bytes = peak.get<uint64_t>();
  if (!trial->finished || trained) return Status::Ok();
  return Status::Invalid(trial->folder +
                         ": was finished, but its metrics.jsonl is gone; bring it back, or delete "
                         "this folder");
}

/// In the child: becomes the trial's process.
[[noreturn]] void Become(const std::string& log, char* const* arguments, pid_t parent) {
  // What ends the experiment asks the trials one by one: a terminal's Ctrl-C is not theirs.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kCannotBegin);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_DFL);
  const int file = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (file < 0 || nothing < 0) _exit(kCannotBegin);
  dup2(nothing, STDIN_FILENO);
  dup2(file, STDOUT_FILENO);
  dup2(file, STDERR_FILENO);
  execv("/proc/self/exe", arguments);
  _exit(kCannotBegin);
}

class Runner {
 public:
  Runner(const TrialOptions& options, std::vector<Trial>& trials, const TrialHooks& hooks)
      : options_(options), trials_(trials), hooks_(hooks) {}
  ~Runner() {  // after an error: none is left behind
    Ask(SIGTERM);
    for (const auto& [pid, running] : running_) waitpid(pid, nullptr, 0);
  }

  Status Run() {
    std::signal(SIGCHLD, SIG_DFL);  // ignored, it would leave nothing to wait for
    size_t next = 0;
    while (true) {
      const bool stopped = hooks_.stopped();
      while (!stopped && running_.size() < static_cast<size_t>(options_.jobs)) {
        while (next < trials_.size() && trials_[next].finished) ++next;
        if (next == trials_.size()) break;
        MF_RETURN_IF_ERROR(Begin(next++));
      }
      if (running_.empty()) break;
      if (stopped && !std::exchange(asked_, true)) {
        spdlog::info("stopping: {} trials save their last step", running_.size());
        Ask(SIGTERM);
      }
      MF_RETURN_IF_ERROR(Collect());
      hooks_.waiting();
      std::this_thread::sleep_for(kLook);
    }
    if (hooks_.stopped()) {
      return Status::Failed("stopped; the same command goes on");
    }
    return failed_;
  }

 private:
  struct Running {
    size_t trial;
    Clock::time_point since;  // it began, or was recorded last
  };

  void Ask(int signal) const {
    for (const auto& [pid, running] : running_) kill(pid, signal);
  }

  Status Begin(size_t number) {
    const Trial& trial = trials_[number];
    MF_RETURN_IF_ERROR(MakeFolder(trial.folder));
    MF_RETURN_IF_ERROR(PublishFile(ConfigPath(trial), trial.toml));
    MF_RETURN_IF_ERROR(WriteRecord(trial));
    AwaitFree(trial);
    const std::string log = LogPath(trial);
    std::vector<std::string> words = trial.arguments;
    words.insert(words.begin(), "worker");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) {
      return Status::Failed(std::string("cannot begin a process: ") + std::strerror(errno));
    }
    if (pid == 0) Become(log, arguments.data(), parent);
    running_[pid] = {number, Clock::now()};
    return Status::Ok();
  }

  /// What an experiment that was killed has left running saves its last step first.
  void AwaitFree(const Trial& trial) const {
    const auto until = Clock::now() + kSavePatience;
    for (bool said = false; Clock::now() < until && !hooks_.stopped(); said = true) {
      const auto lock =
          FileLock::Take(trial.folder + "/lock", FileLock::Kind::kExclusive, NoLocks::kGoOn);
      if (lock.status().code() != Code::kUnavailable) return;
      if (!said) spdlog::info("{}: an earlier start of this trial still saves", trial.folder);
      hooks_.waiting();
      std::this_thread::sleep_for(kLook);
    }
  }

  /// Takes in those that have ended, and writes now and then how long the others have taken.
  Status Collect() {
    for (auto it = running_.begin(); it != running_.end();) {
      Trial& trial = trials_[it->second.trial];
      const auto now = Clock::now();
      int how = 0;
      rusage use{};
      const pid_t ended = wait4(it->first, &how, WNOHANG, &use);
      if (ended < 0 && errno != EINTR) {
        return Status::Failed(std::string("cannot wait for a trial: ") + std::strerror(errno));
      }
      if (ended == it->first || now - it->second.since > kBetweenRecords) {
        trial.seconds += std::chrono::duration<double>(now - it->second.since).count();
        it->second.since = now;
        if (ended != it->first) MF_RETURN_IF_ERROR(WriteRecord(trial));
      }
      if (ended != it->first) {
        ++it;
        continue;
      }
      constexpr uint64_t kKilo = 1024;
      trial.peak_bytes = std::max(trial.peak_bytes, static_cast<uint64_t>(use.ru_maxrss) * kKilo);
      trial.finished = WIFEXITED(how) && WEXITSTATUS(how) == 0;
      it = running_.erase(it);
      MF_RETURN_IF_ERROR(WriteRecord(trial));
      hooks_.changed(trial);
      if (trial.finished || asked_) continue;
      const Status failed =
          Status::Failed(trial.folder + ": this trial has failed; " + LogPath(trial) + " says why");
      spdlog::error("{}; the others go on", failed.message());
      if (failed_.ok()) failed_ = failed;
    }
    return Status::Ok();
  }

  const TrialOptions& options_;
  std::vector<Trial>& trials_;
  const TrialHooks& hooks_;
  std::map<pid_t, Running> running_;
  bool asked_ = false;
  Status failed_;
};

}  // namespace

Result<std::vector<Trial>> PlanTrials(const Experiment& experiment, const TrialOptions& options) {
  const std::string& data = options.data.empty() ? experiment.data : options.data;
  const std::string& validation =
      options.validation.empty() ? experiment.validation : options.validation;
  if (data.empty()) return Status::Invalid("--data is required: the experiment names none");
  MF_RETURN_IF_ERROR(FindAllDataFiles({data}, {}).status());
  if (!validation.empty()) MF_RETURN_IF_ERROR(FindAllDataFiles({validation}, {}).status());
  std::vector<Trial> trials;
  // All variants with one seed before the next seed: something to compare early.
  for (const uint64_t seed : experiment.seeds) {
    for (size_t v = 0; v < experiment.variants.size(); ++v) {
      const ExperimentVariant& variant = experiment.variants[v];
      Trial trial{.variant = v,
                  .seed = seed,
                  .folder = options.out + "/" + variant.name + "/seed-" + std::to_string(seed),
                  .data = AbsolutePath(data),
                  .validation = validation.empty() ? "" : AbsolutePath(validation),
                  .configuration = IdentityJson(variant.resolved),
                  .toml = ConfigToml(variant.resolved),
                  .arguments = {}};
      const std::string threads = std::to_string(options.threads);
      trial.arguments = {"train",
                         "--config",
                         AbsolutePath(ConfigPath(trial)),
                         "--data",
                         trial.data,
                         "--out",
                         AbsolutePath(trial.folder),
                         "--seed",
                         std::to_string(seed),
                         "--threads",
                         threads,
                         "--server-threads",
                         threads};
      if (!validation.empty()) {
        trial.arguments.insert(trial.arguments.end(), {"--val", trial.validation});
      }
      MF_RETURN_IF_ERROR(ReadRecord(&trial));
      trials.push_back(std::move(trial));
    }
  }
  MF_RETURN_IF_ERROR(CheckSameData(trials));
  return trials;
}

Status CheckSameData(const std::vector<Trial>& trials) {
  std::map<size_t, std::pair<std::string, std::string>> first;  // by variant: digest, folder
  for (const Trial& trial : trials) {
    if (!trial.finished) continue;
    MF_ASSIGN_OR_RETURN(const RunFile run, ReadRunFile(trial.folder + "/run.json"));
    const auto [known, is_new] = first.try_emplace(trial.variant, run.data_digest, trial.folder);
    if (is_new || known->second.first == run.data_digest) continue;
    return Status::Invalid(known->second.second + " and " + trial.folder +
                           " were trained on different data: " + trial.data +
                           " was changed between them; delete one, or name another --out");
  }
  return Status::Ok();
}

int64_t StepsOf(const Trial& trial) {
  std::ifstream lines(trial.folder + "/metrics.jsonl", std::ios::binary);
  int64_t count = 0;
  char buffer[1 << 16];
  while (lines.read(buffer, sizeof(buffer)) || lines.gcount() > 0) {
    count += std::count(buffer, buffer + lines.gcount(), '\n');
  }
  return count;
}

Status RunTrials(const TrialOptions& options, std::vector<Trial>* trials, const TrialHooks& hooks) {
  return Runner(options, *trials, hooks).Run();
}

}  // namespace mf
