// pserver: a parameter server as a process.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "common/base/address.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/run_program.h"
#include "common/commands/command_line.h"
#include "common/commands/number_option.h"
#include "common/kernels/target.h"
#include "common/metrics/metrics.h"
#include "common/run/versions.h"
#include "pserver/commands/commands.h"
#include "pserver/shard/server.h"
#include "pserver/shard/storage.h"

namespace mf {
namespace {

constexpr int kOtherThreads = 12;  // than those of the kernels: of libraries, snapshots, metrics

struct ServeFlags {
  std::string listen, shard, data, metrics, keys;
  int threads = 0;
  uint64_t memory = 0, waiting_bytes = 0;
  double idle_seconds = 60, grace_seconds = 45;
  bool insecure = false, no_lock = false;
};

/// "i/S" as numbers with i < S.
Status ParseShard(const std::string& text, uint32_t* shard, uint32_t* shards) {
  const size_t slash = text.find('/');
  if (slash != std::string::npos) {
    const auto own = ReadNumber<uint32_t>(text.substr(0, slash));
    const auto all = ReadNumber<uint32_t>(text.substr(slash + 1));
    if (own.has_value() && all.has_value() && *all <= 4096 && *own < *all) {
      *shard = *own;
      *shards = *all;
      return Status::Ok();
    }
  }
  return Status::Invalid("--shard " + text + ": not of the form 0/2 (this server / all servers)");
}

/// Anything but loopback needs keys or the word of the user (DESIGN 5).
Result<Address> WhereToListen(const std::string& listen, bool safe) {
  MF_ASSIGN_OR_RETURN(const Address wanted, ParseTcp("--listen", listen, AddressUse::kListen));
  MF_ASSIGN_OR_RETURN(const Address address, ResolveToListen("--listen", wanted));
  if (safe || IsLoopback(address)) return address;
  return Status::Invalid("--listen " + listen +
                         ": reachable from other machines without keys; give --keys DIR (pserver "
                         "keygen makes them), a loopback address, or --insecure on a network you "
                         "trust");
}

Status Serve(const ServeFlags& flags) {
  RunHost::Options host;
  Shard::Options& options = host.shard;
  MF_RETURN_IF_ERROR(ParseShard(flags.shard, &options.shard, &options.shards));
  host.idle_seconds = flags.idle_seconds;
  MF_ASSIGN_OR_RETURN(const Address listen,
                      WhereToListen(flags.listen, flags.insecure || !flags.keys.empty()));
  const int threads = flags.threads > 0 ? flags.threads : CpuLimit();
  MF_RETURN_IF_ERROR(CheckThreads(threads + kOtherThreads));
  ServerKeys keys;
  if (!flags.keys.empty()) {
    MF_ASSIGN_OR_RETURN(keys, LoadServerKeys(flags.keys));
  }
  std::random_device random;
  options.incarnation = uint64_t{random()} << 32 | random();
  options.memory_bytes = flags.memory != 0 ? flags.memory : DefaultTableBytes();

  // Signals are taken by sigwait below; all threads inherit the mask.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  // A closed terminal; under nohup nobody minds it.
  struct sigaction hangup = {};
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
    sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  MF_ASSIGN_OR_RETURN(const auto storage,
                      Storage::Open(flags.data, options.shard, options.shards,
                                    flags.no_lock ? NoLocks::kGoOn : NoLocks::kRefuse));
  host.storage = storage.get();
  Metrics metrics;
  if (!flags.metrics.empty()) MF_RETURN_IF_ERROR(metrics.Serve(flags.metrics));
  options.metrics = &metrics;
  metrics.Count(Metric::kConnectionsRefused, {"descriptors"}, 0);
  if (!flags.keys.empty()) {
    for (const char* reason : {"unknown_key", "handshake"}) {
      metrics.Count(Metric::kConnectionsRefused, {reason}, 0);
    }
  }
  TransportContext context;
  MF_ASSIGN_OR_RETURN(std::unique_ptr<ServerTransport> transport,
                      BindZmq(context, listen.Tcp(), flags.keys.empty() ? nullptr : &keys,
                              [&metrics](std::string_view reason) {
                                metrics.Count(Metric::kConnectionsRefused, {reason});
                              }));
  const std::string address = transport->address();
  Server server(std::move(transport), host, threads, &metrics, flags.waiting_bytes);
  spdlog::info("pserver {}, kernels for {}; may use {}", ThisProgram().Text(), KernelTarget(),
               DescribeLimits());
  std::printf("listening %s\n", address.c_str());
  if (!flags.metrics.empty()) std::printf("metrics %s\n", metrics.address().c_str());
  if (const Status said = FlushOutputOrDrop(); !said.ok()) {
    spdlog::warn("{}; this server listens on {}", said.message(), address);
  }
  spdlog::info("shard {} of {} on {}, {} runs stored", options.shard, options.shards,
               storage->dir(), storage->Runs().size());
  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info(
      "signal {}: saves the last finished step and ends; another signal ends at once; {} messages "
      "did not parse, {} replies found nobody",
      signal, server.malformed(), server.unsent());
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (sigismember(&signals, SIGHUP) == 1) std::signal(SIGHUP, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  const Server::Ended ended = server.End(flags.grace_seconds);
  if (ended == Server::Ended::kSaved) return Status::Ok();
  if (ended == Server::Ended::kUnsaved) {
    return Status::Failed(
        "the last finished step could not be saved, see above; the run goes on from the snapshot "
        "before");
  }
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%g", flags.grace_seconds);
  PrintError("the last finished step was not saved within " + std::string(seconds) +
             " s (--grace-seconds); is the disk of --data well? The run goes on from the snapshot "
             "before");
  _exit(1);  // whoever writes may never come back
}

void AddServeCommand(CLI::App& app, Status* status) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve one shard of all tables");
  command->add_option("--listen", flags->listen, "tcp://HOST:PORT; port 0: any")->required();
  command->add_option("--shard", flags->shard, "This server / all servers: 0/2")->required();
  command->add_option("--data", flags->data, "Folder of this server's state")->required();
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax,
            "Of the kernels; 0: one per core");
  AddNumber(*command, "--memory", &flags->memory, 0, kBytesMax,
            "Bytes for tables addressed directly; 0: 70% of the machine's or container's");
  AddNumber(*command, "--waiting-bytes", &flags->waiting_bytes, 0, kBytesMax,
            "Room for requests that wait for others, more are refused; 0: an eighth of the "
            "machine's or container's memory");
  command->add_option("--metrics", flags->metrics, "Serve /metrics on HOST:PORT; port 0: any");
  command->add_option("--keys", flags->keys, "Folder with server.key and clients: who may connect");
  AddNumber(*command, "--idle-seconds", &flags->idle_seconds, 0, kSecondsMax,
            "So long after an unfinished run's last worker was heard another may begin")
      ->capture_default_str();
  AddNumber(*command, "--grace-seconds", &flags->grace_seconds, 0, kSecondsMax,
            "At most so long after SIGTERM or SIGINT the last finished step is being saved")
      ->capture_default_str();
  command->add_flag("--no-lock", flags->no_lock,
                    "On a file system without locks: no other server uses --data");
  command->add_flag("--insecure", flags->insecure, "Listen beyond loopback without keys");
  command->callback([flags, status] { *status = Serve(*flags); });
}

}  // namespace
}  // namespace mf

namespace {

int Run(int argc, char** argv) {
  mf::PrepareProcess();
  CLI::App app("Holds the tables of MemoryFormer models and serves them to workers.", "pserver");
  app.require_subcommand(1);
  mf::Status status = mf::SetUpLogging("info");  // to stderr: stdout says where it listens
  mf::AddServeCommand(app, &status);
  mf::AddKeygenCommand(app, &status);
  mf::AddInspectCommand(app, &status);
  mf::AddReshardCommand(app, &status);
  mf::AddRunsCommand(app, &status);
  try {
    mf::ParseCommandLine(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    return mf::ReportParseError(app, error);
  }
  return mf::Report(status);
}

}  // namespace

int main(int argc, char** argv) {
  return mf::RunProgram([&] { return Run(argc, argv); });
}
