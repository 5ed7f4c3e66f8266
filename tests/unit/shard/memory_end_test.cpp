// Goal: memory may end at any allocation of any request, tick or piece of a snapshot. Then the
// request is answered with a typed error, or not at all, and has changed nothing: it is sent again,
// and the run goes on as if nothing had happened. Or the state is lost, and the server says so and
// refuses all requests until it is begun anew. A rollback may leave it without tables, until the
// next rollback. Never anything between: no step without a gradient.
//
// A script plays two steps of a run by hand, as one worker and the coordinator do it, with
// snapshots, an evaluation and a recovery. For every action of it, and every allocation in that,
// the script is played anew up to there, and that allocation fails: alone, or with all that follow
// in the same action.
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/buffer_pool.h"
#include "common/base/logging.h"
#include "pserver/table/row_format.h"
#include "tests/simulation/disk.h"
#include "tests/support/failing_memory.h"
#include "tests/support/shard_harness.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

using simulation::Disk;
using simulation::SimulatedStore;
using simulation::SimulatedWriter;

/// What an action does to the server; memory may end while it runs.
using Deed = std::function<void()>;

/// A server, and what its one worker knows.
class Player {
 public:
  explicit Player(uint64_t memory_bytes) : memory_bytes_(memory_bytes) {}

  ShardHarness& server() { return server_; }
  Shard& shard() { return server_.shard(); }
  SimulatedWriter& writer() { return writer_; }
  /// A request on its way. Every action sends one, with its own id: again with the same.
  Deed Send(size_t action, Request request) {
    request.id = kFirstId + action;
    request.session = server_.session;
    return [this, request = std::move(request)] { shard().Handle("peer", request, 0); };
  }
  /// The last answer to the action's request.
  std::optional<Reply> Answer(size_t action) const {
    const auto& sent = server_.sent();
    for (auto reply = sent.rbegin(); reply != sent.rend(); ++reply) {
      if (reply->second.id == kFirstId + action) return reply->second;
    }
    return std::nullopt;
  }

  LeaseReply lease;

 private:
  static constexpr uint64_t kFirstId = uint64_t{1} << 40;

  const uint64_t memory_bytes_;
  Disk disk_, initial_disk_;
  SimulatedStore store_{disk_}, initial_{initial_disk_};
  SimulatedWriter writer_{store_, [](uint64_t) {}};
  ShardHarness server_{Run(),
                       {.memory_bytes = memory_bytes_,
                        .recover = false,
                        .store = &store_,
                        .writer = &writer_,
                        .initial = &initial_}};

  static RunDescription Run() {
    Config config = ShardConfig();
    config.train.micro_batches = 2;
    config.train.steps = 2;
    config.train.eval_every = 1;
    config.snapshot.every_steps = 1;
    RunDescription run = DescribeRun(config, "");
    run.initial = "brought";
    return run;
  }
};

struct Action {
  std::string name;
  std::function<Deed(Player&, size_t action)> make;
  std::function<void(Player&, const Reply&)> learn;  // from the answer; none: there is no request
};

class Script {
 public:
  Script() {
    Ask(
        "hello", [](Player& p) { return p.server().Hello(); },
        [](Player& p, const Reply& r) { p.server().session = As<HelloReply>(r).session; });
    Lease(Work::kRecover);
    Say("status", [](Player&) { return Request{.body = StatusRequest{}}; });
    Say("initialise", [](Player& p) {
      const TensorSpec& tensor = p.server().specs().front();
      Buffer state(RowFormat::Whole(tensor, 0).bytes());
      std::memset(state.data(), 0, state.size());
      return Request{.body = InitialiseRequest{.attempt = 1, .last = true, .tensor = tensor.id},
                     .payload = {FrameOf(std::vector<uint64_t>{1}), Frame(state), Frame()}};
    });
    Say("rollback to the beginning",
        [](Player& p) { return p.server().Rollback(p.lease.epoch, 0); });
    Recovered(0);
    for (uint64_t step = 1; step <= 2; ++step) {
      for (uint32_t i = 0; i < 2; ++i) MicroBatch(step, i);
      Do("tick", [](Player& p) { p.shard().Tick(0); });
      End(step);
      Snapshot();
      Lease(Work::kEvaluate);
      Pull();
      Say("evaluated", [](Player& p) {
        return Request{.body = EvaluatedRequest{.at = p.lease.finished(), .val_loss = 2.5}};
      });
    }
    Say("save", [](Player&) { return Request{.body = SaveRequest{.step = 2}}; });
    Snapshot();  // where there was no memory for it before
    Say("rollback to a snapshot", [](Player& p) {
      p.server().epoch = p.lease.epoch + 1;
      return p.server().Rollback(p.server().epoch, 2);
    });
    Pull();
    Say("leave", [](Player&) { return Request{.body = LeaveRequest{}}; });
    Say("stop", [](Player& p) { return Request{.body = StopRequest{p.shard().run_id()}}; });
  }

  const std::vector<Action>& actions() const { return actions_; }

 private:
  using MakeRequest = std::function<Request(Player&)>;
  using Learn = std::function<void(Player&, const Reply&)>;

