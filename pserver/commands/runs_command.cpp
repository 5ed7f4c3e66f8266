// pserver runs: which runs are stored in a --data folder or on running servers, and deleting one.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/files.h"
#include "common/client/connection.h"
#include "common/commands/command_line.h"
#include "pserver/commands/commands.h"
#include "pserver/shard/data_directory.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {
namespace {

struct RunsFlags {
  std::string dir, keys, remove;
  std::vector<std::string> pservers;
};

using RunsById = std::map<std::string, StoredRun>;

void Print(const RunsById& runs) {
  if (runs.empty()) std::printf("no runs\n");
  for (const auto& [id, run] : runs) {
    // A fault is shown whole.
    const size_t most = run.about.starts_with(kUnreadable) ? run.about.size() : 60;
    std::string about = run.about.substr(0, most);
    std::replace_if(
        about.begin(), about.end(), [](unsigned char c) { return c < ' ' || c > '~'; }, ' ');
    std::printf("%s  step %llu of %llu%s  %s%s\n", id.substr(0, 16).c_str(),
                static_cast<unsigned long long>(run.newest),
                static_cast<unsigned long long>(run.steps), run.active ? ", served now" : "",
                about.c_str(), run.about.size() > most ? "..." : "");
  }
}

/// The one run whose id begins like this. kInvalid if there is none, more than one, or it is
/// served.
Result<std::string> FindIdle(const RunsById& runs, const std::string& begin) {
  std::string found;
  for (const auto& [id, run] : runs) {
    if (!id.starts_with(begin)) continue;
    if (!found.empty())
      return Status::Invalid("--delete " + begin + ": more than one run begins so");
    found = id;
  }
  if (found.empty()) return Status::Invalid("--delete " + begin + ": no run begins so");
  if (runs.at(found).active) {
    return Status::Invalid("run " + found +
                           " is served now; stop the servers or begin another run first");
  }
  return found;
}

// Of a folder.

Result<RunsById> RunsIn(const std::string& dir) {
  MF_RETURN_IF_ERROR(CheckFolder(dir, "name the --data folder of the servers"));
  RunsById runs;
  for (const RunFolder& folder : FindRuns(dir)) {
    StoredRun run = DescribeStored(folder);
    if (const auto shards = FindShardFolders(folder.path); shards.ok()) {
      std::vector<std::unique_ptr<SnapshotReader>> readers;
      for (const ShardFolder& shard : shards.value()) {
        MF_ASSIGN_OR_RETURN(auto reader, OpenRocksSnapshotReader(shard.path));
        readers.push_back(std::move(reader));
        run.active |= DataDirectory::CheckFree(shard.path).code() == Code::kFailed;
      }
      const std::vector<uint64_t> common = CommonSteps(readers);
      run.newest = common.empty() ? 0 : common.back();
    }
    runs[run.id] = run;
  }
  return runs;
}

Status DeleteIn(const std::string& dir, const std::string& id) {
  const std::string path = dir + "/" + RunFolderName(id);
  if (const auto shards = FindShardFolders(path); shards.ok()) {
    for (const ShardFolder& shard : shards.value()) {
      MF_RETURN_IF_ERROR(DataDirectory::CheckFree(shard.path));
    }
  }
  return RemoveAtOnce(path);
}

// Of servers.

Result<RunsById> RunsOn(Client& client) {
  const Client::Outcome replies =
      client.CallAll(std::vector<Request>(client.servers(), {.body = ListRunsRequest{}})).get();
  if (!replies.ok()) return replies.status();
  RunsById runs;
  std::map<std::string, size_t> servers;  // that have the run
  for (const Reply& reply : replies.value()) {
    for (const StoredRun& run : As<ListRunsReply>(reply).runs) {
      const auto [known, added] = runs.emplace(run.id, run);
      known->second.newest = std::min(known->second.newest, run.newest);
      known->second.active |= run.active;
      ++servers[run.id];
    }
  }
  for (auto& [id, run] : runs) {
    if (servers[id] < client.servers()) run.newest = 0;
  }
  return runs;
}

/// Server after server, as workers join: while server 0 serves the run nothing of it is deleted. A
/// server that has nothing of it is no error.
Status DeleteOn(Client& client, const std::string& id) {
  for (size_t server = 0; server < client.servers(); ++server) {
    Client::Outcome list = client.Call(server, {.body = ListRunsRequest{}}).get();
    if (!list.ok()) return list.status();
    const std::vector<StoredRun>& runs = As<ListRunsReply>((*list)[0]).runs;
    if (std::none_of(runs.begin(), runs.end(), [&](const auto& run) { return run.id == id; })) {
      continue;
    }
    MF_RETURN_IF_ERROR(client.Call(server, {.body = DeleteRunRequest{id}}).get().status());
  }
  return Status::Ok();
}

Status OnServers(const RunsFlags& flags) {
  constexpr double kDeadlineSeconds = 10;  // somebody waits at a terminal
  MF_ASSIGN_OR_RETURN(const auto connection, Connect(flags.pservers, flags.keys, kDeadlineSeconds));
  Client& client = *connection->client;
  MF_ASSIGN_OR_RETURN(const RunsById runs, RunsOn(client));
  if (flags.remove.empty()) {
    Print(runs);
    return Status::Ok();
  }
  MF_ASSIGN_OR_RETURN(const std::string id, FindIdle(runs, flags.remove));
  return DeleteOn(client, id);
}

Status InFolder(const RunsFlags& flags) {
  MF_ASSIGN_OR_RETURN(const RunsById runs, RunsIn(flags.dir));
  if (flags.remove.empty()) {
    Print(runs);
    return Status::Ok();
  }
  MF_ASSIGN_OR_RETURN(const std::string id, FindIdle(runs, flags.remove));
  return DeleteIn(flags.dir, id);
}

}  // namespace

void AddRunsCommand(CLI::App& app, Status* status) {
  auto flags = std::make_shared<RunsFlags>();
  CLI::App* command = app.add_subcommand("runs", "Which runs are stored, and deleting one");
  CLI::Option* dir = command->add_option("dir", flags->dir, "A --data folder");
  CLI::Option* pservers = AddServersOption(*command, &flags->pservers,
                                           "of all servers in shard order, instead of a folder")
                              ->excludes(dir);
  command->add_option("--keys", flags->keys, "Folder with client.key and server.pub")
      ->needs(pservers);
  command->add_option("--delete", flags->remove, "The run whose id begins so");
  command->callback([flags, status] {
    if (flags->dir.empty() && flags->pservers.empty()) {
      *status = Status::Invalid("pserver runs: name a --data folder or --pservers");
    } else {
      *status = flags->pservers.empty() ? InFolder(*flags) : OnServers(*flags);
    }
  });
}

}  // namespace mf
