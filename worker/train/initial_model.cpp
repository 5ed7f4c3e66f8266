#include "worker/train/initial_model.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include "common/base/logging.h"
#include "common/client/work_loop.h"
#include "worker/config/config_keys.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPause(300);  // before it is tried again
constexpr std::chrono::seconds kBetweenLines(10);

std::string SizeOf(const TensorSpec& t) {
  const std::string size = std::to_string(t.rows) + " x " + std::to_string(t.columns);
  return t.tables == 1 ? size : std::to_string(t.tables) + " x " + size;
}

bool SameSize(const TensorSpec& a, const TensorSpec& b) {
  return a.name == b.name && a.kind == b.kind && a.tables == b.tables && a.rows == b.rows &&
         a.columns == b.columns;
}

Status CheckSizes(const std::string& path, const std::vector<TensorSpec>& its,
                  const std::vector<TensorSpec>& ours) {
  const auto differ = [&](const std::string& what) {
    return Status::Invalid("--init " + path + ": another model than the run's: " + what +
                           "; [model] has to be as it was");
  };
  for (size_t i = 0; i < std::min(its.size(), ours.size()); ++i) {
    if (SameSize(its[i], ours[i])) continue;
    return differ(its[i].name + " of " + SizeOf(its[i]) + " there, " + ours[i].name + " of " +
                  SizeOf(ours[i]) + " here");
  }
  if (its.size() == ours.size()) return Status::Ok();
  return differ(std::to_string(its.size()) + " tensors there, " + std::to_string(ours.size()) +
                " here");
}

/// What was learned of a row's history means something to the same rule only.
Status CheckSameRules(const std::vector<TensorSpec>& its, const std::vector<TensorSpec>& ours) {
  for (size_t i = 0; i < its.size(); ++i) {
    const TensorSpec &a = its[i], &b = ours[i];
    if (a.optimizer == b.optimizer && a.weight_decay == b.weight_decay &&
        a.rate_scale == b.rate_scale) {
      continue;
    }
    return Status::Invalid(
        "--keep-optimizer: " + a.name +
        " was trained by another rule; train.optimizer, betas, eps, weight_decay and "
        "sparse_update have to be as they were, or leave the optimizer");
  }
  return Status::Ok();
}

Frame FrameOf(const void* data, size_t bytes) {
  Buffer buffer(bytes);
  if (bytes > 0) std::memcpy(buffer.data(), data, bytes);
  return buffer;
}

template <class T>
Frame FrameOf(const std::vector<T>& values) {
  return FrameOf(values.data(), values.size() * sizeof(T));
}

}  // namespace

Result<std::unique_ptr<InitialModel>> InitialModel::Open(const Options& options, ThreadPool& pool) {
  if (options.path.empty()) {
    if (!options.keep_optimizer && options.step == 0) return std::unique_ptr<InitialModel>();
    return Status::Invalid(
        "--keep-optimizer and --init-step: are for --init, which names the snapshots");
  }
  MF_ASSIGN_OR_RETURN(auto rows,
                      InitialRows::Open(options.path, options.step, options.keep_optimizer, pool));
  return std::unique_ptr<InitialModel>(new InitialModel(options, std::move(rows)));
}

void InitialModel::Adopt(Config* config) const {
  const Config& its = rows_->config();
  if (config->data.tokenizer.empty()) config->tokenizer = its.tokenizer;
  if (!rows_->steps().has_value()) return;
  config->model.seed = its.model.seed;
  if (rows_->with_optimizer() && config->train.steps_before == 0) {
    config->train.steps_before = static_cast<int64_t>(*rows_->steps());
  }
}

Status InitialModel::Describe(const Config& config, RunDescription* run) const {
  const std::vector<TensorSpec>& its = rows_->tensors();
  MF_RETURN_IF_ERROR(CheckSizes(options_.path, its, run->tensors));
  if (config.tokenizer != rows_->config().tokenizer) {
    return Status::Invalid("--init " + options_.path +
                           ": has another tokenizer than the text of the run; prepare the text "
                           "with the model's");
  }
  if (rows_->with_optimizer()) MF_RETURN_IF_ERROR(CheckSameRules(its, run->tensors));
  run->initial = rows_->name();
  for (size_t i = 0; i < its.size(); ++i) {
    run->tensors[i].init_value = its[i].init_value * rows_->NeverUpdatedFactor(its[i]);
  }
  return Status::Ok();
}