  void Ask(const std::string& name, const MakeRequest& request, const Learn& learn) {
    actions_.push_back(
        {name, [request](Player& p, size_t action) { return p.Send(action, request(p)); }, learn});
  }
  void Say(const std::string& name, const MakeRequest& request) {
    Ask(name, request, [](Player&, const Reply&) {});
  }
  void Do(const std::string& name, const std::function<void(Player&)>& deed) {
    actions_.push_back({name, [deed](Player& p, size_t) { return [deed, &p] { deed(p); }; }, {}});
  }

  void Lease(Work work) {
    Ask(
        "lease", [](Player&) { return Request{.body = LeaseRequest{}}; },
        [work](Player& p, const Reply& r) {
          p.lease = As<LeaseReply>(r);
          p.server().epoch = p.lease.epoch;
          ASSERT_EQ(p.lease.work, work);
        });
  }
  void Recovered(uint64_t step) {
    Say("recovered", [step](Player& p) {
      return Request{.body = RecoveredRequest{
                         .to = {p.lease.epoch, step}, .recovered = true, .incarnations = {1}}};
    });
  }
  void MicroBatch(uint64_t step, uint32_t i) {
    Lease(Work::kMicroBatch);
    Say("renew", [](Player& p) { return Request{.body = RenewRequest{p.lease.lease}}; });
    // Of each kind one: more would be the same.
    const auto all = Player(0).server().specs();
    for (const TensorSpec& spec : all) {
      if (spec.kind == TensorKind::kMemory) {
        Say("forward " + spec.name,
            [spec, step, i](Player& p) { return p.server().Forward(spec, step, i); });
        Say("backward " + spec.name,
            [spec, step, i](Player& p) { return p.server().Backward(spec, step, i); });
      } else {
        Say("push " + spec.name,
            [spec, step, i](Player& p) { return p.server().Push(spec, step, i); });
      }
    }
    Say("micro-batch done", [i](Player& p) {
      return Request{
          .body = MicroBatchDoneRequest{.at = p.lease.open(), .micro_batch = i, .loss_sum = 1.5}};
    });
  }
  void End(uint64_t step) {
    Lease(Work::kCommit);
    Say("buckets", [](Player& p) {
      for (const TensorSpec& spec : p.server().specs()) {
        if (spec.kind == TensorKind::kMemory)
          return Request{.body = BucketsRequest{.tensor = spec.id}};
      }
      return Request();
    });
    Say("prepare", [](Player& p) { return Request{.body = PrepareRequest{p.server().open()}}; });
    const SnapshotPlan plan{.take = true, .common = step - 1};
    if (step == 1) {
      Say("apply", [plan](Player& p) {
        return Request{.body = ApplyRequest{
                           .at = p.lease.open(), .lr = 0.25f, .scale = 0.5, .snapshots = plan}};
      });
    } else {
      Say("drop", [plan](Player& p) {
        return Request{.body = DropRequest{.at = p.lease.open(), .snapshots = plan}};
      });
    }
    Say("step ended", [step](Player& p) {
      return Request{
          .body = StepEndedRequest{.at = p.lease.open(), .applied = step == 1, .snapshot = true}};
    });
  }
  /// Writes what the last step's end has asked for.
  void Snapshot() {
    for (int i = 0; i < 3; ++i) Do("work on a snapshot", [](Player& p) { p.shard().Work(0); });
    Do("a snapshot is published", [](Player& p) {
      const UnlimitedMemory memory;  // the disk's
      p.writer().Complete();
    });
    Do("the outcome", [](Player& p) { p.shard().Work(0); });
  }
  void Pull() {
    Say("pull", [](Player& p) { return p.server().PullAll(p.server().specs().front()); });
    Say("list of rows", [](Player& p) {
      return Request{.body = ListRowsRequest{.at = p.server().finished(), .row_count = 10'000}};
    });
  }

  std::vector<Action> actions_;
};

bool Same(const Frames& a, const Frames& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size() ||
        (a[i].size() > 0 && std::memcmp(a[i].data(), b[i].data(), a[i].size()) != 0))
      return false;
  }
  return true;
}

