// Goal: a server without its socket: whole steps through messages, and requests that are late,
// repeated or wrong, which are answered with a typed error and change nothing (DESIGN 2.6, 5).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "common/kernels/pairs.h"
#include "tests/support/request_fields.h"
#include "tests/support/shard_harness.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Goal: contributions in any order and any number give the bits of contributions in order; a repeat
// is answered with the same dL/dp.
TEST(Shard, OrderOfArrivalDoesNotShow) {
  for (const Wire wire : {Wire::kF32, Wire::kBf16}) {
    Config config = ShardConfig();
    config.exchange.wire = wire;
    ShardHarness ordered(config);
    ordered.RunStep(1, 1e-2);
    ordered.RunStep(2, 2e-2);
    ShardHarness shuffled(config, {.threads = 3});
    std::mt19937_64 random(5);
    for (const uint64_t step : {1, 2}) {
      std::vector<uint32_t> numbers = {0, 1, 2, 0, 1, 2, 1};
      std::shuffle(numbers.begin(), numbers.end(), random);
      for (const uint32_t number : numbers) shuffled.MicroBatch(step, number);
      const Request backward =
          shuffled.Backward(shuffled.spec("blocks.0.m2.tables"), step, numbers[0]);
      const Reply once = shuffled.Send(backward), twice = shuffled.Send(backward);
      ASSERT_EQ(once.payload[0].size(), twice.payload[0].size());
      EXPECT_EQ(
          0, std::memcmp(once.payload[0].data(), twice.payload[0].data(), once.payload[0].size()));
      shuffled.End(static_cast<double>(step) * 1e-2, true);
    }
    EXPECT_EQ(shuffled.State(), ordered.State());
  }
}

// Goal: a dropped step leaves the tables and Adam's count as they are: the next applied step is the
// one that it would have been without it.
TEST(Shard, DroppedStepsDoNotCount) {
  ShardHarness with(ShardConfig()), without(ShardConfig());
  for (uint64_t data = 1; data <= 4; ++data) {
    with.RunStep(data, 1e-2);
    without.RunStep(data, 1e-2);
  }
  const auto before = with.State();
  with.RunStep(99, 5e-2, /*apply=*/false);
  EXPECT_EQ(with.State(), before);
  EXPECT_EQ(with.shard().commit().finished(), 5u);
  EXPECT_EQ(without.shard().commit().finished(), 4u);
  for (uint64_t data = 5; data <= 8; ++data) {
    with.RunStep(data, 2e-2);
    without.RunStep(data, 2e-2);
  }
  EXPECT_EQ(with.State(), without.State());
  EXPECT_NE(with.State(), before);
}

// Goal: a repeated or late end of a step is told how the step ended and does nothing; a repeated
// prepare is answered as the first time.
TEST(Shard, RepeatedEndsDoNothing) {
  ShardHarness server(ShardConfig());
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code, Code::kNotYet);
    server.MicroBatch(1, i);
  }
  const Request prepare = server.Make(PrepareRequest{server.open()});
  const Reply first = server.Send(prepare), again = server.Send(prepare);
  ASSERT_EQ(first.payload.size(), 1u);
  size_t blocks = 0;
  for (const TensorSpec& spec : server.specs()) {
    blocks += static_cast<size_t>(spec.tables) * ColumnBlocks(spec.columns, 0).size();
  }
  ASSERT_EQ(first.payload[0].size(), blocks * sizeof(double));
  EXPECT_EQ(0, std::memcmp(first.payload[0].data(), again.payload[0].data(), blocks * 8));
  server.MicroBatch(1, 0);  // late, after prepare: answered, not added
  const OpenStep at = server.open();
  const Request apply = server.Make(ApplyRequest{.at = at, .lr = 1e-2, .scale = 1});
  EXPECT_TRUE(As<ApplyReply>(server.Send(apply)).applied);
  const auto after = server.State();
  const Reply told = server.Send(server.Make(DropRequest{.at = at, .grad_norm = 7}));
  EXPECT_EQ(told.code, Code::kOk);
  EXPECT_TRUE(As<DropReply>(told).applied);
  EXPECT_EQ(server.Send(apply).code, Code::kOk);
  EXPECT_EQ(server.State(), after);
  EXPECT_EQ(server.shard().commit().finished(), 1u);
  EXPECT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code,
            Code::kNotYet);  // the next step is empty
}