std::vector<std::string> InitialModel::Summary(const Config& config) const {
  const auto& train = config.train;
  const std::string end = std::to_string(
      train.schedule_steps > 0 ? train.schedule_steps : train.steps_before + train.steps);
  std::string line = "begins with " + options_.path + ": " + rows_->name() + "; ";
  line += rows_->with_optimizer() ? "the optimizer goes on" : "the optimizer begins anew";
  line += ", the schedule and the order of the data at step " +
          std::to_string(train.steps_before + 1) + " of " + end;
  std::vector<std::string> lines = {line};
  if (train.schedule_steps > 0 && train.steps_before >= train.schedule_steps) {
    lines.push_back("the learning rate stays at its lowest: the schedule has ended before");
  }
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.section != "model" || !key.decides_result) continue;
    if (!rows_->steps().has_value() && key.name == "seed") continue;
    const std::string there = FormatKeyValue(key.get(rows_->config()));
    const std::string here = FormatKeyValue(key.get(config));
    if (there != here) {
      lines.push_back(key.full_name() + ": the model was trained with " + there + ", here it is " +
                      here);
    }
  }
  return lines;
}

Result<std::vector<bool>> InitialModel::There(Client& client) {
  const Client::Outcome replies =
      client.CallAll(std::vector<Request>(client.servers(), {.body = InitialiseRequest{}})).get();
  if (!replies.ok()) return replies.status();
  std::vector<bool> there;
  for (const Reply& reply : replies.value()) there.push_back(As<InitialiseReply>(reply).there);
  return there;
}

Status InitialModel::Bring(Client& client, const RunDescription& run, const Hooks& hooks) {
  std::string said;
  auto next_line = Clock::now();
  while (true) {
    Status status;
    Result<std::vector<bool>> there = There(client);
    if (there.ok()) {
      if (std::count(there->begin(), there->end(), false) == 0) return Status::Ok();
      status = BringTo(*there, client, run, hooks);
    } else {
      status = there.status();
    }
    if (status.ok()) continue;
    if (hooks.stopped() || !IsSuperseded(status.code())) return status;
    if (std::exchange(said, status.message()) != status.message() || Clock::now() > next_line) {
      spdlog::info("waiting: {}", status.message());
      next_line = Clock::now() + kBetweenLines;
    }
    std::this_thread::sleep_for(kPause);
    if (status.code() == Code::kNotJoined) MF_RETURN_IF_ERROR(hooks.join());
  }
}

Status InitialModel::BringTo(const std::vector<bool>& there, Client& client,
                             const RunDescription& run, const Hooks& hooks) {
  InitialiseRequest request{.attempt = std::random_device()() | uint64_t{1} << 32};
  const auto shards = static_cast<int64_t>(there.size());
  /// To all that lack it; `payload` makes a server's frames. A server takes the state of one worker
  /// at a time, so the first part goes to one after the other, in their order: two workers that
  /// each have some of them would wait for each other.
  const auto send = [&](const auto& payload) -> Status {
    std::vector<Client::Answer> answers;
    Status status;
    for (int64_t shard = 0; shard < shards && status.ok(); ++shard) {
      const auto server = static_cast<size_t>(shard);
      if (there[server]) continue;
      Client::Answer answer = client.Call(server, {.body = request, .payload = payload(shard)});
      if (request.part == 0) {
        status = answer.get().status();
      } else {
        answers.push_back(std::move(answer));
      }
    }
    for (Client::Answer& answer : answers) {
      const Client::Outcome outcome = answer.get();
      if (status.ok()) status = outcome.status();
    }
    ++request.part;
    return status;
  };
  MF_RETURN_IF_ERROR(rows_->Begin(run.tensors));
  RowStates rows;
  uint64_t sent = 0;
  auto next_line = Clock::now() + kBetweenLines;
  while (true) {
    if (hooks.stopped()) return {Code::kUnavailable, "stopped before the servers had the model"};
    MF_ASSIGN_OR_RETURN(const bool more, rows_->Next(&rows));
    if (!more) break;
    request.tensor = rows.tensor;
    const TensorSpec& tensor = run.tensors[rows.tensor];
    MF_RETURN_IF_ERROR(send([&](int64_t shard) {
      return Frames{FrameOf(rows.rows),
                    StatesFor(rows, tensor, run.rules.column_blocks, shard, shards)};
    }));
    sent += rows.rows.size();
    if (Clock::now() < next_line) continue;
    next_line = Clock::now() + kBetweenLines;
    spdlog::info("bringing the servers the model: {:.0f}%",
                 100.0 * static_cast<double>(sent) /
                     static_cast<double>(std::max<uint64_t>(1, rows_->total_rows())));
  }
  request.last = true;
  return send([&](int64_t) { return Frames{Frame(), Frame(), FrameOf(rows_->rates())}; });
}

}  // namespace mf
