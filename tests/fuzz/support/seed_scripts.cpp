#include "tests/fuzz/support/seed_scripts.h"

#include <cstring>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/table/row_format.h"
#include "tests/fuzz/support/server_case.h"
#include "tests/fuzz/support/worker_requests.h"
#include "tests/support/request_fields.h"

namespace mf::fuzz {
namespace {

/// A worker with one server.
class Worker {
 public:
  Worker(uint8_t setting, bool joined) : server_(setting, joined) {
    columns_ = static_cast<size_t>(server_.run().tensors[0].columns);
    if ((setting & kSecondShard) != 0) columns_ /= 2;
    if (!joined) Hello();
  }
  ServerCase& server() { return server_; }

  /// Takes work until `steps` steps have ended, or the run has.
  void Work(uint64_t steps) {
    for (int i = 0; i < 100 && ended_ < steps; ++i) {
      const std::vector<Reply> replies = server_.Ask(
          {.body = LeaseRequest{.known_epoch = epoch_, .incarnations = {kIncarnation}}});
      if (replies.empty()) continue;
      MF_CHECK(replies[0].code == Code::kOk);
      const LeaseReply& lease = As<LeaseReply>(replies[0]);
      if (lease.work == mf::Work::kFinished) return;
      Do(lease);
    }
    MF_CHECK(ended_ == steps);
  }
  /// Brings the state that the run begins with.
  void Bring() {
    InitialiseRequest request{.attempt = 5};
    for (const TensorSpec& tensor : server_.run().tensors) {
      request.tensor = tensor.id;
      Buffer row(sizeof(uint64_t));  // row 0, or the last one of a keyed tensor
      std::memset(row.data(), tensor.kind == TensorKind::kKeyed ? 0xFF : 0, row.size());
      const int64_t shards = server_.run().tensors[0].columns / static_cast<int64_t>(columns_);
      Buffer state(RowFormat(tensor, ShareOf(tensor, 0, 0, shards)).bytes());
      std::memset(state.data(), 0, state.size());
      Must({.body = request, .payload = {Frame(row), Frame(state)}});
      ++request.part;
    }
    request.last = true;
    Buffer rate(sizeof(double));
    const double lr = 0.01;
    std::memcpy(rate.data(), &lr, sizeof(lr));
    Must({.body = request, .payload = {Frame(), Frame(), Frame(rate)}});
  }
  /// What else there is to say.
  void SayTheRest() {
    const uint64_t step = ended_;
    const FinishedStep at{epoch_, step};
    server_.Ask({.body = StatusRequest{}});
    server_.Ask({.body = BucketsRequest{.tensor = 0}});
    server_.Ask({.body = ListRowsRequest{.at = at, .tensor = 0, .row_count = 100}});
    server_.Ask({.body = PullOf(server_.run().tensors[0], at).body, .payload = {Frame()}});
    server_.Ask({.body = SaveRequest{.step = step, .by_all = true}});
    server_.Ask({.body = RollbackRequest{.to = {epoch_ + 1, step}}});
    server_.Ask({.body = StopRequest{.run = server_.run().RunId()}}, kSecondPeer);
    server_.Ask({.body = LeaveRequest{}});
  }
  /// A step of a server without the coordinator, whose worker was told elsewhere what to do.
  void StepWithoutCoordinator() {
    epoch_ = uint64_t{1} << 32 | 1;
    const OpenStep at{epoch_, ended_ + 1};
    for (uint32_t i = 0; i < server_.run().rules.micro_batches; ++i) Contribute(at, i);
    End(at);
  }

 private:
  static constexpr uint64_t kIncarnation = 1;

  void Hello() {
    MF_CHECK(server_.Ask({.body = HelloRequest{.shards = 1, .description = server_.run().Json()}})
                 .size() == 1);
  }
  void Contribute(OpenStep at, uint32_t micro_batch) {
    for (const TensorSpec& tensor : server_.run().tensors) {
      if (tensor.kind != TensorKind::kMemory) {
        Must(PullOf(tensor, at));
        Must(PushOf(tensor, at, micro_batch, columns_, /*all=*/micro_batch == 0));
      } else {
        Must(ForwardOf(server_.run(), tensor, at));
        Must(BackwardOf(server_.run(), tensor, at, micro_batch, columns_));
      }
    }
  }
  void End(OpenStep at) {
    Must({.body = PrepareRequest{at}});
    ApplyRequest apply{.at = at, .lr = 0.01, .scale = 1, .grad_norm = 2};
    apply.snapshots.take = true;
    if (at.step > 2) apply.snapshots.discard = {at.step - 2};
    Must({.body = apply});
    ++ended_;
  }
  void Do(const LeaseReply& lease) {
    epoch_ = lease.epoch;
    switch (lease.work) {
      case mf::Work::kRecover:
        Must({.body = RollbackRequest{.to = lease.finished()}});
        Must({.body = RecoveredRequest{
                  .to = lease.finished(), .recovered = true, .incarnations = {kIncarnation}}});
        return;
      case mf::Work::kMicroBatch:
        Must({.body = RenewRequest{lease.lease}});
        Contribute(lease.open(), lease.micro_batch);
        Must({.body = MicroBatchDoneRequest{lease.open(), lease.micro_batch, 3.5}});
        return;
      case mf::Work::kCommit:
        End(lease.open());
        Must({.body = StepEndedRequest{.at = lease.open(), .applied = true, .snapshot = true}});
        return;
      case mf::Work::kEvaluate:
        Must(ForwardOf(server_.run(), server_.run().tensors[0], lease.finished()));
        Must({.body = EvaluatedRequest{lease.finished(), 1.5}});
        return;
      default:
        return;
    }
  }
  void Must(const Request& request) {
    const std::vector<Reply> replies = server_.Ask(request);
    MF_CHECK(replies.size() == 1 && replies[0].code == Code::kOk);
  }

