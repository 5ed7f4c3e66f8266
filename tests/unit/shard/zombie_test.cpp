// Goal: whoever held a lease, lost it and goes on all the same (a zombie: a worker that was
// stopped, a message that was under way for long) changes nothing on servers that have gone on
// without it (DESIGN 2.6, 2.7). Real servers on disks in memory; every schedule is written out by
// hand.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/client/lease_work.h"
#include "common/client/membership.h"
#include "common/client/work_loop.h"
#include "pserver/shard/shard.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/model.h"
#include "worker/config/tensors.h"

namespace mf::simulation {
namespace {

constexpr size_t kServers = 2;
constexpr double kLease = 1;

Config ZombieConfig() {
  Config config = SmallestConfig(kServers, false);
  config.train.steps = 20;
  config.train.micro_batches = 2;
  config.train.lease_seconds = kLease;
  config.train.eval_every = 0;
  config.snapshot.every_steps = 2;
  config.snapshot.keep = 1;
  return config;
}

/// A worker as far as servers know it.
struct Joined {
  std::vector<uint64_t> sessions, incarnations;
};

class Zombie : public testing::Test {
 protected:
  void SetUp() override {
    for (size_t server = 0; server < kServers; ++server) Restart(server);
  }
  void TearDown() override {
    for (Server& server : servers_) server.shard.reset();
  }

  struct Server {
    Disk disk;
    std::unique_ptr<SimulatedStore> store;
    std::unique_ptr<SimulatedWriter> writer;
    std::unique_ptr<Shard> shard;
  };

  /// The process dies and another one comes in its place.
  void Restart(size_t index) {
    Server& server = servers_[index];
    server.shard.reset();
    server.store = std::make_unique<SimulatedStore>(server.disk);
    server.writer = std::make_unique<SimulatedWriter>(*server.store, [](uint64_t) {});
    Shard::Options options;
    options.shard = static_cast<uint32_t>(index);
    options.shards = kServers;
    options.incarnation = ++incarnations_;
    options.boot_count = ++server.disk.boot_count;
    options.store = server.store.get();
    options.writer = server.writer.get();
    server.shard = std::make_unique<Shard>(options, pool_, [this](const std::string&, Reply reply) {
      replies_.push_back(std::move(reply));
    });
  }

  /// The answer; of a waiting request for work: what it gets when time passes.
  Reply Send(size_t server, const Joined& worker, Request request) {
    request.id = ++ids_;
    if (!worker.sessions.empty()) request.session = worker.sessions[server];
    replies_.clear();
    servers_[server].shard->Handle("worker", request, now_);
    for (int i = 0; i < 100; ++i) {
      for (const Reply& reply : replies_) {
        if (reply.id == request.id && reply.op == request.op()) return reply;
      }
      now_ += 0.05;
      servers_[server].shard->Tick(now_);
    }
    ADD_FAILURE() << OpName(request.op()) << " was not answered";
    return {};
  }
  std::vector<Reply> SendAll(const Joined& worker, const std::vector<Request>& requests) {
    std::vector<Reply> replies;
    for (size_t server = 0; server < requests.size(); ++server) {
      replies.push_back(Send(server, worker, requests[server]));
      EXPECT_EQ(replies.back().code, Code::kOk)
          << OpName(requests[server].op()) << ": " << replies.back().message;
    }
    return replies;
  }
  std::vector<Reply> SendAll(const Joined& worker, const RequestBody& body) {
    return SendAll(worker, std::vector<Request>(kServers, Request{.body = body}));
  }
  Reply Send(size_t server, const Joined& worker, RequestBody body) {
    return Send(server, worker, Request{.body = std::move(body)});
  }

  Joined Join() {
    const Membership membership(DescribeRun(config_, "").Json(), kServers);
    Joined joined;
    for (const Reply& reply : SendAll({}, membership.Hellos())) {
      joined.sessions.push_back(As<HelloReply>(reply).session);
      joined.incarnations.push_back(reply.incarnation);
    }
    return joined;
  }

