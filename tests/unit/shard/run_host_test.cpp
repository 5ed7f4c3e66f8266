// Goal: a server serves one run after the other and keeps all of them: who may begin one and when,
// what becomes of those who still talk of the one before, and that whatever does not fit, or asks
// for what is not there, changes nothing. The host is driven by hand: the time is passed in, the
// disk is a temporary folder.
#include "pserver/shard/run_host.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/files.h"
#include "common/client/work_loop.h"
#include "common/run/column_blocks.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "tests/support/failing_memory.h"
#include "tests/support/frames.h"
#include "tests/support/shard_harness.h"
#include "tests/support/snapshots/snapshot_model.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

constexpr double kIdle = 30, kLease = 10;
constexpr uint64_t kSteps = 2;

/// One dense tensor of four rows, one micro-batch a step.
RunDescription MakeRun(const std::string& about, int64_t columns = 256) {
  RunDescription run;
  run.tensors = {{.name = "w",
                  .rows = 4,
                  .columns = columns,
                  .init = Init::kNormal,
                  .init_value = 0.5,
                  .shape = {4, columns}}};
  run.rules.seed = static_cast<uint64_t>(about.front());  // other rows in another run
  run.rules.steps = kSteps;
  run.rules.micro_batches = 1;
  run.rules.lease_seconds = kLease;
  run.rules.eval_every = 0;
  run.rules.snapshots = {.every_steps = 1, .every_minutes = 0, .keep = 2};
  run.about = R"({"name":")" + about + R"("})";
  return run;
}

class RunHostTest : public testing::Test {
 protected:
  void SetUp() override { Restart({}); }

  /// Another process on the same folder.
  void Restart(RunHost::Options options) {
    host_.reset();
    storage_.reset();
    storage_ = Storage::Open(data(), options.shard.shard, options.shard.shards).value();
    options.storage = storage_.get();
    options.idle_seconds = kIdle;
    options.shard.incarnation = incarnation_ += 1000;
    options.shard.metrics = &metrics_;
    host_ = std::make_unique<RunHost>(options, pool_, [this](const std::string&, Reply reply) {
      sent_.push_back(std::move(reply));
    });
  }

  std::string data() const { return folder_.path() + "/data"; }
  std::string FolderOf(const RunDescription& run) const {
    return data() + "/" + RunFolderName(run.RunId());
  }
  std::vector<std::string> RunFolders() const {
    std::vector<std::string> names;
    for (const RunFolder& run : FindRuns(data())) names.push_back(run.name);
    return names;
  }