// Goal: a number that is not finite in dL/dy reads as NaN in dL/dp, is not a bad request, and is
// told with the tensor's name when the step is prepared; other tensors are not blamed.
TEST(Shard, NotANumberIsToldAndDropped) {
  ShardHarness server(ShardConfig());
  server.RunStep(1, 1e-2);
  const auto before = server.State();
  const TensorSpec& m1 = server.spec("blocks.0.m1.tables");
  Request bad = server.Backward(m1, 2, 1);
  const size_t columns = static_cast<size_t>(m1.columns);
  const uint32_t tokens = std::get<BackwardRequest>(bad.body).tokens;
  std::vector<float> dy(tokens * columns);
  std::memcpy(dy.data(), bad.payload[2].data(), bad.payload[2].size());
  std::vector<int8_t> exponents(bad.payload[3].as<int8_t>(), bad.payload[3].as<int8_t>() + tokens);
  dy[3 * columns + 5] = std::numeric_limits<float>::quiet_NaN();
  exponents[3] = DotExponent(&dy[3 * columns], columns);
  EXPECT_EQ(exponents[3], kNotFinite);
  bad.payload[2] = FrameOf(dy);
  bad.payload[3] = FrameOf(exponents);
  const Reply reply = server.Send(bad);
  ASSERT_EQ(reply.code, Code::kOk);
  for (size_t i = 0; i < reply.payload[0].size() / 8; ++i) {
    const bool poisoned = i % tokens == 3;
    ASSERT_EQ(LoadUnaligned<int64_t>(reply.payload[0].data(), i) == kDotNotFinite, poisoned) << i;
  }
  const Reply prepared = server.RunStep(2, 1e-2, /*apply=*/false);  // the rest, and 1 once more
  EXPECT_EQ(As<PrepareReply>(prepared).not_finite, m1.name);
  EXPECT_EQ(server.State(), before);
  EXPECT_EQ(As<PrepareReply>(server.RunStep(3, 1e-2)).not_finite, "");  // forgotten with the step
  // The same in pushed rows, and in weights with finite dL/dy.
  Request push = server.Push(server.spec("head.weight"), 4, 0);
  std::vector<float> values(push.payload[2].size() / 4, kInfinity);
  push.payload[2] = FrameOf(values);
  EXPECT_EQ(server.Send(push).code, Code::kOk);
  EXPECT_EQ(As<PrepareReply>(server.RunStep(4, 1e-2, false)).not_finite, "head.weight");
  Request weights = server.Backward(m1, 5, 2);
  weights.payload[1] = FrameOf(std::vector<float>(weights.payload[1].size() / 4, NAN));
  EXPECT_EQ(server.Send(weights).code, Code::kOk);
  EXPECT_EQ(As<PrepareReply>(server.RunStep(5, 1e-2, false)).not_finite, m1.name);
}

/// A wrong request: what is wrong, and what answers it.
struct Wrong {
  const char* what;
  Code code;
  Request request;
};

/// Cuts the last byte off a frame.
Frame Shorter(const Frame& frame) { return Frame(frame.owner(), frame.data(), frame.size() - 1); }

void SetTensor(Request& r, uint32_t tensor) {
  EditBody<ForwardRequest, BackwardRequest, PushRequest, PullRequest, ListRowsRequest>(
      r, [&](auto& body) { body.tensor = tensor; });
}

void SetMicroBatch(Request& r, uint32_t number) {
  EditBody<BackwardRequest, PushRequest>(r, [&](auto& body) { body.micro_batch = number; });
}

template <class Change>
void SetTokens(Request& r, Change change) {
  EditBody<ForwardRequest, BackwardRequest>(r, [&](auto& body) { change(body.tokens); });
}