  /// Asks the coordinator until it gets something to do.
  LeaseReply Ask(const Joined& worker) {
    for (int i = 0; i < 10; ++i) {
      const Reply reply = Send(0, worker, LeaseRequest{.incarnations = worker.incarnations});
      if (reply.code != Code::kOk) ADD_FAILURE() << reply.message;
      if (reply.code != Code::kOk || As<LeaseReply>(reply).work != Work::kWait) {
        return reply.code == Code::kOk ? As<LeaseReply>(reply) : LeaseReply{};
      }
    }
    return {};
  }
  LeaseReply Ask(const Joined& worker, Work expected) {
    const LeaseReply lease = Ask(worker);
    EXPECT_EQ(lease.work, expected) << lease.failure;
    return lease;
  }

  void ContributeAll(const Joined& worker, const LeaseReply& lease) {
    for (const TensorSpec& tensor : model_.tensors()) {
      SendAll(worker, model_.Contributions(tensor.id, lease.open(), lease.micro_batch));
    }
    const MicroBatchDoneRequest done{
        .at = lease.open(), .micro_batch = lease.micro_batch, .loss_sum = 1};
    EXPECT_EQ(Send(0, worker, done).code, Code::kOk);
  }
  /// Does all micro-batches of the open step and takes the lease of its commit.
  LeaseReply UpToCommit(const Joined& worker) {
    for (int64_t m = 0; m < config_.train.micro_batches; ++m) {
      ContributeAll(worker, Ask(worker, Work::kMicroBatch));
    }
    return Ask(worker, Work::kCommit);
  }

  struct Decided {
    Prepared prepared;
    StepEnd end;
    RequestBody request;  // apply or drop
  };
  Decided PrepareAll(const Joined& worker, const LeaseReply& lease) {
    const std::vector<Reply> answers = SendAll(worker, PrepareRequest{lease.open()});
    Decided decided;
    decided.prepared = CombinePrepared(model_.tensors(), model_.shares(), answers).value();
    decided.end = DecideEnd(decided.prepared, lease);
    decided.request = EndRequest(lease.open(), decided.end);
    return decided;
  }
  void EndAll(const Joined& worker, const LeaseReply& lease, const Decided& decided) {
    const std::vector<Reply> ended = SendAll(worker, decided.request);
    const Result<bool> applied = CombineEnded(lease.open(), ended);
    ASSERT_TRUE(applied.ok()) << applied.status().message();
    EXPECT_EQ(
        Send(0, worker, MakeStepEnded(lease.open(), decided.prepared, decided.end, applied.value()))
            .code,
        Code::kOk);
  }
  /// Steps up to and with `last`; snapshots that are begun are published, too.
  void RunTo(const Joined& worker, uint64_t last) {
    while (servers_[0].shard->commit().finished() < last) {
      const LeaseReply lease = UpToCommit(worker);
      EndAll(worker, lease, PrepareAll(worker, lease));
      if (HasFatalFailure() || HasNonfatalFailure()) return;
      for (size_t server = 0; server < kServers; ++server) Publish(server);
    }
  }
  /// What server `index` is writing becomes a published step, or fails.
  void Publish(size_t index, bool fails = false) {
    Server& server = servers_[index];
    while (server.shard->Work(now_)) {
    }
    server.disk.full = fails;
    server.writer->Complete();
    server.disk.full = false;
    server.shard->Work(now_);
  }

  Recovery LookAround(const Joined& worker, const LeaseReply& lease) {
    return DecideRecovery(lease, SendAll(worker, StatusRequest{}), /*may_save=*/true);
  }
  /// Takes the recover lease and does it. Returns its epoch.
  uint64_t Recover(const Joined& worker) {
    const LeaseReply lease = Ask(worker, Work::kRecover);
    const Recovery recovery = LookAround(worker, lease);
    SendAll(worker, recovery.rollbacks);
    EXPECT_EQ(Send(0, worker, recovery.recovered).code, Code::kOk);
    return lease.epoch;
  }

