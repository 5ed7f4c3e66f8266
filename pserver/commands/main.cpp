// pserver: a parameter server as a process.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/metrics/metrics.h"
#include "pserver/commands/commands.h"
#include "pserver/shard/server.h"
#include "pserver/shard/storage.h"

namespace mf {
namespace {

struct ServeFlags {
  std::string listen, shard, data, metrics, keys;
  int threads = 0;
  uint64_t memory = 0;
  double idle_seconds = 60;
  bool insecure = false;
};

/// "i/S" as numbers with i < S.
Status ParseShard(const std::string& text, uint32_t* shard, uint32_t* shards) {
  char rest = 0;
  if (std::sscanf(text.c_str(), "%u/%u%c", shard, shards, &rest) == 2 && *shards >= 1 &&
      *shards <= 4096 && *shard < *shards) {
    return Status::Ok();
  }
  return Status::Invalid("--shard " + text + ": not of the form 0/2 (this server / all servers)");
}

/// Anything but loopback needs keys or the word of the user (DESIGN 5).
Status CheckListen(const std::string& address, bool safe) {
  char host[256] = {}, rest = 0;
  unsigned port = 0;
  if (std::sscanf(address.c_str(), "tcp://%255[^:]:%u%c", host, &port, &rest) != 2 ||
      port > 65535) {
    return Status::Invalid("--listen " + address + ": not of the form tcp://HOST:PORT");
  }
  const std::string name = host;
  if (safe || name.starts_with("127.") || name == "localhost" || name == "[::1]")
    return Status::Ok();
  return Status::Invalid("--listen " + address +
                         ": reachable from other machines without keys; give --keys DIR (pserver "
                         "keygen makes them), a loopback address, or --insecure on a network you "
                         "trust");
}

Status Serve(const ServeFlags& flags) {
  RunHost::Options host;
  Shard::Options& options = host.shard;
  MF_RETURN_IF_ERROR(ParseShard(flags.shard, &options.shard, &options.shards));
  host.idle_seconds = flags.idle_seconds;
  MF_RETURN_IF_ERROR(CheckListen(flags.listen, flags.insecure || !flags.keys.empty()));
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
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  MF_ASSIGN_OR_RETURN(const auto storage, Storage::Open(flags.data, options.shard, options.shards));
  host.storage = storage.get();
  Metrics metrics;
  if (!flags.metrics.empty()) MF_RETURN_IF_ERROR(metrics.Serve(flags.metrics));
  options.metrics = &metrics;
  if (!flags.keys.empty()) {
    for (const char* reason : {"unknown_key", "handshake"}) {
      metrics.Count(Metric::kConnectionsRefused, {reason}, 0);
    }
  }
  TransportContext context;
  MF_ASSIGN_OR_RETURN(std::unique_ptr<ServerTransport> transport,
                      BindZmq(context, flags.listen, flags.keys.empty() ? nullptr : &keys,
                              [&metrics](std::string_view reason) {
                                metrics.Count(Metric::kConnectionsRefused, {reason});
                              }));
  const std::string address = transport->address();
  const int threads = flags.threads > 0 ? flags.threads : CpuLimit();
  Server server(std::move(transport), host, threads, &metrics);
  std::printf("listening %s\n", address.c_str());
  if (!flags.metrics.empty()) std::printf("metrics %s\n", metrics.address().c_str());
  std::fflush(stdout);
  spdlog::info("shard {} of {} on {}, {} runs stored", options.shard, options.shards,
               storage->dir(), storage->Runs().size());
  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("ends after signal {}; {} messages did not parse, {} replies found nobody", signal,
               server.malformed(), server.unsent());
  // A second signal while things are put away ends the process at once.
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  return Status::Ok();
}

void AddServeCommand(CLI::App& app, Status* status) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve one shard of all tables");
  command->add_option("--listen", flags->listen, "tcp://HOST:PORT; port 0: any")->required();
  command->add_option("--shard", flags->shard, "This server / all servers: 0/2")->required();
  command->add_option("--data", flags->data, "Folder of this server's state")->required();
  command->add_option("--threads", flags->threads, "Of the kernels; 0: one per core")
      ->check(CLI::Range(0, 1024));
  command->add_option(
      "--memory", flags->memory,
      "Bytes for tables addressed directly; 0: 70% of the machine's or container's");
  command->add_option("--metrics", flags->metrics, "Serve /metrics on HOST:PORT; port 0: any");
  command->add_option("--keys", flags->keys, "Folder with server.key and clients: who may connect");
  command
      ->add_option("--idle-seconds", flags->idle_seconds,
                   "So long after an unfinished run's last worker was heard another may begin")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--insecure", flags->insecure, "Listen beyond loopback without keys");
  command->callback([flags, status] { *status = Serve(*flags); });
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  CLI::App app("Holds the tables of MemoryFormer models and serves them to workers.", "pserver");
  app.require_subcommand(1);
  mf::Status status = mf::SetUpLogging("info");  // to stderr: stdout says where it listens
  mf::AddServeCommand(app, &status);
  mf::AddKeygenCommand(app, &status);
  mf::AddInspectCommand(app, &status);
  mf::AddReshardCommand(app, &status);
  mf::AddRunsCommand(app, &status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    status = mf::Status::Invalid(error.what());
  }
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return status.exit_code();
}