void SetRowCount(Request& r, uint64_t count) {
  EditBody<PushRequest, PullRequest>(r, [&](auto& body) { body.row_count = count; });
}

/// Every good request, and what can be wrong with it.
class WrongRequestList {
 public:
  explicit WrongRequestList(const ShardHarness& server) : server_(server) {
    AddPlacesAndFrames();
    AddPairs();
    AddRows();
    AddOthers();
  }
  std::vector<Wrong> Take() { return std::move(all_); }

 private:
  template <class Change>
  void Add(const char* what, Code code, Request request, Change change) {
    change(request);
    all_.push_back({what, code, std::move(request)});
  }

  /// Where and who, for everything that belongs to a step; and what is cut off.
  void AddPlacesAndFrames() {
    for (const Request& good :
         {forward_, backward_, rows_, whole_, pull_, list_, apply_, drop_, prepare_}) {
      Add("no session", Code::kNotJoined, good, [](Request& r) { r.session = 0; });
      Add("unknown session", Code::kNotJoined, good, [](Request& r) { r.session = 77; });
      Add("older epoch", Code::kWrongEpoch, good,
          [](Request& r) { EditStep(r, [](uint64_t& epoch, uint64_t&) { --epoch; }); });
      Add("younger epoch", Code::kWrongEpoch, good,
          [](Request& r) { EditStep(r, [](uint64_t& epoch, uint64_t&) { ++epoch; }); });
      Add("later step", Code::kNotYet, good,
          [](Request& r) { EditStep(r, [](uint64_t&, uint64_t& step) { ++step; }); });
      // Those are told how it ended.
      if (good.op() == Op::kPrepare || good.op() == Op::kApply || good.op() == Op::kDrop) continue;
      Add("earlier step", Code::kStale, good,
          [](Request& r) { EditStep(r, [](uint64_t&, uint64_t& step) { --step; }); });
    }
    for (const Request& good : {forward_, backward_, rows_, whole_, pull_, list_}) {
      Add("tensor beyond the last", Code::kInvalid, good, [&](Request& r) { SetTensor(r, 1000); });
      Add("a frame too many", Code::kInvalid, good, [](Request& r) { r.payload.emplace_back(); });
      if (good.payload.empty()) continue;
      Add("a frame missing", Code::kInvalid, good, [](Request& r) { r.payload.pop_back(); });
      Add("no frames", Code::kInvalid, good, [](Request& r) { r.payload.clear(); });
    }
    for (const Request& good : {forward_, backward_, rows_, whole_}) {
      for (size_t i = 0; i < good.payload.size(); ++i) {
        if (good.payload[i].size() == 0) continue;
        Add("a short frame", Code::kInvalid, good,
            [&](Request& r) { r.payload[i] = Shorter(r.payload[i]); });
        Add("an empty frame", Code::kInvalid, good, [&](Request& r) { r.payload[i] = Frame(); });
      }
    }
    for (const Request& good : {backward_, rows_, whole_}) {
      Add("micro-batch beyond G", Code::kInvalid, good, [&](Request& r) { SetMicroBatch(r, 3); });
      Add("micro-batch far off", Code::kInvalid, good, [&](Request& r) { SetMicroBatch(r, ~0u); });
    }
  }
  void AddPairs() {
    for (const Request& good : {forward_, backward_}) {
      Add("a dense tensor", Code::kInvalid, good, [&](Request& r) { SetTensor(r, embed_.id); });
      Add("no tokens", Code::kInvalid, good,
          [&](Request& r) { SetTokens(r, [](uint32_t& n) { n = 0; }); });
      Add("other tokens", Code::kInvalid, good,
          [&](Request& r) { SetTokens(r, [](uint32_t& n) { --n; }); });
      Add("too many tokens", Code::kInvalid, good,
          [&](Request& r) { SetTokens(r, [](uint32_t& n) { ++n; }); });
      Add("far too many tokens", Code::kInvalid, good,
          [&](Request& r) { SetTokens(r, [](uint32_t& n) { n = ~0u; }); });
      for (const uint8_t bucket : {16, 255}) {
        Add("a bucket out of range", Code::kInvalid, good, [&](Request& r) {
          std::vector<uint8_t> buckets(r.payload[0].size(), 3);
          buckets[buckets.size() / 2] = bucket;
          r.payload[0] = FrameOf(buckets);
        });
      }
    }
  }
  void AddRows() {
    const auto with_rows = [](std::vector<uint64_t> ids) {
      return [ids](Request& r) {
        r.payload[0] = FrameOf(ids);
        if (r.payload.size() == 3) r.payload[2] = FrameOf(std::vector<float>(ids.size() * 32));
      };
    };
    for (const Request& good : {rows_, pull_}) {
      Add("rows that fall", Code::kInvalid, good, with_rows({3, 2}));
      Add("a row twice", Code::kInvalid, good, with_rows({2, 2}));
      Add("a row beyond the last", Code::kInvalid, good, with_rows({0, 20}));
      Add("a row far off", Code::kInvalid, good, with_rows({UINT64_MAX}));
      Add("half a row id", Code::kInvalid, good, [](Request& r) {
        r.payload[0] = FrameOf(std::vector<uint32_t>{0, 0, 1});
      });
    }
    Add("hits of another size", Code::kInvalid, rows_,
        [](Request& r) { r.payload[1] = FrameOf(std::vector<uint32_t>(50)); });
    for (const uint64_t count : {uint64_t{1}, uint64_t{19}, uint64_t{21}, UINT64_MAX}) {
      Add("another count of a whole push", Code::kInvalid, whole_,
          [&](Request& r) { SetRowCount(r, count); });
    }
    for (const uint64_t first : {uint64_t{1}, uint64_t{20}, UINT64_MAX}) {
      Add("a range beyond the end", Code::kInvalid, pull_,
          [&](Request& r) { std::get<PullRequest>(r.body).first_row = first; });
    }
    for (const uint64_t count : {uint64_t{21}, uint64_t{1} << 61, UINT64_MAX}) {
      Add("too many rows", Code::kInvalid, pull_, [&](Request& r) { SetRowCount(r, count); });
    }
  }
  void AddOthers() {
    for (const double value : {double{NAN}, kInfinity, -kInfinity, 1e300}) {
      Add("a rate that is not finite", Code::kInvalid, apply_,
          [&](Request& r) { std::get<ApplyRequest>(r.body).lr = value; });
      Add("a scale that is not finite", Code::kInvalid, apply_,
          [&](Request& r) { std::get<ApplyRequest>(r.body).scale = value; });
    }
    Add("a lost lease", Code::kStale, server_.Make(RenewRequest{5}), [](Request&) {});
    Add("done without a coordinator epoch", Code::kWrongEpoch,
        server_.Make(MicroBatchDoneRequest{.at = server_.open()}), [](Request&) {});
    Add("an old rollback", Code::kWrongEpoch, server_.Rollback(server_.epoch - 1, 0),
        [](Request&) {});
    Add("a rollback to nowhere", Code::kUnavailable, server_.Rollback(server_.epoch + 1, 5),
        [](Request&) {});
    const Request hello = server_.Hello();
    Add("another protocol", Code::kInvalid, hello,
        [](Request& r) { ++std::get<HelloRequest>(r.body).protocol; });
    Add("another shard", Code::kInvalid, hello,
        [](Request& r) { std::get<HelloRequest>(r.body).shard = 1; });
    Add("another number of shards", Code::kInvalid, hello,
        [](Request& r) { std::get<HelloRequest>(r.body).shards = 2; });
    Add("another run", Code::kWrongRun, hello, [](Request& r) {
      std::get<HelloRequest>(r.body).description = DescribeRun(ShardConfig(), "other data").Json();
    });
  }

