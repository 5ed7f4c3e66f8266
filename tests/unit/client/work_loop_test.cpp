// Goal: a lane asks, does what it is given, hands it in, and gives back what it cannot do; it joins
// again exactly where a server does not know it any more. Every case is driven by hand.
#include "common/client/work_loop.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "common/client/membership.h"

namespace mf {
namespace {

constexpr uint64_t kEpoch = 7, kStep = 31, kLease = 99, kLastStep = 50;
constexpr size_t kServers = 2;

LeaseReply Leased(Work work) {
  return {.work = work,
          .epoch = kEpoch,
          .step = kStep,
          .micro_batch = 3,
          .lease = kLease,
          .lease_seconds = 30,
          .lr = 0.5};
}

std::vector<Reply> Replies(const std::vector<ReplyBody>& bodies, Op op) {
  std::vector<Reply> replies;
  for (size_t server = 0; server < bodies.size(); ++server) {
    replies.push_back({.op = op, .incarnation = 100 + server, .body = bodies[server]});
  }
  return replies;
}

class WorkLoopTest : public testing::Test {
 protected:
  /// The loop has asked and got this.
  WorkLoop::Action Get(Work work) {
    EXPECT_TRUE(std::holds_alternative<WorkLoop::Ask>(loop_.Start()));
    WorkLoop::Action action = loop_.Asked(Leased(work), false);
    EXPECT_EQ(loop_.lease(), (WorkLoop::Lease{kLease, 30}));
    return action;
  }
  /// The only request of a call to server 0.
  template <class Body>
  Body ToCoordinator(const WorkLoop::Action& action) {
    const auto& call = std::get<WorkLoop::Call>(action);
    EXPECT_EQ(call.first_server, 0u);
    EXPECT_EQ(call.requests.size(), 1u);
    return std::get<Body>(call.requests.at(0).body);
  }
  /// What is sent to all servers, which is the same for each.
  template <class Body>
  Body ToAll(const WorkLoop::Action& action) {
    const auto& call = std::get<WorkLoop::Call>(action);
    EXPECT_EQ(call.requests.size(), kServers);
    for (const Request& request : call.requests) EXPECT_EQ(request.body, call.requests[0].body);
    return std::get<Body>(call.requests.at(0).body);
  }
  void ExpectAsksAgain(const WorkLoop::Action& action) {
    EXPECT_TRUE(std::holds_alternative<WorkLoop::Ask>(action));
    EXPECT_FALSE(loop_.lease().has_value()) << "what is done is not renewed";
  }
  template <class Body>
  static std::vector<Reply> All(Body body, Op op) {
    return Replies(std::vector<ReplyBody>(kServers, body), op);
  }