  ServerCase server_;
  size_t columns_ = 0;
  uint64_t epoch_ = 0;
  uint64_t ended_ = 0;
};

/// A request of every operation with nothing in it.
Script AllOperations() {
  Script script;
  for (int op = 0; op < kOpCount; ++op) {
    const Request request{.id = 7, .body = EmptyRequest(static_cast<Op>(op))};
    script.messages.push_back(MessageOf(Encode(request), kSessionAsSent));
  }
  return script;
}

std::string Entry(uint8_t space, uint8_t id, const std::string& bytes) {
  return std::string{static_cast<char>(space), static_cast<char>(id), '\0'} + bytes;
}

}  // namespace

NamedTexts UnjoinedScripts() {
  Worker worker(0, /*joined=*/false);
  worker.Work(1);
  Worker observer(0, /*joined=*/false);
  observer.server().Ask({.body = HelloRequest{.shards = 1}}, kSecondPeer);
  observer.server().Ask({.body = StatusRequest{}}, kSecondPeer);
  observer.server().Ask({.body = ListRowsRequest{.row_count = 4}}, kSecondPeer);
  observer.server().Ask({.body = PullRequest{.row_count = 4}, .payload = {Frame()}}, kSecondPeer);
  observer.server().Ask({.body = ListRunsRequest{}}, kSecondPeer | kSessionAsSent);
  observer.server().Ask({.body = DeleteRunRequest{"../x"}}, kSecondPeer | kSessionAsSent);
  return {{"operations", ScriptText(AllOperations())},
          {"worker", ScriptText(worker.server().script())},
          {"observer", ScriptText(observer.server().script())}};
}

NamedTexts JoinedScripts() {
  NamedTexts texts{{"operations", ScriptText(AllOperations())}};
  const std::pair<const char*, uint8_t> settings[] = {
      {"f32", 0}, {"bf16_sparse", kBf16 | kSparse}, {"no_snapshots", kNoSnapshots}};
  for (const auto& [name, setting] : settings) {
    Worker worker(setting, /*joined=*/true);
    worker.Work(1);
    worker.SayTheRest();
    texts[name] = ScriptText(worker.server().script());
  }
  Worker initial(kInitial | kNotRecovered, /*joined=*/true);
  initial.Bring();
  initial.Work(2);
  texts["initial"] = ScriptText(initial.server().script());
  Worker to_the_end(0, /*joined=*/true);
  to_the_end.Work(4);
  texts["to_the_end"] = ScriptText(to_the_end.server().script());
  Worker second(kSecondShard, /*joined=*/true);
  second.StepWithoutCoordinator();
  second.SayTheRest();
  texts["second_shard"] = ScriptText(second.server().script());
  return texts;
}

NamedTexts ReplyHeaders() {
  const RunState state{.finished = {1, 2},
                       .description = TinyRun(0).Json(),
                       .snapshots = {.published = {1, 2}, .writing = 3},
                       .had_common = 1};
  const StepRecord record{.step = 1, .loss = 2, .lr = 3, .grad_norm = 4};
  const std::pair<const char*, ReplyBody> bodies[] = {
      {"hello", HelloReply{.session = 5, .state = state}},
      {"pull", PullReply{}},
      {"prepare", PrepareReply{.not_finite = "a", .snapshots = state.snapshots}},
      {"apply", ApplyReply{true}},
      {"lease", LeaseReply{.work = Work::kCommit, .failure = "why", .records = {record, record}}},
      {"list_runs", ListRunsReply{{{.id = "a", .about = "b", .steps = 1}, {.id = "c"}}}},
      {"save", SaveReply{state.snapshots}},
      {"leave", LeaveReply{.workers = 1, .at = {1, 2}}}};
  NamedTexts texts;
  const auto add = [&](const char* name, const Reply& reply) {
    texts[name] = MessageOf(Encode(reply)).frames[0];
  };
  for (const auto& [name, body] : bodies) add(name, {.id = 1, .body = body});
  add("error", {.id = 2, .code = Code::kStale, .message = "the step has ended"});
  return texts;
}

NamedTexts EntryScripts() {
  const RunDescription run = TinyRun(0);
  const std::string rate(kRateBytes, '\0'), record(kRecordBytes, '\0');
  std::string text{'\0', '\0', '\2'};  // step 1, two applied steps
  for (uint8_t space = 0; space < 4; ++space) {
    const TensorSpec& tensor = run.tensors[space];
    const size_t bytes = RowFormat::Whole(tensor, 0).bytes();
    for (uint8_t row = 0; row < 2; ++row) {
      std::string value(bytes, '\0');
      value[0] = static_cast<char>(row);  // when it was updated
      text += Entry(space, row, value);
    }
  }
  text += Entry(4, 1, rate) + Entry(4, 2, rate) + Entry(5, 1, record);
  return {{"right", text}};
}

}  // namespace mf::fuzz