class MemoryEndTest : public testing::TestWithParam<uint64_t> {
 protected:
  /// Plays [begin, end) with all the memory there is.
  void Play(Player& player, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      script_.actions()[i].make(player, i)();
      Learn(player, i);
    }
  }
  void Learn(Player& player, size_t i) {
    const Action& action = script_.actions()[i];
    if (!action.learn) return;
    const std::optional<Reply> reply = player.Answer(i);
    ASSERT_TRUE(reply.has_value()) << action.name;
    ASSERT_EQ(reply->code, Code::kOk) << action.name << ": " << reply->message;
    action.learn(player, *reply);
  }

  struct Count {
    uint64_t points = 0, unchanged = 0, lost = 0, unrecovered = 0;
  };
  /// After action `i`, a rollback that failed, the next one leads where that one should have.
  void CheckRecovers(Player& player, size_t i) {
    const uint64_t step = script_.actions()[i].name == "rollback to a snapshot" ? 2 : 0;
    ShardHarness& server = player.server();
    EXPECT_EQ(server.Send(server.PullAll(server.specs().front())).code, Code::kUnavailable);
    server.epoch = player.lease.epoch + 100;
    const Reply again = server.Send(server.Rollback(server.epoch, step));
    EXPECT_EQ(again.code, Code::kOk) << again.message;
    Player expected(GetParam());
    Play(expected, 0, i + 1);
    EXPECT_EQ(server.State(), expected.server().State());
  }

  static void Print(const std::string& name, const Count& count) {
    std::printf("%-28s %6" PRIu64 " points: %6" PRIu64 " unchanged, %5" PRIu64 " lost, %5" PRIu64
                " without tables\n",
                name.c_str(), count.points, count.unchanged, count.lost, count.unrecovered);
  }
  /// Memory ends after `spared` allocations of action `i`. False: it has no more of them.
  bool EndsAt(size_t i, uint64_t spared, FailingMemory::Ends ends, Count* count);

  const Script script_;
  std::optional<Player> undisturbed_;
  std::vector<uint32_t> final_state_;
};

bool MemoryEndTest::EndsAt(size_t i, uint64_t spared, FailingMemory::Ends ends, Count* count) {
  const Action& action = script_.actions()[i];
  Player player(GetParam());
  Play(player, 0, i);
  if (HasFatalFailure()) return false;
  const Deed deed = action.make(player, i);
  EmptyPool();
  {
    const FailingMemory memory(spared, ends);
    deed();
    if (!memory.failed()) return false;
  }
  ++count->points;
  const std::optional<Reply> reply = player.Answer(i);
  if (player.shard().lost()) {
    ++count->lost;
    if (reply.has_value() && reply->code != Code::kOk) {
      EXPECT_EQ(reply->code, Code::kUnavailable) << reply->message;
    }
    EXPECT_EQ(player.server().Send(player.server().Hello()).code, Code::kUnavailable);
    return true;
  }
  if (!player.shard().commit().recovered() && action.name.starts_with("rollback") &&
      (!reply.has_value() || reply->code == Code::kFailed)) {
    ++count->unrecovered;
    CheckRecovers(player, i);
    return true;
  }
  ++count->unchanged;
  if (reply.has_value() && reply->code != Code::kOk) {
    EXPECT_EQ(reply->code, Code::kFailed) << reply->message;
    EXPECT_NE(reply->message.find("memory"), std::string::npos) << reply->message;
  }
  if (action.learn) {
    // It comes again, as if the network had lost it.
    if (!reply.has_value() || reply->code != Code::kOk) deed();
    const std::optional<Reply> again = player.Answer(i), due = undisturbed_->Answer(i);
    const bool told = again.has_value() && due.has_value();
    EXPECT_TRUE(told && again->code == due->code && Same(again->payload, due->payload))
        << (again.has_value() ? again->message : "no answer");
    if (!told || again->code != Code::kOk) return true;
    action.learn(player, *again);
  }
  Play(player, i + 1, script_.actions().size());
  if (HasFatalFailure()) return true;
  EXPECT_EQ(player.server().State(), final_state_);
  return true;
}

TEST_P(MemoryEndTest, AtAnyAllocationOfAnyRequest) {
  spdlog::set_level(spdlog::level::off);
  // All of them with MF_ALL=1; else at most so many of an action, spread over it.
  const bool all = std::getenv("MF_ALL") != nullptr;
  constexpr uint64_t kMost = 24;
  undisturbed_.emplace(GetParam());
  ASSERT_NO_FATAL_FAILURE(Play(*undisturbed_, 0, script_.actions().size()));
  final_state_ = undisturbed_->server().State();
  std::map<std::string, Count> counts;
  for (size_t i = 0; i < script_.actions().size(); ++i) {
    const std::string& name = script_.actions()[i].name;
    for (const auto ends : {FailingMemory::Ends::kOnce, FailingMemory::Ends::kForGood}) {
      uint64_t stride = 1;
      for (uint64_t spared = 0;; spared += stride) {
        SCOPED_TRACE("action " + std::to_string(i) + ", " + name + ": memory ends " +
                     (ends == FailingMemory::Ends::kOnce ? "once" : "for good") + " after " +
                     std::to_string(spared) + " allocations");
        if (!EndsAt(i, spared, ends, &counts[name])) break;
        if (HasFailure()) return;
        if (!all && spared + 1 >= kMost) stride = stride + 1 + stride / 2;
      }
      if (HasFailure()) return;
    }
  }
  Count sum;
  for (const auto& [name, count] : counts) {
    Print(name, count);
    sum.points += count.points;
    sum.unchanged += count.unchanged;
    sum.lost += count.lost;
    sum.unrecovered += count.unrecovered;
  }
  Print("all", sum);
  EXPECT_GT(sum.lost, 0u);
  EXPECT_GT(sum.unchanged, 0u);
}

INSTANTIATE_TEST_SUITE_P(Storage, MemoryEndTest, testing::Values(0, 1 << 30),
                         [](const auto& param) { return param.param == 0 ? "Sparse" : "Direct"; });

}  // namespace
}  // namespace mf
