// worker stop: ends the workers of a running cluster's training and has its last step saved.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/client/connection.h"
#include "common/client/save_step.h"
#include "common/commands/command_line.h"
#include "common/commands/number_option.h"
#include "common/run/run_description.h"
#include "worker/commands/commands.h"

namespace mf {
namespace {

struct StopFlags {
  std::vector<std::string> pservers;
  std::string keys;
  double grace_seconds = 45;
};

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kBetweenAsks(200);

/// Observes the run at all servers. Its description; kUnavailable where a server that was started
/// again just now has not been told of the run yet, kFailed where no server has one.
Result<RunDescription> Observe(Client& client) {
  std::vector<Client::Answer> answers;
  for (uint32_t shard = 0; shard < client.servers(); ++shard) {
    const HelloRequest hello{.shard = shard, .shards = static_cast<uint32_t>(client.servers())};
    answers.push_back(client.Call(shard, {.body = hello}));
  }
  std::string description;
  Status without;
  for (size_t server = 0; server < answers.size(); ++server) {
    const Client::Outcome joined = answers[server].get();
    if (joined.ok()) {
      const auto& hello = As<HelloReply>(joined.value()[0]);
      client.SetSession(server, hello.session);
      description = hello.state.description;
    } else if (joined.status().code() == Code::kUnavailable) {
      without = joined.status();
    } else {
      return joined.status();
    }
  }
  if (description.empty()) return Status::Failed(without.message());
  if (!without.ok()) return without;
  return RunDescription::FromJson(description);
}

/// Until no worker is left; those that come meanwhile are ended, too. The last finished step.
Result<FinishedStep> EndWorkers(Client& client, const std::string& run, Clock::time_point until) {
  for (;;) {
    Client::Outcome outcome = client.Call(0, {.body = StopRequest{run}}).get();
    if (!outcome.ok()) return outcome.status();
    const StopReply& reply = As<StopReply>((*outcome)[0]);
    if (reply.workers == 0) return reply.at;
    if (Clock::now() > until) {
      return Status::Failed(std::to_string(reply.workers) +
                            " workers have not ended within --grace-seconds; a lost one counts "
                            "until its lease ends (train.lease_seconds)");
    }
    std::this_thread::sleep_for(kBetweenAsks);
  }
}

struct Stopped {
  int64_t steps;  // of the run
  FinishedStep at;
};

Result<Stopped> ObserveAndEndWorkers(Client& client, Clock::time_point until) {
  MF_ASSIGN_OR_RETURN(const RunDescription run, Observe(client));
  MF_ASSIGN_OR_RETURN(const FinishedStep at, EndWorkers(client, run.RunId(), until));
  return Stopped{run.rules.steps, at};
}

/// Servers that were started again a moment ago are waited for: workers bring them back into the
/// run.
Result<Stopped> EndTraining(Client& client, double patience_seconds) {
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(patience_seconds));
  for (;;) {
    Result<Stopped> stopped = ObserveAndEndWorkers(client, until);
    const Code code = stopped.status().code();
    const bool started_again = code == Code::kUnavailable || code == Code::kNotJoined;
    if (!started_again || Clock::now() > until) return stopped;
    std::this_thread::sleep_for(kBetweenAsks);
  }
}

Status Run(const StopFlags& flags) {
  constexpr double kDeadlineSeconds = 10;  // somebody waits at a terminal
  MF_ASSIGN_OR_RETURN(const auto connection, Connect(flags.pservers, flags.keys, kDeadlineSeconds));
  Client& client = *connection->client;
  MF_ASSIGN_OR_RETURN(const Stopped stopped, EndTraining(client, flags.grace_seconds));
  const uint64_t step = stopped.at.step;
  if (step == 0) {
    std::printf("no worker is left; there was nothing to save\n");
    return Status::Ok();
  }
  MF_RETURN_IF_ERROR(SaveStep(client, step, flags.grace_seconds));
  std::printf("no worker is left; step %llu of %lld is saved by all servers\n",
              static_cast<unsigned long long>(step), static_cast<long long>(stopped.steps));
  return Status::Ok();
}

}  // namespace

void AddStopCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<StopFlags>();
  CLI::App* command = app.add_subcommand(
      "stop", "End the workers of a running cluster's training and save its last finished step");
  AddServersOption(*command, &flags->pservers, "of all servers in shard order")->required();
  command->add_option("--keys", flags->keys, "Folder with client.key and server.pub");
  AddNumber(*command, "--grace-seconds", &flags->grace_seconds, 0, kSecondsMax,
            "At most so long workers may take to end, and so long to save")
      ->capture_default_str();
  command->callback([flags, exit_code] { *exit_code = Report(Run(*flags)); });
}

}  // namespace mf
