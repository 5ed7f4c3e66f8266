#include "tests/fuzz/support/server_case.h"

#include <utility>

#include "common/base/check.h"

namespace mf::fuzz {
namespace {

constexpr const char* kPeers[] = {"a", "b"};
constexpr size_t kMessagesMax = 200;  // of a script
constexpr uint64_t kBootCount = 1;
constexpr double kNumbersMax = 1 << 17;  // of a run that a peer describes
constexpr int64_t kTablesMax = 256;

TensorSpec Memory(const char* name, int64_t tables, int64_t rows, int64_t columns, int64_t probes) {
  TensorSpec spec{.name = name, .kind = TensorKind::kMemory};
  spec.tables = tables;
  spec.rows = rows;
  spec.columns = columns;
  spec.probes = probes;
  spec.init = Init::kNormal;
  spec.init_value = 0.02;
  spec.weight_decay = 0.1;
  spec.mode = ExchangeMode::kPushdown;
  spec.shape = {tables, rows, columns};
  return spec;
}

}  // namespace

RunDescription TinyRun(uint8_t setting) {
  constexpr int64_t kColumns = 32;  // two blocks: of two servers each has one
  RunDescription run;
  run.about = "{\"kind\":\"tiny\"}";
  if ((setting & kInitial) != 0) run.initial = "that of a peer";
  run.data = "none";
  run.rules = {.steps = 4, .micro_batches = 2, .tokens_per_micro_batch = 3, .window = 2};
  run.rules.lease_seconds = 1;
  run.rules.eval_every = 2;
  run.rules.snapshots = {.every_steps = 1, .every_minutes = 0, .keep = 1};
  run.rules.wire = (setting & kBf16) != 0 ? Wire::kBf16 : Wire::kF32;
  run.tensors.push_back(Memory("first.table", 2, 4, kColumns, 1));
  TensorSpec second = Memory("second.table", 1, 8, kColumns, 2);
  second.optimizer.kind = OptimizerKind::kAdagrad;
  second.optimizer.sparse_update = SparseUpdate::kLazy;
  second.row_type = RowType::kBf16;
  run.tensors.push_back(second);
  TensorSpec dense{.name = "third.weight"};
  dense.rows = 3;
  dense.columns = kColumns;
  dense.init_value = 1;
  dense.optimizer.kind = OptimizerKind::kSgd;
  dense.shape = {3, kColumns};
  run.tensors.push_back(dense);
  TensorSpec keyed{.name = "fourth", .kind = TensorKind::kKeyed};
  keyed.tables = kKeyRanges;
  keyed.rows = kRowsPerKeyRange;
  keyed.columns = 16;
  keyed.init = Init::kNormal;
  keyed.init_value = 0.02;
  keyed.optimizer.kind = OptimizerKind::kRowAdam;
  keyed.shape = {16};
  run.tensors.push_back(keyed);
  for (uint32_t i = 0; i < run.tensors.size(); ++i) run.tensors[i].id = i;
  MF_CHECK(run.Check().ok());
  return run;
}

ServerCase::ServerCase(uint8_t setting, bool joined)
    : run_(TinyRun(setting)),
      store_(disk_),
      initial_(initial_disk_),
      writer_(store_, [this](uint64_t increment) {
        if (!writer_waits_) writer_.Complete(increment);
      }) {
  script_.setting = setting;
  const bool second = (setting & kSecondShard) != 0, snapshots = (setting & kNoSnapshots) == 0;
  Shard::Options shard{.shard = second ? 1u : 0u, .shards = second ? 2u : 1u};
  shard.boot_count = kBootCount;
  shard.memory_bytes = (setting & kSparse) != 0 ? 0 : 1 << 20;
  shard.metrics = &metrics_;
  shard.store = snapshots ? &store_ : nullptr;
  shard.writer = snapshots ? &writer_ : nullptr;
  shard.initial = snapshots && !run_.initial.empty() ? &initial_ : nullptr;
  host_ = std::make_unique<RunHost>(
      RunHost::Options{.shard = shard}, pool_,
      [this](const std::string& peer, Reply reply) { Receive(peer, std::move(reply)); });
  if (!joined) return;
  const HelloRequest hello{
      .shard = shard.shard, .shards = shard.shards, .description = run_.Json()};
  for (const uint8_t control : {uint8_t{0}, uint8_t{kSecondPeer}}) {
    const std::vector<Reply> replies = Ask({.body = hello}, control);
    MF_CHECK(replies.size() == 1 && replies[0].code == Code::kOk);
  }
  if ((setting & kNotRecovered) == 0 && (run_.initial.empty() || snapshots)) {
    if (!run_.initial.empty()) {
      (void)Ask({.body = InitialiseRequest{.attempt = 1, .last = true},
                 .payload = {Frame(), Frame(), Frame()}});
    }
    const std::vector<Reply> replies =
        Ask({.body = RollbackRequest{.to = {kBootCount << 32 | 1, 0}}});
    MF_CHECK(replies.size() == 1 && replies[0].code == Code::kOk);
  }
  script_.messages.clear();  // they come with the case
}

bool ServerCase::IsLarge(const RequestBody& body) {
  const auto* hello = std::get_if<HelloRequest>(&body);
  if (hello == nullptr) return false;
  auto run = RunDescription::FromJson(hello->description);
  if (!run.ok()) return false;
  double numbers = 0;
  int64_t tables = 0;
  for (const TensorSpec& tensor : run->tensors) {
    if (tensor.kind == TensorKind::kKeyed) continue;
    numbers += static_cast<double>(tensor.total_rows()) * static_cast<double>(tensor.columns + 16);
    tables += tensor.tables;
  }
  return numbers > kNumbersMax || tables > kTablesMax;
}

void ServerCase::Receive(const std::string& peer, Reply reply) {
  Result<Reply> arrived = DecodeReply(Encode(reply));
  MF_CHECK(arrived.ok() && arrived->id == reply.id && arrived->code == reply.code);
  MF_CHECK(reply.code != Code::kOk || Answers(reply, reply.op));
  if (const auto* hello = std::get_if<HelloReply>(&reply.body); hello != nullptr) {
    sessions_[peer == kPeers[0] ? 0 : 1] = hello->session;
  }
  replies_.emplace_back(peer, std::move(reply));
}

/// What happens beside the messages.
void ServerCase::Pass(uint8_t control) {
  now_ += kSecondsBefore[(control & kTimeMask) / 4];
  disk_.full = (control & kDiskIsFull) != 0;
  writer_waits_ = (control & kWriterWaits) != 0;
  if ((control & kServerEnds) != 0 && !host_->ending()) host_->End(now_);
  if (host_->ending()) (void)host_->ReadyToEnd(now_);
  if (!writer_waits_) writer_.Complete();
  host_->Tick(now_);
  while (host_->Work(now_)) {
  }
}

void ServerCase::Deliver(const ScriptMessage& message) {
  Pass(message.control);
  const size_t peer = message.control & kSecondPeer;
  Result<Request> request = DecodeRequest(FramesOf(message));
  if (!request.ok() || IsLarge(request->body)) return;
  if ((message.control & kSessionAsSent) == 0) request->session = sessions_[peer];
  host_->Handle(kPeers[peer], *request, now_);
  (void)host_->HasWorkers(now_);
}

std::vector<Reply> ServerCase::Ask(Request request, uint8_t control) {
  static uint64_t next_id = 1;
  request.id = next_id++;
  replies_.clear();
  script_.messages.push_back(MessageOf(Encode(request), control));
  Deliver(script_.messages.back());
  std::vector<Reply> mine;
  for (auto& [peer, reply] : replies_) {
    if (reply.id == request.id) mine.push_back(std::move(reply));
  }
  return mine;
}

void RunScript(std::string_view text, bool joined) {
  const Script script = ParseScript(text);
  ServerCase server(script.setting, joined);
  for (size_t i = 0; i < script.messages.size() && i < kMessagesMax; ++i) {
    server.Deliver(script.messages[i]);
  }
}

}  // namespace mf::fuzz