  /// So long that every lease has ended.
  void TimePasses() {
    now_ += 3 * kLease;
    servers_[0].shard->Tick(now_);
  }

  /// `request` is answered with `code` and does nothing to `server`.
  void ExpectNothing(size_t server, const Joined& zombie, const RequestBody& request, Code code) {
    ExpectNothing(server, zombie, Request{.body = request}, code);
  }
  void ExpectNothing(size_t server, const Joined& zombie, const Request& request, Code code) {
    const CommitState& commit = servers_[server].shard->commit();
    const uint64_t epoch = commit.epoch(), finished = commit.finished();
    const std::vector<uint64_t> published = Published(server);
    const Reply reply = Send(server, zombie, request);
    EXPECT_EQ(static_cast<int>(reply.code), static_cast<int>(code)) << reply.message;
    EXPECT_EQ(commit.epoch(), epoch);
    EXPECT_EQ(commit.finished(), finished);
    EXPECT_EQ(Published(server), published);
  }
  std::vector<uint64_t> Published(size_t server) const {
    return servers_[server].store->Published();
  }
  uint64_t Finished(size_t server) const { return servers_[server].shard->commit().finished(); }

  const Config config_ = ZombieConfig();
  const RunModel model_{config_, kServers, {}, 1};
  ThreadPool pool_{1};
  std::vector<Server> servers_{kServers};
  std::vector<Reply> replies_;
  double now_ = 0;
  uint64_t incarnations_ = 100, ids_ = 0;
};

// Goal: an apply from before a recovery does not end the step that has come again, although it is
// prepared here: others may not have it yet.
TEST_F(Zombie, LateApply) {
  const Joined zombie = Join();
  Recover(zombie);
  const LeaseReply old_lease = UpToCommit(zombie);
  const Decided old = PrepareAll(zombie, old_lease);  // and its apply is under way for long
  Restart(1);
  const Joined worker = Join();
  Recover(worker);
  const LeaseReply lease = UpToCommit(worker);
  const Decided decided = PrepareAll(worker, lease);
  ASSERT_TRUE(old.end.apply);
  ExpectNothing(0, zombie, old.request, Code::kWrongEpoch);
  // Nor does its holder get the coordinator to believe in it.
  const StepEndedRequest ended = MakeStepEnded(old_lease.open(), old.prepared, old.end, true);
  EXPECT_EQ(Send(0, zombie, ended).code, Code::kWrongEpoch);
  EndAll(worker, lease, decided);
  EXPECT_EQ(Finished(0), 1u);
  EXPECT_EQ(Finished(1), 1u);
  // In the same epoch, a step later: it is told how the step ended, and step 2 stays open.
  UpToCommit(worker);
  EXPECT_TRUE(As<ApplyReply>(Send(0, worker, decided.request)).applied);
  EXPECT_EQ(Finished(0), 1u);
}

// Goal: a drop from before a recovery does not drop the step that has come again, which would then
// be applied elsewhere; nor one that has ended.
TEST_F(Zombie, LateDrop) {
  const Joined zombie = Join();
  Recover(zombie);
  const LeaseReply old_lease = UpToCommit(zombie);
  PrepareAll(zombie, old_lease);
  const DropRequest old_drop{.at = old_lease.open()};
  Restart(1);
  const Joined worker = Join();
  Recover(worker);
  const LeaseReply lease = UpToCommit(worker);
  const Decided decided = PrepareAll(worker, lease);
  ExpectNothing(0, zombie, old_drop, Code::kWrongEpoch);
  EndAll(worker, lease, decided);
  EXPECT_EQ(Finished(0), 1u);
  const Reply told = Send(0, worker, DropRequest{.at = lease.open()});
  EXPECT_EQ(told.code, Code::kOk);
  EXPECT_TRUE(As<DropReply>(told).applied);
  EXPECT_EQ(Finished(0), 1u);
}

// Goal: a rollback of a holder whose lease has ended takes nothing back, whether the servers have
// gone on in a newer epoch or one of them is new and knows no epoch; a repeat of the last rollback
// does nothing either, however late.
TEST_F(Zombie, LateRollback) {
  const Joined zombie = Join();
  const LeaseReply old_lease = Ask(zombie, Work::kRecover);
  const Recovery old = LookAround(zombie, old_lease);
  TimePasses();
  Joined worker = Join();
  const LeaseReply lease = Ask(worker, Work::kRecover);
  const Recovery recovery = LookAround(worker, lease);
  SendAll(worker, recovery.rollbacks);
  ASSERT_EQ(Send(0, worker, recovery.recovered).code, Code::kOk);
  RunTo(worker, 5);
  ASSERT_EQ(Published(0), std::vector<uint64_t>({4}));
  for (size_t server = 0; server < kServers; ++server) {
    ExpectNothing(server, zombie, old.rollbacks[server], Code::kWrongEpoch);
    ExpectNothing(server, zombie, recovery.rollbacks[server], Code::kOk);
    // The step that an old holder has in mind may be gone: it is late, not wrong.
    Request to_discarded = old.rollbacks[server];
    std::get<RollbackRequest>(to_discarded.body).to.step = 2;
    ExpectNothing(server, zombie, to_discarded, Code::kWrongEpoch);
  }
  EXPECT_EQ(Send(0, zombie, old.recovered).code, Code::kWrongEpoch);

  // Server 1 is new: its epoch is 0 again. The worker of the late holder has said hello to it
  // since, but what the holder knows is of the process before.
  Restart(1);
  const Joined rejoined = Join();
  ExpectNothing(1, rejoined, old.rollbacks[1], Code::kWrongEpoch);
  ExpectNothing(1, rejoined, recovery.rollbacks[1], Code::kWrongEpoch);
  worker = Join();
  Recover(worker);
  EXPECT_EQ(Finished(0), 4u);
  EXPECT_EQ(Finished(1), 4u);
  RunTo(worker, 6);
}

// Goal: of two holders of recover, the one with the newer epoch decides, in whatever order their
// messages come, and all servers end at one step.
TEST_F(Zombie, TwoRecoverHolders) {
  Joined worker = Join();
  Recover(worker);
  RunTo(worker, 3);
  // Step 4 ends, with a snapshot that is still being written.
  const LeaseReply commit = UpToCommit(worker);
  EndAll(worker, commit, PrepareAll(worker, commit));
  Restart(1);
  const Joined first = Join();
  const Joined second = Join();
  const LeaseReply first_lease = Ask(first, Work::kRecover);
  const Recovery first_plan = LookAround(first, first_lease);
  ASSERT_EQ(first_plan.plan.step, 2u);
  TimePasses();
  Publish(0);
  ASSERT_EQ(Published(0), std::vector<uint64_t>({2, 4}));
  const LeaseReply second_lease = Ask(second, Work::kRecover);
  ASSERT_GT(second_lease.epoch, first_lease.epoch);
  const Recovery second_plan = LookAround(second, second_lease);
  ASSERT_EQ(second_plan.plan.step, 2u);
  // The first one reaches server 0 in time, server 1 too late.
  EXPECT_EQ(Send(0, first, first_plan.rollbacks[0]).code, Code::kOk);
  EXPECT_EQ(Send(1, second, second_plan.rollbacks[1]).code, Code::kOk);
  ExpectNothing(1, first, first_plan.rollbacks[1], Code::kWrongEpoch);
  EXPECT_EQ(Send(0, second, second_plan.rollbacks[0]).code, Code::kOk);
  ExpectNothing(0, first, first_plan.rollbacks[0], Code::kWrongEpoch);
  EXPECT_EQ(Send(0, first, first_plan.recovered).code, Code::kWrongEpoch);
  EXPECT_EQ(Send(0, second, second_plan.recovered).code, Code::kOk);
  EXPECT_EQ(Send(0, second, second_plan.recovered).code, Code::kWrongEpoch);  // once is enough
  for (size_t server = 0; server < kServers; ++server) {
    EXPECT_EQ(servers_[server].shard->commit().epoch(), second_lease.epoch);
    EXPECT_EQ(Finished(server), 2u);
    EXPECT_EQ(Published(server), std::vector<uint64_t>({2}));
  }
  RunTo(second, 5);
}

// Goal: a holder that finds a step gone which it was told of, because an older holder's rollback
// came in between, is told to look again; that is no error of its own.
TEST_F(Zombie, RollbackToAStepThatAnOlderHolderDeleted) {
  Joined worker = Join();
  Recover(worker);
  RunTo(worker, 2);
  Restart(0);  // the coordinator is lost, too
  const Joined first = Join();
  const Joined second = Join();
  const LeaseReply first_lease = Ask(first, Work::kRecover);
  Recovery first_plan = LookAround(first, first_lease);
  TimePasses();
  const LeaseReply second_lease = Ask(second, Work::kRecover);
  const Recovery second_plan = LookAround(second, second_lease);
  ASSERT_EQ(second_plan.plan.step, 2u);
  std::get<RollbackRequest>(first_plan.rollbacks[0].body).to.step =
      0;  // when it looked, that was all that was common
  EXPECT_EQ(Send(0, first, first_plan.rollbacks[0]).code, Code::kOk);
  const Reply gone = Send(0, second, second_plan.rollbacks[0]);
  EXPECT_EQ(gone.code, Code::kUnavailable) << gone.message;
  EXPECT_TRUE(IsSuperseded(gone.code));
  EXPECT_EQ(Send(0, second, GiveBackRequest{second_lease.lease}).code, Code::kOk);
  Recover(second);
  EXPECT_EQ(Finished(0), 0u);
  EXPECT_EQ(Finished(1), 0u);
}

// Goal: what an old holder says about old snapshots is not heard: the step it wants deleted is the
// newest that all have, now that the run was rolled back.
TEST_F(Zombie, RetentionToldByAnOldHolder) {
  const Joined zombie = Join();
  Recover(zombie);
  RunTo(zombie, 4);
  ASSERT_EQ(Published(0), std::vector<uint64_t>({2, 4}));  // 2 goes with the next step's end
  const Decided old = PrepareAll(zombie, UpToCommit(zombie));
  ASSERT_EQ(old.end.snapshots.discard, std::vector<uint64_t>({2}));
  // Server 1 dies, and its snapshot of step 4 cannot be read: all go back to step 2.
  servers_[1].disk.published.at(4).damaged = true;
  Restart(1);
  const Joined worker = Join();
  const LeaseReply lease = Ask(worker, Work::kRecover);
  const Recovery recovery = LookAround(worker, lease);
  EXPECT_EQ(Send(1, worker, recovery.rollbacks[1]).code, Code::kUnavailable);
  EXPECT_EQ(Send(0, worker, GiveBackRequest{lease.lease}).code, Code::kOk);
  Recover(worker);
  ASSERT_EQ(Finished(0), 2u);
  // Up to the same step, but this time server 1 cannot write the snapshot.
  RunTo(worker, 3);
  const LeaseReply fourth = UpToCommit(worker);
  EndAll(worker, fourth, PrepareAll(worker, fourth));
  Publish(0);
  Publish(1, true);
  ASSERT_EQ(Published(1), std::vector<uint64_t>({2}));
  const LeaseReply fifth = UpToCommit(worker);
  const Decided decided = PrepareAll(worker, fifth);
  for (size_t server = 0; server < kServers; ++server) {
    ExpectNothing(server, zombie, old.request, server == 0 ? Code::kWrongEpoch : Code::kNotJoined);
  }
  ExpectNothing(1, worker, old.request, Code::kWrongEpoch);
  EndAll(worker, fifth, decided);
  EXPECT_EQ(Published(0), std::vector<uint64_t>({2}));  // 4 cannot become common any more
  EXPECT_EQ(Published(1), std::vector<uint64_t>({2}));
}

}  // namespace
}  // namespace mf::simulation