  const std::vector<TensorSpec> tensors_ = {{.id = 0, .name = "one", .shape = {}}};
  const RunShares shares_ = {{{}, {}}};
  WorkLoop loop_{tensors_, shares_, kServers, kLastStep};
};

TEST_F(WorkLoopTest, MicroBatch) {
  const auto train = std::get<WorkLoop::Train>(Get(Work::kMicroBatch));
  EXPECT_EQ(train.at, (OpenStep{kEpoch, kStep}));
  EXPECT_EQ(train.micro_batch, 3u);
  const WorkLoop::Action told = loop_.Worked(2.5);
  EXPECT_EQ(ToCoordinator<MicroBatchDoneRequest>(told),
            (MicroBatchDoneRequest{{kEpoch, kStep}, 3, 2.5}));
  EXPECT_TRUE(loop_.lease().has_value()) << "until the coordinator has heard of it";
  ExpectAsksAgain(loop_.Replied(Replies({MicroBatchDoneReply{}}, Op::kMicroBatchDone)));
}

TEST_F(WorkLoopTest, Evaluation) {
  const auto evaluate = std::get<WorkLoop::Evaluate>(Get(Work::kEvaluate));
  EXPECT_EQ(evaluate.at, (FinishedStep{kEpoch, kStep}));
  const WorkLoop::Action told = loop_.Worked(1.5);
  EXPECT_EQ(ToCoordinator<EvaluatedRequest>(told), (EvaluatedRequest{{kEpoch, kStep}, 1.5}));
  ExpectAsksAgain(loop_.Replied(Replies({EvaluatedReply{}}, Op::kEvaluated)));
}

TEST_F(WorkLoopTest, Commit) {
  WorkLoop::Action action = Get(Work::kCommit);
  EXPECT_EQ(ToAll<PrepareRequest>(action).at, (OpenStep{kEpoch, kStep}));
  std::vector<Reply> prepared = All(PrepareReply{}, Op::kPrepare);
  for (Reply& reply : prepared) reply.payload = {Frame()};
  action = loop_.Replied(std::move(prepared));
  const ApplyRequest apply = ToAll<ApplyRequest>(action);
  EXPECT_EQ(apply.at, (OpenStep{kEpoch, kStep}));
  EXPECT_EQ(apply.lr, 0.5);
  action = loop_.Replied(All(ApplyReply{true}, Op::kApply));
  EXPECT_EQ(ToCoordinator<StepEndedRequest>(action),
            (StepEndedRequest{.at = {kEpoch, kStep}, .applied = true}));
  ExpectAsksAgain(loop_.Replied(Replies({StepEndedReply{}}, Op::kStepEnded)));
}

// Goal: servers that end a step in two ways are a failure that is said, not a wrong result.
TEST_F(WorkLoopTest, ServersThatDisagree) {
  Get(Work::kCommit);
  std::vector<Reply> prepared = All(PrepareReply{}, Op::kPrepare);
  for (Reply& reply : prepared) reply.payload = {Frame()};
  loop_.Replied(std::move(prepared));
  const WorkLoop::Action action =
      loop_.Replied(Replies({ApplyReply{true}, ApplyReply{false}}, Op::kApply));
  EXPECT_NE(std::get<WorkLoop::Failed>(action).status.message().find("disagree"),
            std::string::npos);
}

StatusReply StateOf(uint64_t epoch, std::vector<uint64_t> published) {
  StatusReply reply;
  reply.state.finished.epoch = epoch;
  reply.state.snapshots.published = std::move(published);
  return reply;
}

TEST_F(WorkLoopTest, Recovery) {
  WorkLoop::Action action = Get(Work::kRecover);
  ToAll<StatusRequest>(action);
  action = loop_.Replied(Replies({StateOf(0, {2, 4}), StateOf(0, {2})}, Op::kStatus));
  const auto& call = std::get<WorkLoop::Call>(action);
  ASSERT_EQ(call.requests.size(), kServers);
  for (size_t server = 0; server < kServers; ++server) {
    EXPECT_EQ(std::get<RollbackRequest>(call.requests[server].body),
              (RollbackRequest{{kEpoch, 2}, 100 + server}))
        << "of the process that was looked at";
  }
  action = loop_.Replied(All(RollbackReply{}, Op::kRollback));
  EXPECT_EQ(ToCoordinator<RecoveredRequest>(action),
            (RecoveredRequest{{kEpoch, 2}, true, 0, {100, 101}}));
  EXPECT_EQ(std::get<WorkLoop::Call>(action).recovered.value().step, 2u);
  ExpectAsksAgain(loop_.Replied(Replies({RecoveredReply{}}, Op::kRecovered)));
}

SaveReply Saved(std::vector<uint64_t> published, uint64_t writing) {
  return {.snapshots = {.published = std::move(published), .writing = writing}};
}

// Goal: what a server that was told to end has published, and the other one still holds, is saved
// by both before anything is rolled back; it is waited for.
TEST_F(WorkLoopTest, RecoverySavesWhatIsStillThere) {
  Get(Work::kRecover);
  StatusReply holds = StateOf(kEpoch - 1, {2});
  holds.state.finished.step = 4;
  WorkLoop::Action action = loop_.Replied(Replies({StateOf(0, {2, 4}), holds}, Op::kStatus));
  EXPECT_EQ(ToAll<SaveRequest>(action).step, 4u);
  EXPECT_EQ(std::get<WorkLoop::Call>(action).pause_seconds, 0);
  action = loop_.Replied(Replies({Saved({2, 4}, 0), Saved({2}, 4)}, Op::kSave));
  EXPECT_EQ(ToAll<SaveRequest>(action).step, 4u);
  EXPECT_GT(std::get<WorkLoop::Call>(action).pause_seconds, 0) << "servers are not flooded";
  action = loop_.Replied(Replies({Saved({2, 4}, 0), Saved({2, 4}, 0)}, Op::kSave));
  ToAll<StatusRequest>(action);
  holds.state.snapshots.published = {2, 4};
  action = loop_.Replied(Replies({StateOf(0, {2, 4}), holds}, Op::kStatus));
  const auto& call = std::get<WorkLoop::Call>(action);
  EXPECT_EQ(std::get<RollbackRequest>(call.requests.at(0).body).to.step, 4u);
}

// Goal: a disk that does not take it costs the step, not the run.
TEST_F(WorkLoopTest, RecoveryGoesOnWhereSavingFails) {
  Get(Work::kRecover);
  StatusReply holds = StateOf(kEpoch - 1, {2});
  holds.state.finished.step = 4;
  loop_.Replied(Replies({StateOf(0, {2, 4}), holds}, Op::kStatus));
  WorkLoop::Action action = loop_.Replied(Status::Failed("no space"));
  ToAll<StatusRequest>(action);
  EXPECT_TRUE(loop_.lease().has_value());
  action = loop_.Replied(Replies({StateOf(0, {2, 4}), holds}, Op::kStatus));
  const auto& call = std::get<WorkLoop::Call>(action);
  EXPECT_EQ(std::get<RollbackRequest>(call.requests.at(0).body).to.step, 2u);
  // The next lease tries again.
  loop_.Replied(All(RollbackReply{}, Op::kRollback));
  loop_.Replied(Replies({RecoveredReply{}}, Op::kRecovered));
  Get(Work::kRecover);
  action = loop_.Replied(Replies({StateOf(0, {2, 4}), holds}, Op::kStatus));
  EXPECT_EQ(ToAll<SaveRequest>(action).step, 4u);
}

// Goal: a server that has seen a higher epoch is not rolled back: the coordinator hears of it.
TEST_F(WorkLoopTest, RecoveryNeedsAHigherEpoch) {
  Get(Work::kRecover);
  const WorkLoop::Action action =
      loop_.Replied(Replies({StateOf(kEpoch + 2, {}), StateOf(0, {})}, Op::kStatus));
  const auto told = ToCoordinator<RecoveredRequest>(action);
  EXPECT_FALSE(told.recovered);
  EXPECT_EQ(told.epoch_seen, kEpoch + 2);
}

// Goal: what cannot be recovered without a human ends the lane with what is to be put right.
TEST_F(WorkLoopTest, RecoveryIsRefused) {
  Get(Work::kRecover);
  StatusReply had = StateOf(0, {});
  had.state.had_common = 500;
  const WorkLoop::Action action = loop_.Replied(Replies({had, StateOf(0, {})}, Op::kStatus));
  EXPECT_NE(std::get<WorkLoop::Failed>(action).status.message().find("500"), std::string::npos);
}

// Goal: whatever a lane holds when servers went on without it goes back to the coordinator; it says
// hello again where a server does not know it, and nowhere else.
TEST_F(WorkLoopTest, SupersededWorkIsGivenBack) {
  for (const Code code :
       {Code::kStale, Code::kNotYet, Code::kWrongEpoch, Code::kUnavailable, Code::kNotJoined}) {
    ASSERT_TRUE(IsSuperseded(code));
    Get(Work::kMicroBatch);
    WorkLoop::Action action = loop_.Worked(Status(code, "late"));
    const auto& retry = std::get<WorkLoop::Retry>(action);
    ASSERT_TRUE(retry.give_back.has_value()) << CodeName(code);
    EXPECT_EQ(std::get<GiveBackRequest>(retry.give_back->body).lease, kLease);
    EXPECT_EQ(retry.join, code == Code::kNotJoined) << CodeName(code);
    EXPECT_GT(retry.pause_seconds, 0) << "servers are not flooded";
    EXPECT_FALSE(loop_.lease().has_value());
    ExpectAsksAgain(loop_.Retried(Status::Ok()));
    // The same where a server refuses what comes later, and where there is nothing to give back.
    Get(Work::kCommit);
    action = loop_.Replied(Status(code, "late"));
    EXPECT_TRUE(std::get<WorkLoop::Retry>(action).give_back.has_value());
    loop_.Retried(Status::Ok());
    action = loop_.Asked(Status(code, "late"), false);
    EXPECT_FALSE(std::get<WorkLoop::Retry>(action).give_back.has_value());
    EXPECT_EQ(std::get<WorkLoop::Retry>(action).join, code == Code::kNotJoined);
    loop_.Retried(Status::Ok());
  }
  const WorkLoop::Action action = loop_.Retried(Status(Code::kWrongRun, "another training"));
  EXPECT_EQ(std::get<WorkLoop::Failed>(action).status.code(), Code::kWrongRun);
}

TEST_F(WorkLoopTest, OtherErrorsEndTheLane) {
  for (const Code code : {Code::kInvalid, Code::kFailed, Code::kWrongRun, Code::kDamaged}) {
    ASSERT_FALSE(IsSuperseded(code));
    Get(Work::kMicroBatch);
    const WorkLoop::Action action = loop_.Worked(Status(code, "no"));
    EXPECT_EQ(std::get<WorkLoop::Failed>(action).status.code(), code);
    EXPECT_FALSE(loop_.lease().has_value());
  }
}

TEST_F(WorkLoopTest, WaitsFinishesAndFails) {
  LeaseReply lease{.work = Work::kWait};
  EXPECT_TRUE(std::holds_alternative<WorkLoop::Ask>(loop_.Asked(lease, false)));
  lease = {.work = Work::kFinished, .epoch = kEpoch, .step = kStep};
  EXPECT_TRUE(std::holds_alternative<WorkLoop::Ask>(loop_.Asked(lease, true)))
      << "there may be more records";
  EXPECT_EQ(std::get<WorkLoop::Finished>(loop_.Asked(lease, false)).at,
            (FinishedStep{kEpoch, kLastStep}));
  lease = {.work = Work::kStopped};
  EXPECT_TRUE(std::holds_alternative<WorkLoop::Stopped>(loop_.Asked(lease, false)));
  lease = {.work = Work::kFailed, .failure = "ten drops"};
  EXPECT_EQ(std::get<WorkLoop::Failed>(loop_.Asked(lease, false)).status.message(), "ten drops");
}

// Goal: the coordinator is asked with the incarnations of the last hello; where server 0 is another
// process the records are told from the first on.
TEST(MembershipTest, KnowsTheServersOfTheLastHello) {
  Membership membership("what it is", kServers);
  const std::vector<Request> hellos = membership.Hellos();
  ASSERT_EQ(hellos.size(), kServers);
  EXPECT_EQ(std::get<HelloRequest>(hellos[1].body),
            (HelloRequest{kProtocolVersion, 1, 2, "what it is"}));
  EXPECT_TRUE(membership.Ask().incarnations.empty());
  std::vector<Reply> replies = Replies({HelloReply{}, HelloReply{}}, Op::kHello);
  EXPECT_FALSE(membership.Joined(replies));
  EXPECT_EQ(membership.Ask().incarnations, std::vector<uint64_t>({100, 101}));
  LeaseReply lease{.epoch = kEpoch};
  lease.records.push_back({.step = 1});
  EXPECT_EQ(membership.TakeRecords(lease).size(), 1u);
  replies[1].incarnation = 500;
  EXPECT_FALSE(membership.Joined(replies));
  EXPECT_EQ(membership.Ask(), (LeaseRequest{kEpoch, 1, {100, 500}}));
  replies[0].incarnation = 400;
  EXPECT_TRUE(membership.Joined(replies));
  EXPECT_EQ(membership.Ask(), (LeaseRequest{0, 0, {400, 500}}));
}

}  // namespace
}  // namespace mf
