// pserver serve: a shard of all tables, of runs that are trained or, with --read-only, of
// snapshots.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "common/base/address.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/run_program.h"
#include "common/commands/number_option.h"
#include "common/kernels/target.h"
#include "common/metrics/metrics.h"
#include "common/run/versions.h"
#include "pserver/commands/commands.h"
#include "pserver/serving/read_only_host.h"
#include "pserver/serving/snapshot_follower.h"
#include "pserver/shard/server.h"
#include "pserver/shard/storage.h"

namespace mf {
namespace {

constexpr int kOtherThreads = 12;  // than those of the kernels: of libraries, snapshots, metrics

struct ServeFlags {
  std::string listen, shard, data, from, metrics, keys;
  int threads = 0;
  uint64_t step = 0;
  int64_t follow_seconds = 0;
  uint64_t memory = 0, waiting_bytes = 0;
  double idle_seconds = 60, grace_seconds = 45;
  bool read_only = false, insecure = false, no_lock = false;
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

/// --data is for servers that train, --from for those that only read.
Status CheckFlags(const ServeFlags& flags) {
  if (flags.read_only) {
    if (flags.from.empty()) {
      return Status::Invalid(
          "--read-only: give --from DIR, the --data folder of the servers that "
          "train or trained the run");
    }
    if (!flags.data.empty()) {
      return Status::Invalid("--data: a server that is --read-only writes nothing; leave it out");
    }
    if (flags.follow_seconds != 0 && flags.step != 0) {
      return Status::Invalid("--follow: serves what comes; leave --step out");
    }
    return Status::Ok();
  }
  if (flags.data.empty()) return Status::Invalid("--data is required (or --read-only --from DIR)");
  if (!flags.from.empty() || flags.follow_seconds != 0 || flags.step != 0) {
    return Status::Invalid("--from, --follow and --step are for --read-only");
  }
  return Status::Ok();
}

bool IsPending(const sigset_t& signals) {
  sigset_t pending;
  if (sigpending(&pending) != 0) return false;
  return sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1 ||
         (sigismember(&signals, SIGHUP) == 1 && sigismember(&pending, SIGHUP) == 1);
}

/// What the process serves; its parts outlive the server.
struct Served {
  std::unique_ptr<Storage> storage;             // of runs that are trained, or
  std::unique_ptr<SnapshotFollower> snapshots;  // of what is only read
  Server::MakeHost make_host;
};

/// `signals` are blocked: while the first state is loaded it is looked for them.
Result<Served> OpenReadOnly(const ServeFlags& flags, const Shard::Options& shard, int threads,
                            const sigset_t& signals) {
  Served served;
  const uint64_t memory =
      flags.follow_seconds != 0 ? shard.memory_bytes / 2 : shard.memory_bytes;  // of a state
  MF_ASSIGN_OR_RETURN(served.snapshots,
                      SnapshotFollower::Open({.state = {.from = flags.from,
                                                        .step = flags.step,
                                                        .shard = shard.shard,
                                                        .shards = shard.shards,
                                                        .memory_bytes = memory,
                                                        .threads = threads},
                                              .follow_seconds = flags.follow_seconds,
                                              .ends = [signals] { return IsPending(signals); },
                                              .metrics = shard.metrics}));
  served.make_host = [shard, snapshots = served.snapshots.get()](ThreadPool&, Shard::Send send) {
    return std::make_unique<ReadOnlyHost>(
        ReadOnlyHost::Options{.shard = shard, .snapshots = snapshots}, std::move(send));
  };
  return served;
}

Result<Served> OpenStorage(const ServeFlags& flags, const Shard::Options& shard) {
  Served served;
  MF_ASSIGN_OR_RETURN(served.storage,
                      Storage::Open(flags.data, shard.shard, shard.shards,
                                    flags.no_lock ? NoLocks::kGoOn : NoLocks::kRefuse));
  const RunHost::Options host{
      .shard = shard, .storage = served.storage.get(), .idle_seconds = flags.idle_seconds};
  served.make_host = [host](ThreadPool& pool, Shard::Send send) {
    return std::make_unique<RunHost>(host, pool, std::move(send));
  };
  return served;
}

Status Serve(const ServeFlags& flags) {
  MF_RETURN_IF_ERROR(CheckFlags(flags));
  Shard::Options options;
  MF_RETURN_IF_ERROR(ParseShard(flags.shard, &options.shard, &options.shards));
  MF_ASSIGN_OR_RETURN(const Address listen,
                      WhereToListen(flags.listen, flags.insecure || !flags.keys.empty()));
  const int threads = flags.threads > 0 ? flags.threads : CpuLimit();
  // With --follow beside the server's own those of two states.
  const int pools = flags.follow_seconds != 0 ? 3 : flags.read_only ? 2 : 1;
  MF_RETURN_IF_ERROR(CheckThreads(pools * threads + kOtherThreads));
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

  Metrics metrics;
  options.metrics = &metrics;
  Served served;
  if (!flags.read_only) {
    MF_ASSIGN_OR_RETURN(served, OpenStorage(flags, options));
  }
  if (!flags.metrics.empty()) MF_RETURN_IF_ERROR(metrics.Serve(flags.metrics));
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
  if (flags.read_only) {  // what takes long comes last
    Result<Served> opened = OpenReadOnly(flags, options, threads, signals);
    if (!opened.ok() && IsPending(signals)) {
      spdlog::info("a signal: ends before anything was served");
      return Status::Ok();
    }
    MF_ASSIGN_OR_RETURN(served, std::move(opened));
  }
  Server server(std::move(transport), served.make_host, threads, &metrics, flags.waiting_bytes);
  spdlog::info("pserver {}, kernels for {}; may use {}", ThisProgram().Text(), KernelTarget(),
               DescribeLimits());
  std::printf("listening %s\n", address.c_str());
  if (!flags.metrics.empty()) std::printf("metrics %s\n", metrics.address().c_str());
  if (const Status said = FlushOutputOrDrop(); !said.ok()) {
    spdlog::warn("{}; this server listens on {}", said.message(), address);
  }
  if (served.storage != nullptr) {
    spdlog::info("shard {} of {} on {}, {} runs stored", options.shard, options.shards,
                 served.storage->dir(), served.storage->Runs().size());
  }
  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("signal {}: {}; {} messages did not parse, {} replies found nobody", signal,
               flags.read_only
                   ? "ends"
                   : "saves the last finished step and ends; another signal ends at once",
               server.malformed(), server.unsent());
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

}  // namespace

void AddServeCommand(CLI::App& app, Status* status) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve one shard of all tables");
  command->add_option("--listen", flags->listen, "tcp://HOST:PORT; port 0: any")->required();
  command->add_option("--shard", flags->shard, "This server / all servers: 0/2")->required();
  command->add_option("--data", flags->data, "Folder of this server's state");
  command->add_flag("--read-only", flags->read_only,
                    "Serve the snapshots of --from to whoever reads, and train nothing");
  command->add_option("--from", flags->from,
                      "A --data folder with the snapshots of all servers of a run, however many");
  AddNumber(*command, "--follow", &flags->follow_seconds, 0, 86'400,
            "Take the newest snapshot every so many seconds, the same for all servers; 0: never");
  AddNumber(*command, "--step", &flags->step, 0, 1'000'000'000,
            "Serve this one; 0: the newest that all servers have");
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

}  // namespace mf
