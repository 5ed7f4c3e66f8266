#include "worker/embedded/embedded.h"

#include <atomic>
#include <chrono>

#include "common/base/machine_limits.h"
#include "common/client/snapshot_plan.h"
#include "pserver/offline/read_only_store.h"
#include "pserver/shard/server.h"
#include "pserver/shard/storage.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {

struct EmbeddedServers::Running {
  std::vector<std::unique_ptr<Storage>> storage;
  std::vector<std::unique_ptr<SnapshotStore>> stores;
  std::vector<std::unique_ptr<SnapshotWriter>> writers;
  std::vector<std::unique_ptr<Server>> servers;
};

EmbeddedServers::EmbeddedServers() : running_(std::make_unique<Running>()) {}
EmbeddedServers::~EmbeddedServers() = default;

std::string EmbeddedServers::NewAddress() {
  static std::atomic<uint64_t> made{0};
  return "inproc://pserver-" + std::to_string(made.fetch_add(1));
}

Result<std::unique_ptr<EmbeddedServers>> EmbeddedServers::Start(TransportContext& context,
                                                                const Options& options) {
  const uint64_t incarnation =
      static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  std::unique_ptr<EmbeddedServers> embedded(new EmbeddedServers());
  for (int shard = 0; shard < options.shards; ++shard) {
    const std::string address = NewAddress();
    MF_ASSIGN_OR_RETURN(std::unique_ptr<ServerTransport> transport, BindZmq(context, address));
    RunHost::Options host;
    host.one_run = true;  // --out is of one training
    Shard::Options& shard_options = host.shard;
    shard_options.shard = static_cast<uint32_t>(shard);
    shard_options.shards = static_cast<uint32_t>(options.shards);
    shard_options.incarnation = incarnation;
    shard_options.memory_bytes = options.memory_bytes / static_cast<uint64_t>(options.shards);
    if (!options.data.empty()) {
      MF_ASSIGN_OR_RETURN(auto storage,
                          Storage::Open(options.data, shard_options.shard, shard_options.shards));
      host.storage = storage.get();
      embedded->running_->storage.push_back(std::move(storage));
    }
    shard_options.metrics = shard == 0 ? options.metrics : nullptr;
    embedded->running_->servers.push_back(
        std::make_unique<Server>(std::move(transport), host, options.threads));
    embedded->addresses_.push_back(address);
  }
  return embedded;
}

Result<std::unique_ptr<EmbeddedServers>> EmbeddedServers::StartOnSnapshots(
    TransportContext& context, const std::string& dir, int threads, SnapshotsFound* found) {
  MF_ASSIGN_OR_RETURN(std::vector<ShardFolder> folders, FindShardFolders(dir));
  std::unique_ptr<EmbeddedServers> embedded(new EmbeddedServers());
  std::vector<SnapshotState> states;
  std::vector<std::unique_ptr<SnapshotReader>> readers;
  for (auto folder = folders.begin(); folder != folders.end();) {
    MF_ASSIGN_OR_RETURN(auto reader, OpenRocksSnapshotReader(folder->path));
    if (reader->Published().empty()) {
      folder = folders.erase(folder);  // what a start with a wrong --shard left, perhaps
      continue;
    }
    states.push_back({reader->Published(), 0});
    readers.push_back(std::move(reader));
    ++folder;
  }
  const uint32_t shards = folders.empty() ? 0 : folders.back().shards;
  if (shards == 0 || folders.size() != shards || folders.front().shards != shards) {
    return Status::Invalid(dir + " holds snapshots of " + std::to_string(folders.size()) +
                           " servers of a run with " + std::to_string(shards) +
                           "; bring the folders of all servers of one run together");
  }
  for (auto& reader : readers) {
    embedded->running_->stores.push_back(std::make_unique<ReadOnlyStore>(std::move(reader)));
  }
  found->step = NewestCommonStep(states);
  if (found->step == 0) {
    return Status::Invalid(dir + ": its servers have no step in common; `pserver inspect " + dir +
                           "` shows what they have");
  }
  MF_ASSIGN_OR_RETURN(const SnapshotInfo info, embedded->running_->stores[0]->Info(found->step));
  found->description = info.description;
  for (const ShardFolder& folder : folders) {
    const std::string address = NewAddress();
    MF_ASSIGN_OR_RETURN(std::unique_ptr<ServerTransport> transport, BindZmq(context, address));
    Shard::Options options;
    options.shard = folder.shard;
    options.shards = shards;
    options.memory_bytes = DefaultTableBytes() / shards;
    options.store = embedded->running_->stores[folder.shard].get();
    embedded->running_->writers.push_back(MakeThreadedSnapshotWriter(*options.store));
    options.writer = embedded->running_->writers.back().get();
    embedded->running_->servers.push_back(std::make_unique<Server>(
        std::move(transport), RunHost::Options{.shard = options}, threads));
    embedded->addresses_.push_back(address);
  }
  return embedded;
}

}  // namespace mf