  Reply Send(Request request) {
    request.id = ++ids_;
    const size_t before = sent_.size();
    host_->Handle("peer", request, now_);
    MF_CHECK(sent_.size() == before + 1 && sent_.back().id == request.id);
    return sent_.back();
  }
  Reply Send(uint64_t session, RequestBody body, Frames payload = {}) {
    return Send({.session = session, .body = std::move(body), .payload = std::move(payload)});
  }
  Reply Hello(const RunDescription& run, uint64_t session = 0) {
    return Send(session, HelloRequest{.shards = 1, .description = run.Json()});
  }
  /// Of the run that is served.
  Reply Refused(const RunDescription& run) {
    Reply reply = Hello(run);
    EXPECT_NE(reply.code, Code::kOk);
    return reply;
  }
  void Save() {
    for (int i = 0; host_->writing_snapshot(); ++i) {
      ASSERT_LT(i, 20'000);
      if (!host_->Work(now_)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  std::vector<StoredRun> List() { return As<ListRunsReply>(Send(0, ListRunsRequest{})).runs; }
  Code Delete(const std::string& id) { return Send(0, DeleteRunRequest{id}).code; }

  /// A worker of the one server, which does what the loop of real ones says.
  class Worker {
   public:
    Worker(RunHostTest& test, const RunDescription& run)
        : test_(test),
          run_(run),
          shares_(SharesOf(run.tensors, 0, 1)),
          loop_(run_.tensors, shares_, 1, kSteps),
          action_(loop_.Start()) {
      const Reply hello = test_.Hello(run_);
      MF_CHECK(hello.code == Code::kOk);
      session = As<HelloReply>(hello).session;
      incarnation = hello.incarnation;
    }

    /// Until `step` steps have ended and work for the next one is held, or the run is over.
    void WorkUntil(uint64_t step) {
      for (;;) {
        if (const auto* train = std::get_if<WorkLoop::Train>(&action_)) {
          if (train->at.step > step) return;
        }
        if (std::holds_alternative<WorkLoop::Finished>(action_)) return;
        action_ = std::visit([this](auto& action) { return Do(action); }, action_);
      }
    }
    /// The bits of all rows after the last step.
    std::vector<uint32_t> State() {
      const FinishedStep at = std::get<WorkLoop::Finished>(action_).at;
      const Reply reply = Ask(PullRequest{.at = at, .row_count = 4}, {Frame()});
      EXPECT_EQ(reply.code, Code::kOk) << reply.message;
      std::vector<uint32_t> bits;
      for (size_t i = 0; i < reply.payload[0].size() / sizeof(uint32_t); ++i) {
        bits.push_back(LoadUnaligned<uint32_t>(reply.payload[0].data(), i));
      }
      return bits;
    }
    Reply Ask(RequestBody body, Frames payload = {}) {
      return test_.Send(session, std::move(body), std::move(payload));
    }

    uint64_t session = 0, incarnation = 0;

   private:
    WorkLoop::Action Do(WorkLoop::Ask) {
      const Reply reply = Ask(LeaseRequest{.incarnations = {incarnation}});
      MF_CHECK(reply.code == Code::kOk);
      return loop_.Asked(As<LeaseReply>(reply), false);
    }
    WorkLoop::Action Do(WorkLoop::Call& call) {
      const Reply reply = Ask(call.requests[0].body);
      MF_CHECK(reply.code == Code::kOk);
      return loop_.Replied(std::vector<Reply>{reply});
    }
    WorkLoop::Action Do(const WorkLoop::Train& train) {
      const std::vector<float> gradient(4 * static_cast<size_t>(run_.tensors[0].columns),
                                        0.25f * static_cast<float>(train.at.step));
      const Reply reply =
          Ask(PushRequest{.at = train.at, .micro_batch = train.micro_batch, .row_count = 4},
              {Frame(), Frame(), FrameOf(gradient)});
      EXPECT_EQ(reply.code, Code::kOk) << reply.message;
      return loop_.Worked(1.5);
    }
    WorkLoop::Action Do(const WorkLoop::Evaluate&) { return loop_.Worked(2.5); }
    template <class Other>
    WorkLoop::Action Do(const Other& other) {
      MF_CHECK(false);
      return other;
    }

    RunHostTest& test_;
    const RunDescription run_;
    const RunShares shares_;
    WorkLoop loop_;
    WorkLoop::Action action_;
  };
  /// Trains a whole run and saves it.
  std::vector<uint32_t> Finish(const RunDescription& run) {
    Worker worker(*this, run);
    worker.WorkUntil(kSteps);
    Save();
    return worker.State();
  }

  const TemporaryFolder folder_{TemporaryFolder::Where::kMemory};
  ThreadPool pool_{1};
  Metrics metrics_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<RunHost> host_;
  std::vector<Reply> sent_;
  uint64_t ids_ = 0, incarnation_ = 0;
  double now_ = 0;

  const RunDescription first_ = MakeRun("first"), second_ = MakeRun("second");
};

TEST_F(RunHostTest, ARunThatIsTrainedRefusesAnother) {
  Worker worker(*this, first_);
  worker.WorkUntil(1);
  for (const double silent : {0.0, 1.0, kIdle - 0.1}) {
    now_ = silent;
    const Reply refused = Refused(second_);
    EXPECT_EQ(refused.code, Code::kWrongRun);
    EXPECT_EQ(refused.message.find("this server runs another training: name: "), 0u)
        << refused.message;
  }
  // Whoever renews a lease is heard; who only watches, or says hello, is not.
  EXPECT_EQ(worker.Ask(RenewRequest{1}).code, Code::kStale);
  now_ += kIdle - 0.1;
  EXPECT_EQ(Refused(second_).code, Code::kWrongRun);
  const Reply watching = Send(0, HelloRequest{.shards = 1});
  ASSERT_EQ(watching.code, Code::kOk);
  EXPECT_EQ(Send(As<HelloReply>(watching).session, StatusRequest{}).code, Code::kOk);
  EXPECT_EQ(Hello(first_, worker.session).code, Code::kOk);
  now_ += 0.2;
  Save();
  EXPECT_EQ(Hello(second_).code, Code::kOk);
  EXPECT_EQ(RunFolders().size(), 2u);
}

TEST_F(RunHostTest, ARunIsNotLeftWhileItsLeasesLast) {
  RunDescription slow = MakeRun("slow");
  slow.rules.lease_seconds = 10 * kIdle;
  Worker worker(*this, slow);
  worker.WorkUntil(1);
  Save();
  now_ = 10 * kIdle - 1;
  EXPECT_EQ(Refused(second_).code, Code::kWrongRun);
  now_ = 10 * kIdle;
  EXPECT_EQ(Hello(second_).code, Code::kOk);
}

TEST_F(RunHostTest, AFinishedRunGivesWayWhenItIsReadAndSaved) {
  Worker worker(*this, first_);
  worker.WorkUntil(kSteps);
  now_ = 100;  // its last snapshot is not written yet
  EXPECT_EQ(Refused(second_).code, Code::kUnavailable);
  Save();
  worker.State();
  now_ += RunHost::kQuietSeconds - 0.1;
  EXPECT_EQ(Refused(second_).code, Code::kUnavailable);
  worker.State();
  now_ += RunHost::kQuietSeconds - 0.1;
  EXPECT_EQ(Refused(second_).code, Code::kUnavailable);
  now_ += 0.2;
  EXPECT_EQ(Hello(second_).code, Code::kOk);
}

TEST_F(RunHostTest, ARunThatNobodyBeganGivesWay) {
  // Another server refused it: its worker says hello again and again.
  const uint64_t session = As<HelloReply>(Hello(first_)).session;
  for (; now_ < RunHost::kQuietSeconds; now_ += 0.2) {
    EXPECT_EQ(Refused(second_).code, Code::kUnavailable);
    EXPECT_EQ(Hello(first_, session).code, Code::kOk);
  }
  EXPECT_EQ(Hello(second_).code, Code::kOk);
  EXPECT_EQ(Refused(first_).code, Code::kUnavailable);
}

TEST_F(RunHostTest, WhoeverIsLeftBehindJoinsAgain) {
  Worker old(*this, first_);
  old.WorkUntil(kSteps);
  Save();
  const uint64_t watcher = As<HelloReply>(Send(0, HelloRequest{.shards = 1})).session;
  now_ = 10;
  Worker next(*this, second_);
  EXPECT_GT(next.incarnation, old.incarnation);
  next.WorkUntil(1);
  const OpenStep at{1, 1};
  for (const RequestBody& body :
       std::vector<RequestBody>{StatusRequest{}, RollbackRequest{.to = {2, 0}},
                                PullRequest{.at = at}, PrepareRequest{at}, ApplyRequest{.at = at},
                                LeaseRequest{}, RenewRequest{1}, GiveBackRequest{1}}) {
    EXPECT_EQ(old.Ask(body).code, Code::kNotJoined);
    EXPECT_EQ(Send(watcher, body).code, Code::kNotJoined);
  }
  EXPECT_EQ(next.Ask(StatusRequest{}).code, Code::kOk);
  next.WorkUntil(kSteps);
}

TEST_F(RunHostTest, RunsComeBackAsTheyWere) {
  const auto first = Finish(first_);
  now_ += 10;
  const auto second = Finish(second_);
  EXPECT_NE(first, second);
  now_ += 10;
  EXPECT_EQ(Finish(first_), first);
  Restart({});
  EXPECT_EQ(Finish(second_), second);
  now_ += 10;
  // Half a run, another one, the other half.
  const RunDescription third = MakeRun("third");
  {
    Worker worker(*this, third);
    worker.WorkUntil(1);
    Save();
  }
  now_ += kIdle;
  EXPECT_EQ(Finish(first_), first);
  now_ += 10;
  const auto halves = Finish(third);
  EXPECT_EQ(Delete(third.RunId()), Code::kInvalid);
  now_ += 10;
  EXPECT_EQ(Finish(first_), first);
  EXPECT_EQ(Delete(third.RunId()), Code::kOk);
  now_ += 10;
  EXPECT_EQ(Finish(third), halves);
}

TEST_F(RunHostTest, ARunWhoseStateIsLostBeginsAnew) {
  const auto due = Finish(MakeRun("alone"));
  now_ += 10;
  const RunDescription run = MakeRun("again");  // the same rows
  Worker worker(*this, run);
  worker.WorkUntil(1);
  Save();
  {
    const FailingMemory memory(0, FailingMemory::Ends::kOnce);
    host_->Handle("peer", {.id = ++ids_, .session = worker.session, .body = LeaseRequest{}}, now_);
    EXPECT_TRUE(memory.failed());
  }
  EXPECT_EQ(sent_.back().code, Code::kUnavailable) << sent_.back().message;
  EXPECT_EQ(worker.Ask(StatusRequest{}).code, Code::kNotJoined);
  Worker back(*this, run);
  EXPECT_GT(back.incarnation, worker.incarnation);
  back.WorkUntil(kSteps);
  Save();
  EXPECT_EQ(back.State(), due);
}

TEST_F(RunHostTest, WhatDoesNotFitLeavesEverythingAsItIs) {
  Restart({.shard = {.shard = 1, .shards = 4}});
  const auto hello = [&](HelloRequest request) { return Send(0, std::move(request)); };
  const HelloRequest good{.shard = 1, .shards = 4, .description = first_.Json()};
  const std::string narrow = MakeRun("narrow", 16).Json();
  RunDescription huge = MakeRun("huge");
  huge.tensors[0].rows = int64_t{1} << 40;
  huge.tensors[0].shape = {huge.tensors[0].rows, 256};
  std::vector<HelloRequest> bad = {
      {.shard = 1, .shards = 4, .description = narrow},
      {.shard = 1, .shards = 4, .description = huge.Json()},
      {.shard = 0, .shards = 4, .description = second_.Json()},
      {.shard = 1, .shards = 2, .description = second_.Json()},
      {.protocol = 1, .shard = 1, .shards = 4, .description = second_.Json()},
  };
  const std::string whole = second_.Json();
  for (const std::string& text :
       {std::string("{"), std::string("null"), std::string("[]"), std::string(100'000, '['),
        std::string("\0\xff", 2), whole.substr(0, whole.size() / 2), whole + "}",
        std::string(R"({"tensors":[]})")}) {
    bad.push_back({.shard = 1, .shards = 4, .description = text});
  }
  for (const HelloRequest& request : bad) {
    EXPECT_EQ(hello(request).code, Code::kInvalid) << request.description.substr(0, 100);
  }
  EXPECT_TRUE(RunFolders().empty());
  EXPECT_TRUE(List().empty());
  const Reply joined = hello(good);
  ASSERT_EQ(joined.code, Code::kOk) << joined.message;
  now_ = 1000;  // it would give way now
  for (const HelloRequest& request : bad) {
    EXPECT_EQ(hello(request).code, Code::kInvalid) << request.description.substr(0, 100);
  }
  EXPECT_EQ(Send(As<HelloReply>(joined).session, StatusRequest{}).code, Code::kOk);
  EXPECT_EQ(RunFolders(), std::vector<std::string>{RunFolderName(first_.RunId())});
}

TEST_F(RunHostTest, ARunThatCannotBeStoredLeavesTheOneThatIsServed) {
  Worker worker(*this, first_);
  worker.WorkUntil(kSteps);
  Save();
  now_ = 100;
  { std::ofstream(FolderOf(second_)) << "in the way"; }
  const Reply refused = Refused(second_);
  EXPECT_EQ(refused.code, Code::kInvalid);
  EXPECT_NE(refused.message.find(FolderOf(second_)), std::string::npos) << refused.message;
  EXPECT_FALSE(worker.State().empty());
  // Snapshots of another number of servers are not overlooked.
  fs::remove(FolderOf(second_));
  fs::create_directories(FolderOf(second_));
  fs::copy(FolderOf(first_) + "/shard-0-of-1", FolderOf(second_) + "/shard-0-of-2",
           fs::copy_options::recursive);
  now_ = 200;
  EXPECT_NE(Refused(second_).message.find("pserver reshard --from " + FolderOf(second_)),
            std::string::npos);
  EXPECT_FALSE(FileExists(FolderOf(second_) + "/shard-0-of-1"));
  EXPECT_FALSE(worker.State().empty());
}

TEST_F(RunHostTest, BeforeAnyRun) {
  EXPECT_EQ(Send(0, HelloRequest{.shards = 1}).code, Code::kUnavailable);
  EXPECT_EQ(Send(0, StatusRequest{}).code, Code::kNotJoined);
  EXPECT_EQ(Send(7, LeaseRequest{}).code, Code::kNotJoined);
  EXPECT_EQ(Send(7, PullRequest{}).code, Code::kNotJoined);
  EXPECT_TRUE(List().empty());
  host_->Tick(1);
  EXPECT_FALSE(host_->Work(1));
  EXPECT_EQ(Hello(first_).code, Code::kOk);
  EXPECT_EQ(Send(0, HelloRequest{.shards = 1}).code, Code::kOk);
}

TEST_F(RunHostTest, ListsAndDeletes) {
  Finish(first_);
  now_ = 100;
  Worker worker(*this, second_);
  worker.WorkUntil(1);
  Save();
  std::vector<StoredRun> runs = List();
  ASSERT_EQ(runs.size(), 2u);
  if (runs[0].id != first_.RunId()) std::swap(runs[0], runs[1]);
  EXPECT_EQ(runs[0], (StoredRun{.id = first_.RunId(),
                                .about = first_.about,
                                .steps = kSteps,
                                .newest = kSteps,
                                .active = false}));
  EXPECT_EQ(runs[1], (StoredRun{.id = second_.RunId(),
                                .about = second_.about,
                                .steps = kSteps,
                                .newest = 1,
                                .active = true}));
  // Nothing but an id that is listed names a run.
  const std::string outside = folder_.path() + "/keep";
  fs::create_directories(outside + "/shard-0-of-1");
  const std::string id = first_.RunId();
  for (const std::string& wrong :
       {std::string(), std::string("."), std::string(".."), std::string("/"), outside,
        std::string("../keep"), "../" + id, id + "/..", id + "/../../../keep", id.substr(0, 16),
        id.substr(1), id + "0", std::string("\0", 1), std::string(1 << 20, 'a')}) {
    EXPECT_EQ(Delete(wrong), Code::kInvalid) << wrong.substr(0, 80);
  }
  EXPECT_TRUE(FileExists(outside + "/shard-0-of-1"));
  EXPECT_EQ(List().size(), 2u);
  const Reply served = Send(0, DeleteRunRequest{second_.RunId()});
  EXPECT_EQ(served.code, Code::kInvalid);
  EXPECT_NE(served.message.find("is served now"), std::string::npos) << served.message;
  // What another server has of a run stays.
  fs::create_directories(FolderOf(first_) + "/shard-1-of-2");
  EXPECT_EQ(Delete(id), Code::kOk);
  EXPECT_FALSE(FileExists(FolderOf(first_) + "/shard-0-of-1"));
  EXPECT_TRUE(FileExists(FolderOf(first_) + "/shard-1-of-2"));
  EXPECT_EQ(Delete(id), Code::kInvalid);
  worker.WorkUntil(kSteps);
  Save();
  now_ = 200;
  Finish(first_);
  EXPECT_EQ(Delete(second_.RunId()), Code::kOk);
  EXPECT_FALSE(FileExists(FolderOf(second_)));
}

TEST(StorageTest, WhatADeletionLeftGoesAtTheNextStart) {
  const TemporaryFolder folder;
  const std::string dir = folder.path(), run = dir + "/run-0123456789abcdef",
                    other = dir + "/run-fedcba9876543210";
  for (const std::string& left :
       {run + "/gone-shard-0-of-2/step-1", run + "/gone-shard-1-of-2", other + "/gone-shard-0-of-2",
        dir + "/gone-run-0000000000000000/shard-0-of-2"}) {
    fs::create_directories(left);
  }
  ASSERT_TRUE(Storage::Open(dir, 0, 2).ok());
  EXPECT_EQ(FileNames(dir),
            (std::vector<std::string>{"run-0123456789abcdef", "shard-0-of-2.lock"}));
  EXPECT_EQ(FileNames(run), std::vector<std::string>{"gone-shard-1-of-2"}) << "another server's";
}

TEST_F(RunHostTest, AnUnreadableDescriptionHidesNothing) {
  Finish(first_);
  now_ = 100;
  Worker worker(*this, second_);
  worker.WorkUntil(1);
  Save();
  const std::string text = ReadDescription(FolderOf(second_)).value();
  EXPECT_EQ(text, second_.Json());
  for (const std::string& broken : {std::string("{"), first_.Json(), std::string()}) {
    for (const RunDescription& run : {first_, second_}) {
      ASSERT_TRUE(PublishFile(FolderOf(run) + "/" + kDescriptionFile, broken).ok());
    }
    int active = 0;
    for (const StoredRun& run : List()) {
      EXPECT_TRUE(run.id == first_.RunId() || run.id.size() == 16) << run.id;
      active += run.active;
      if (run.active) {
        EXPECT_EQ(Delete(run.id), Code::kInvalid);
      }
    }
    EXPECT_EQ(active, 1);
  }
  EXPECT_EQ(Delete(first_.RunId().substr(0, 16)), Code::kOk);
  EXPECT_FALSE(FileExists(FolderOf(first_)));
  worker.WorkUntil(kSteps);
}

TEST_F(RunHostTest, AFolderOfOneRunRefusesAnother) {
  Restart({.one_run = true});
  EXPECT_EQ(Hello(first_).code, Code::kOk);
  Restart({.one_run = true});
  Finish(second_);  // nothing of the first is stored
  Restart({.one_run = true});
  const Reply refused = Refused(first_);
  EXPECT_EQ(refused.code, Code::kWrongRun);
  EXPECT_NE(refused.message.find("this server's folder holds another training: name: "),
            std::string::npos)
      << refused.message;
  EXPECT_EQ(Hello(second_).code, Code::kOk);
}

TEST_F(RunHostTest, MetricsAreOfTheRunThatIsServed) {
  Finish(first_);
  EXPECT_EQ(metrics_.Value(Metric::kStep), static_cast<double>(kSteps));
  EXPECT_EQ(metrics_.Value(Metric::kSnapshotLastStep), static_cast<double>(kSteps));
  host_->Tick(0);
  EXPECT_NE(metrics_.Text().find("mf_table_bytes{"), std::string::npos);
  now_ = 100;
  EXPECT_EQ(Hello(second_).code, Code::kOk);
  EXPECT_EQ(metrics_.Text().find("mf_table_bytes{"), std::string::npos);
  EXPECT_EQ(metrics_.Text().find("mf_snapshot_last_step "), std::string::npos);
  EXPECT_EQ(metrics_.Value(Metric::kStep), 0);
  EXPECT_GT(metrics_.Value(Metric::kRecoveries), 0);
}

}  // namespace
}  // namespace mf