  const ShardHarness& server_;
  const TensorSpec& embed_ = server_.spec("embed.weight");
  const Request forward_ = server_.Forward(server_.spec("blocks.0.qkv.tables"), 1, 1);
  const Request backward_ = server_.Backward(server_.spec("blocks.0.qkv.tables"), 1, 1);
  const Request rows_ = server_.Push(embed_, 1, 1);
  const Request whole_ = server_.Push(server_.spec("head.weight"), 1, 1);
  const Request pull_ = server_.PullAll(embed_);
  const Request list_ =
      server_.Make(ListRowsRequest{.at = server_.finished(), .tensor = 0, .row_count = 10});
  const Request apply_ = server_.Make(ApplyRequest{.at = server_.open(), .lr = 1e-2, .scale = 1});
  const Request drop_ = server_.Make(DropRequest{.at = server_.open()});
  const Request prepare_ = server_.Make(PrepareRequest{server_.open()});
  std::vector<Wrong> all_;
};

std::vector<Wrong> WrongRequests(const ShardHarness& server) {
  return WrongRequestList(server).Take();
}

// Goal: every wrong request is answered with its typed error and changes nothing: not the rows, and
// not what the open step has gathered. (An undisturbed server ends the step with the same bits.)
TEST(Shard, WrongRequestsChangeNothing) {
  ShardHarness server(ShardConfig()), undisturbed(ShardConfig());
  for (ShardHarness* each : {&server, &undisturbed}) {
    each->RunStep(1, 1e-2);
    each->MicroBatch(2, 0);
  }
  const auto before = server.State();
  const auto refuse = [&](const Wrong& wrong) {
    const Reply reply = server.Send(wrong.request);
    EXPECT_EQ(static_cast<int>(reply.code), static_cast<int>(wrong.code))
        << OpName(wrong.request.op()) << " with " << wrong.what << ": " << reply.message;
    EXPECT_FALSE(reply.message.empty()) << wrong.what;
    EXPECT_TRUE(reply.payload.empty()) << wrong.what;
  };
  const std::vector<Wrong> all = WrongRequests(server);
  EXPECT_GT(all.size(), 100u);
  for (const Wrong& wrong : all) {
    refuse(wrong);
    ASSERT_EQ(server.State(), before) << OpName(wrong.request.op()) << " with " << wrong.what;
  }
  EXPECT_GT(server.metrics().Value(Metric::kRequestsRejected, {"invalid"}), 50);
  for (ShardHarness* each : {&server, &undisturbed}) {
    for (uint32_t i = 0; i < 3; ++i) each->MicroBatch(2, i);
    EXPECT_EQ(each->Send(each->Make(PrepareRequest{each->open()})).code, Code::kOk);
  }
  for (const Wrong& wrong : WrongRequests(server)) {  // the same when the step is prepared
    const Op op = wrong.request.op();
    if (op == Op::kApply || op == Op::kDrop) refuse(wrong);
  }
  EXPECT_EQ(server.State(), before);
  server.End(1e-2, true);
  undisturbed.End(1e-2, true);
  EXPECT_EQ(server.State(), undisturbed.State());
}

