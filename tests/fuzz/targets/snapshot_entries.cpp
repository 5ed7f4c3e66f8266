// The entries of a snapshot, as a server loads them at a rollback: rows, rates, records, in sizes
// and with numbers that no server wrote. What was loaded is then read, trained and saved again.
//   u8 setting, u8 step, u8 applied, then per entry: u8 space, u8 id, u8 bytes (0: as many as are
//   right), the bytes
#include <cstring>

#include "common/net/snapshot_state.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/table/row_format.h"
#include "tests/fuzz/support/server_case.h"
#include "tests/fuzz/support/target.h"
#include "tests/fuzz/support/worker_requests.h"

namespace mf::fuzz {
namespace {

constexpr OpenStep kOpenFrom{uint64_t{1} << 32 | 1, 1};
constexpr size_t kHead = 3;
constexpr uint64_t kStepMax = 3;  // of four

/// How many bytes an entry of the space has.
size_t RightBytes(const RunDescription& run, uint32_t space, size_t shards) {
  if (space == kRateSpace) return kRateBytes;
  if (space == kRecordSpace) return kRecordBytes;
  if (space >= run.tensors.size()) return 1;
  const TensorSpec& tensor = run.tensors[space];
  return RowFormat(tensor,
                   ShareOf(tensor, run.rules.column_blocks, 0, static_cast<int64_t>(shards)))
      .bytes();
}

simulation::Snapshot SnapshotOf(const RunDescription& run, std::string_view text, size_t shards) {
  simulation::Snapshot snapshot;
  snapshot.info.step = 1 + static_cast<uint8_t>(text[1]) % kStepMax;
  snapshot.info.applied = static_cast<uint8_t>(text[2]) % 4;
  snapshot.info.run_id = run.RunId();
  snapshot.info.description = run.Json();
  text.remove_prefix(kHead);
  const auto take = [&text](size_t count) {
    const std::string bytes(text.substr(0, count));
    text.remove_prefix(bytes.size());
    return bytes;
  };
  while (!text.empty()) {
    const std::string head = take(3);
    const uint32_t kSpaces[] = {0, 1, 2, 3, kRateSpace, kRecordSpace};
    const uint32_t space = kSpaces[static_cast<uint8_t>(head[0]) % std::size(kSpaces)];
    const uint64_t id = head.size() > 1 ? static_cast<uint8_t>(head[1]) : 0;
    const size_t said = head.size() > 2 ? static_cast<uint8_t>(head[2]) : 0;
    std::string value = take(said == 0 ? RightBytes(run, space, shards) : said);
    if (said == 0) value.resize(RightBytes(run, space, shards), '\0');
    snapshot.entries[{space, id}] = value;
  }
  return snapshot;
}

/// A step of the loaded state, up to its snapshot.
void TrainOneStep(ServerCase& server, OpenStep at, size_t columns) {
  for (uint32_t micro_batch = 0; micro_batch < server.run().rules.micro_batches; ++micro_batch) {
    for (const TensorSpec& tensor : server.run().tensors) {
      const bool memory = tensor.kind == TensorKind::kMemory;
      server.Ask(memory ? BackwardOf(server.run(), tensor, at, micro_batch, columns)
                        : PushOf(tensor, at, micro_batch, columns, /*all=*/micro_batch == 0));
    }
  }
  server.Ask({.body = PrepareRequest{at}});
  const auto applied = server.Ask({.body = ApplyRequest{.at = at, .lr = 0.01, .scale = 1}});
  MF_CHECK(applied.size() == 1 && applied[0].code == Code::kOk);
}

}  // namespace
}  // namespace mf::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  using namespace mf::fuzz;
  if (size < kHead) return 0;
  const uint8_t setting = (data[0] & (kBf16 | kSparse | kSecondShard)) | kNotRecovered;
  const size_t shards = (setting & kSecondShard) != 0 ? 2 : 1;
  ServerCase server(setting, /*joined=*/true);
  const RunDescription& run = server.run();
  const simulation::Snapshot snapshot = SnapshotOf(run, TextOf(data, size), shards);
  server.disk().published[snapshot.info.step] = snapshot;
  const FinishedStep at{kOpenFrom.epoch, snapshot.info.step};
  const auto loaded = server.Ask({.body = RollbackRequest{.to = at}});
  MF_CHECK(loaded.size() == 1);
  if (loaded[0].code != Code::kOk) {
    MF_CHECK(loaded[0].code == Code::kUnavailable);
    return 0;
  }
  for (const TensorSpec& tensor : run.tensors) {
    const auto pulled = server.Ask(PullOf(tensor, at));
    MF_CHECK(pulled.size() == 1 && pulled[0].code == Code::kOk);
    if (tensor.kind == TensorKind::kMemory) server.Ask(ForwardOf(run, tensor, at));
    server.Ask({.body = ListRowsRequest{.at = at, .tensor = tensor.id, .row_count = 100}});
  }
  TrainOneStep(server, at.next(), static_cast<size_t>(run.tensors[0].columns) / shards);
  server.Ask({.body = SaveRequest{.step = at.step + 1}});
  server.Ask({.body = StatusRequest{}});  // it is written before the next request
  MF_CHECK(server.disk().published.contains(at.step + 1));
  return 0;
}
