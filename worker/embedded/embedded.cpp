#include "worker/embedded/embedded.h"

#include <atomic>
#include <chrono>

#include "pserver/shard/server.h"
#include "pserver/shard/storage.h"

namespace mf {

struct EmbeddedServers::Running {
  std::vector<std::unique_ptr<Storage>> storage;
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
                          Storage::Open(options.data, shard_options.shard, shard_options.shards,
                                        options.no_lock ? NoLocks::kGoOn : NoLocks::kRefuse));
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

}  // namespace mf