// Goal: before recovery a server answers hello, status and rollback only; without hello nothing.
TEST(Shard, AnswersNothingBeforeRecovery) {
  ShardHarness server(ShardConfig(), {.recover = false});
  const Request requests[] = {server.Forward(server.spec("blocks.0.qkv.tables"), 1, 0),
                              server.Backward(server.spec("blocks.0.qkv.tables"), 1, 0),
                              server.Push(server.spec("embed.weight"), 1, 0),
                              server.PullAll(server.spec("embed.weight")),
                              server.Make(ListRowsRequest{.at = server.finished()}),
                              server.Make(PrepareRequest{server.open()}),
                              server.Make(DropRequest{.at = server.open()})};
  for (Request request : requests) EXPECT_EQ(server.Send(request).code, Code::kNotJoined);
  EXPECT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kNotJoined);
  Request hello = server.Hello();
  for (const char* text : {" ", "{", "[]", "{\"model\": {\"d\": -1}}", "{\"nonsense\": {}}"}) {
    Request bad = hello;
    std::get<HelloRequest>(bad.body).description = text;
    EXPECT_EQ(server.Send(bad).code, Code::kInvalid) << text;
  }
  const Reply joined = server.Send(hello);
  ASSERT_EQ(joined.code, Code::kOk) << joined.message;
  const HelloReply& answer = As<HelloReply>(joined);
  EXPECT_EQ(answer.state.finished.epoch, 0u);
  EXPECT_EQ(answer.state.description, std::get<HelloRequest>(hello.body).description);
  server.session = answer.session;
  for (Request request : requests) {
    for (const uint64_t epoch : {uint64_t{0}, server.epoch}) {
      request.session = server.session;
      EditStep(request, [&](uint64_t& at_epoch, uint64_t&) { at_epoch = epoch; });
      EXPECT_EQ(server.Send(request).code, Code::kUnavailable) << OpName(request.op());
    }
  }
  EXPECT_EQ(server.Send(server.Make(StatusRequest{})).code, Code::kOk);
  EXPECT_EQ(server.Send(server.Rollback(0, 0)).code, Code::kWrongEpoch);
  EXPECT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kOk);
  server.RunStep(1, 1e-2);
}

