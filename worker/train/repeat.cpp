#include "worker/train/repeat.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "common/base/files.h"
#include "common/base/logging.h"
#include "worker/config/config_keys.h"

namespace mf {
namespace {

/// The finished step that all servers have of the run that they serve; 0: none.
Result<uint64_t> StepInMemory(Client& client) {
  std::vector<Request> looks(client.servers());
  for (size_t server = 0; server < looks.size(); ++server) {
    looks[server].body = HelloRequest{.shard = static_cast<uint32_t>(server),
                                      .shards = static_cast<uint32_t>(looks.size())};
  }
  const Client::Outcome replies = client.CallAll(std::move(looks)).get();
  if (replies.status().code() == Code::kUnavailable) return uint64_t{0};  // it has just ended
  if (!replies.ok()) return replies.status();
  uint64_t step = UINT64_MAX;
  for (const Reply& reply : replies.value()) {
    const FinishedStep& finished = As<HelloReply>(reply).state.finished;
    step = std::min(step, finished.epoch == 0 ? 0 : finished.step);
  }
  return step;
}

/// The newest state of a run that the servers have, in memory or on their disks; 0: none. Without
/// joining it: a run that is served cannot be deleted.
Result<uint64_t> NewestStep(Client& client, const std::string& run_id) {
  const Client::Outcome replies =
      client.CallAll(std::vector<Request>(client.servers(), {.body = ListRunsRequest{}})).get();
  if (!replies.ok()) return replies.status();
  uint64_t saved = UINT64_MAX;
  bool served = true;
  for (const Reply& reply : replies.value()) {
    const std::vector<StoredRun>& runs = As<ListRunsReply>(reply).runs;
    const auto found = std::find_if(runs.begin(), runs.end(),
                                    [&](const StoredRun& run) { return run.id == run_id; });
    saved = std::min(saved, found == runs.end() ? 0 : found->newest);
    served &= found != runs.end() && found->active;
  }
  if (!served) return saved;
  MF_ASSIGN_OR_RETURN(const uint64_t in_memory, StepInMemory(client));
  return std::max(saved, in_memory);
}

}  // namespace

Result<Config> ConfigToRepeat(const Repetition& repeat, const std::vector<std::string>& overrides) {
  const Config& its = repeat.run.config;
  MF_ASSIGN_OR_RETURN(const Config ours, OverrideConfig(its, overrides));
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string here = FormatKeyValue(key.get(ours)), there = FormatKeyValue(key.get(its));
    if (!key.decides_result || here == there) continue;
    return Status::Invalid(key.full_name() + " = " + here + " contradicts --repeat " + repeat.path +
                           ", where it is " + there +
                           "; leave it out, or begin another run with --config");
  }
  return ours;
}

Result<std::string> OutputOfRepetition(const Repetition& repeat, const std::string& given) {
  const std::string held = FolderOf(repeat.path);
  if (given.empty()) return held + "/repeat";
  std::error_code error;
  if (!std::filesystem::equivalent(given, held, error)) return given;
  return Status::Invalid("--out " + given + ": holds the run that is to be repeated (" +
                         repeat.path + "), which would go on there; name another folder");
}

Status CheckSameData(const Repetition& repeat, const std::string& data, const std::string& digest) {
  if (digest == repeat.run.data_digest) return Status::Ok();
  return Status::Invalid(data + ": of digest " + digest + ", " + repeat.path +
                         " is of a run on data of digest " + repeat.run.data_digest +
                         "; name that data by --data (and --val)");
}

Status CheckSameRun(const Repetition& repeat, const Platform& platform, const std::string& run_id) {
  std::string text = DescribeDifference(platform, repeat.run.platform);
  if (run_id != repeat.run.run_id) {
    // Another version may describe the same run in other words.
    if (platform.program == repeat.run.platform.program) {
      return Status::Invalid("--repeat " + repeat.path + ": its configuration is that of run " +
                             run_id.substr(0, 16) + ", not of its own, " +
                             repeat.run.run_id.substr(0, 16) +
                             ": the file was changed; begin another run with --config");
    }
    text += (text.empty() ? "" : "; ") + std::string("run ") + run_id.substr(0, 16) + " here, " +
            repeat.run.run_id.substr(0, 16) + " there";
  }
  if (text.empty()) return Status::Ok();
  spdlog::warn("the last bits of the results may differ from those of {}: {}", repeat.path, text);
  return Status::Ok();
}

uint64_t InitialStepIn(const std::string& out, const InitialModel::Options& init) {
  const auto run = ReadRunFile(out + "/run.json");
  std::error_code error;
  if (init.path.empty() || !run.ok() || run.value().keep_optimizer != init.keep_optimizer ||
      !std::filesystem::equivalent(run.value().init, init.path, error)) {
    return 0;
  }
  return run.value().init_step;
}

Status CheckNotDone(const Repetition& repeat, const RunDescription& run, Client& client) {
  MF_ASSIGN_OR_RETURN(const uint64_t step, NewestStep(client, run.RunId()));
  const auto last = static_cast<uint64_t>(run.rules.steps);
  if (step < last) {
    if (step > 0) {
      spdlog::warn("the servers have the run of {} at step {} of {}: it goes on there", repeat.path,
                   step, last);
    }
    return Status::Ok();
  }
  const std::string id = run.RunId().substr(0, 16);
  return Status::Invalid("--repeat " + repeat.path + ": the servers have this run (" + id +
                         ") up to its last step, " + std::to_string(last) +
                         ", so nothing would be computed; use servers with another --data, or "
                         "restart these and delete it there: pserver runs --pservers LIST "
                         "--delete " +
                         id);
}

}  // namespace mf