// Goal: who comes with another run learns what is different.
TEST(Shard, NamesWhatAnotherRunHasDifferent) {
  ShardHarness server(ShardConfig());
  Request hello = server.Hello();
  std::get<HelloRequest>(hello.body).description = DescribeRun(ShardConfig(), "other data").Json();
  EXPECT_NE(server.Send(hello).message.find(
                "another training: the same configuration on other data; use"),
            std::string::npos);
  Config other = ShardConfig();
  other.train.lr = 0.125;
  std::get<HelloRequest>(hello.body).description = DescribeRun(other, "").Json();
  const Reply refused = server.Send(hello);
  EXPECT_EQ(refused.code, Code::kWrongRun);
  EXPECT_NE(refused.message.find("train.lr: 0.003 here, 0.125 there"), std::string::npos)
      << refused.message;
  EXPECT_FALSE(Answers(refused, Op::kHello));
}

// Goal: a rollback puts the tables back to what the seed makes and forgets the open step; the same
// rollback again does nothing.
TEST(Shard, RollbackRestoresTheStart) {
  ShardHarness server(ShardConfig()), fresh(ShardConfig());
  const auto start = server.State();
  EXPECT_EQ(start, fresh.State());
  server.RunStep(1, 1e-2);
  server.MicroBatch(2, 0);
  server.MicroBatch(2, 2);
  EXPECT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kOk);  // the first one again
  EXPECT_EQ(server.shard().commit().finished(), 1u);
  const uint64_t old = server.epoch++;
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kOk);
  EXPECT_EQ(server.State(), start);
  Request late = server.Push(server.spec("embed.weight"), 2, 1);
  std::get<PushRequest>(late.body).at.epoch = old;
  EXPECT_EQ(server.Send(late).code, Code::kWrongEpoch);
  server.RunStep(3, 1e-2);
  fresh.RunStep(3, 1e-2);
  EXPECT_EQ(server.State(), fresh.State());
}

// Goal: the coordinator of server 0 is asked through messages; an ask that is waiting is answered
// later, to the peer who asked.
TEST(Shard, CoordinatorAnswersThroughMessages) {
  ShardHarness server(ShardConfig());
  Request ask = server.Make(LeaseRequest{});
  const LeaseReply recover = As<LeaseReply>(server.Send(ask));
  ASSERT_EQ(recover.work, Work::kRecover);
  EXPECT_GE(recover.epoch, uint64_t{1} << 32);
  const size_t before = server.sent().size();
  ask.id = 4711;
  server.shard().Handle("another peer", ask, 0.1);
  EXPECT_EQ(server.sent().size(), before);
  server.shard().Tick(Coordinator::kWaitSecondsMax / 2);
  EXPECT_EQ(server.sent().size(), before);
  server.shard().Tick(Coordinator::kWaitSecondsMax + 0.2);
  ASSERT_EQ(server.sent().size(), before + 1);
  EXPECT_EQ(server.sent().back().first, "another peer");
  EXPECT_EQ(server.sent().back().second.id, 4711u);
  EXPECT_EQ(As<LeaseReply>(server.sent().back().second).work, Work::kWait);
}

}  // namespace
}  // namespace mf
