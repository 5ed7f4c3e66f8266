// Goal: a server that is warm takes no memory for the requests of training, forward to apply: every
// `operator new` in its thread is counted, kernels, metrics and the ticks of coordinator and
// monitor included, and there is none; a client takes the same few small pieces a call, however
// many tokens it is about. Not in it, because it is what there is to keep: rows and hits never met
// before, and lists with an entry for every finished step, which double at powers of two. Not
// counted: what ZeroMQ takes from malloc for the messages that arrive, which malloc keeps
// (common/net/zmq_transport.cpp).
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/buffer_pool.h"
#include "common/client/client.h"
#include "common/client/lease_work.h"
#include "common/client/table_client.h"
#include "pserver/shard/server.h"
#include "tests/support/frames.h"
#include "tests/support/join.h"
#include "tests/support/memory/hooked_new.h"
#include "worker/config/tensors.h"

namespace {

std::atomic<uint64_t> g_server_allocations{0};
std::atomic<uint64_t> g_caller_allocations{0};
std::atomic<uint64_t> g_caller_bytes{0};
enum class Thread { kOther, kServer, kCaller };
thread_local Thread t_thread = Thread::kOther;

}  // namespace

bool mf::MayAllocate(size_t bytes) noexcept {
  if (t_thread == Thread::kServer) g_server_allocations.fetch_add(1);
  if (t_thread == Thread::kCaller) {
    g_caller_allocations.fetch_add(1);
    g_caller_bytes.fetch_add(bytes);
  }
  return true;
}

namespace mf {
namespace {

/// Marks the thread that receives as the server's.
class MarkingTransport final : public ServerTransport {
 public:
  explicit MarkingTransport(std::unique_ptr<ServerTransport> inner) : inner_(std::move(inner)) {}
  bool Receive(int timeout_ms, std::string* peer, Message* message) override {
    t_thread = Thread::kServer;
    return inner_->Receive(timeout_ms, peer, message);
  }
  bool Send(const std::string& peer, const Message& message) override {
    return inner_->Send(peer, message);
  }
  bool HasRoomFor(const std::string&) override { return true; }
  void Wake() override { inner_->Wake(); }
  const std::string& address() const override { return inner_->address(); }

 private:
  const std::unique_ptr<ServerTransport> inner_;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kPoolKeeps = false;
#else
constexpr bool kPoolKeeps = true;
#endif

template <class T>
T Must(Result<T> result) {
  EXPECT_TRUE(result.ok()) << result.status().message();
  return std::move(result).value();
}

/// How many blocks are in use at once depends on when ZeroMQ's thread gives back what it has sent:
/// the pool gets more than enough of all sizes, so that it need not grow while one counts.
void FillPool() {
  constexpr size_t kLargest = size_t{2} << 20;
  std::vector<PoolBlock> blocks;
  for (size_t bytes = 1; bytes <= kLargest; bytes = ClassBytes(bytes) + 1) {
    for (int i = 0; i < (bytes < 8192 ? 64 : 16); ++i) blocks.push_back(TakeBlock(bytes));
  }
  for (const PoolBlock& block : blocks) GiveBlock(block);
}

struct Case {
  const char* name;
  Wire wire;
  uint64_t memory_bytes;  // 0: sparse tables
  RowType rows;
  OptimizerKind optimizer;
};

/// A server with one kernel thread behind TCP, as a pserver process has it, and a client that sends
/// one request after the other.
class AllocationTest : public testing::TestWithParam<Case> {
 protected:
  static constexpr size_t kTokens = 256;
  // A step has two micro-batches: pushdown's, and one of rows that were pulled and are pushed.
  static constexpr uint32_t kByPairs = 0, kByRows = 1, kMicroBatches = 2;
  // Lists and books of the two calls, forward and backward.
  static constexpr uint64_t kCallAllocations = 16, kCallBytes = 4096;

  AllocationTest() {
    config_.model.layers = 1;
    config_.model.sequence = kTokens;
    config_.model.table_dtype = GetParam().rows;
    config_.train.batch = 1;
    config_.train.micro_batches = kMicroBatches;
    config_.train.optimizer = GetParam().optimizer;
    config_.exchange.wire = GetParam().wire;
    run_ = DescribeRun(config_, "");
    auto transport =
        std::make_unique<MarkingTransport>(Must(BindZmq(context_, "tcp://127.0.0.1:0")));
    Shard::Options options;
    options.memory_bytes = GetParam().memory_bytes;
    options.metrics = &metrics_;
    server_ = std::make_unique<Server>(std::move(transport), RunHost::Options{.shard = options}, 1,
                                       &metrics_);
    const std::vector<std::string> addresses{server_->address()};
    client_ = std::make_unique<Client>(Must(ConnectZmq(context_, addresses)), addresses,
                                       Client::Options{});
    tables_ = std::make_unique<TableClient>(*client_, run_);
    Must(SayHello(*client_, run_.Json()));
    EXPECT_TRUE(RollBack(*client_, Finished()).ok());
    FillPool();
  }

  /// Does `call` and adds what the server took for it to taken_[what].
  template <class Call>
  void Counted(const char* what, Call call) {
    const uint64_t before = g_server_allocations;
    EXPECT_TRUE(call().ok()) << what;
    // The server works behind a reply, too: this one is answered after that.
    float row[kColumnsMax];
    EXPECT_TRUE(tables_->PullRange(Finished(), Dense(), 0, 1, row).Wait().ok());
    taken_[what] += g_server_allocations - before;
  }

  /// A step from its first forward to its apply: the same rows every time.
  void Step() {
    for (const TensorSpec& tensor : tensors_) {
      if (tensor.kind == TensorKind::kDense) {
        PullAndPush(tensor);
      } else {
        ReadAndTrain(tensor, kTokens);
        PullAndPushRows(tensor);
      }
    }
    StepEnd end{.apply = true, .lr = 1e-3, .scale = 1};
    Counted("prepare", [&] { return tables_->Prepare(at_).status(); });
    const OpenStep ended = std::exchange(at_, {at_.epoch, at_.step + 1});
    Counted("apply", [&] { return tables_->Finish(ended, end).status(); });
  }

  void PullAndPush(const TensorSpec& tensor) {
    std::vector<float> values(tensor.values());
    Counted("pull", [&] {
      return tables_->PullRange(Finished(), tensor, 0, tensor.total_rows(), values.data()).Wait();
    });
    for (uint32_t number = 0; number < kMicroBatches; ++number) {
      Counted("push",
              [&] { return tables_->PushWhole(at_, number, tensor, values.data()).Wait(); });
    }
  }

  /// Evaluation's forward of rows of which many are never updated, then a training's.
  void ReadAndTrain(const TensorSpec& tensor, size_t tokens) {
    Pairs pairs = Draw(tensor, tokens, /*seed=*/2);
    Counted("forward of an evaluation", [&] {
      return tables_
          ->Forward(Finished(), tensor, tokens, pairs.indices, pairs.weights, pairs.y.data())
          .Wait();
    });
    pairs = Draw(tensor, tokens, /*seed=*/1);
    const uint64_t before = g_caller_allocations, bytes = g_caller_bytes;
    Counted("forward", [&] {
      t_thread = Thread::kCaller;
      const Status status =
          tables_->Forward(at_, tensor, tokens, pairs.indices, pairs.weights, pairs.y.data())
              .Wait();
      t_thread = Thread::kOther;
      return status;
    });
    Counted("backward", [&] {
      t_thread = Thread::kCaller;
      const Status status = tables_
                                ->Backward(at_, kByPairs, tensor, tokens, pairs.indices,
                                           pairs.weights, pairs.dy, pairs.dots.data())
                                .Wait();
      t_thread = Thread::kOther;
      return status;
    });
    caller_allocations_ = std::min(caller_allocations_, g_caller_allocations - before);
    caller_bytes_ = std::min(caller_bytes_, g_caller_bytes - bytes);
  }

  /// The other way of exchange, with every third row.
  void PullAndPushRows(const TensorSpec& tensor) {
    std::vector<uint64_t> rows;
    for (uint64_t row = 0; row < tensor.total_rows(); row += 3) rows.push_back(row);
    std::vector<float> values(rows.size() * static_cast<size_t>(tensor.columns));
    Counted("pull of rows", [&] { return tables_->Pull(at_, tensor, rows, values.data()).Wait(); });
    const std::vector<uint32_t> hits(rows.size(), 2);
    Counted("push of rows",
            [&] { return tables_->Push(at_, kByRows, tensor, rows, hits, values.data()).Wait(); });
  }

  struct Pairs {
    Buffer indices, weights, dy;
    std::vector<float> y, dots;
  };
  static Pairs Draw(const TensorSpec& tensor, size_t tokens, uint64_t seed) {
    std::mt19937_64 random(seed);
    const size_t columns = static_cast<size_t>(tensor.columns);
    const size_t count = static_cast<size_t>(tensor.tables) * tokens;
    const size_t bytes = static_cast<size_t>(tensor.index_bytes());
    Buffer indices(count * bytes);
    for (size_t i = 0; i < count; ++i) {
      const uint64_t bucket = random() % static_cast<uint64_t>(tensor.rows);
      std::memcpy(indices.data() + i * bytes, &bucket, bytes);
    }
    return {indices, BufferOf(std::vector<float>(count, 0.5f)),
            BufferOf(std::vector<float>(tokens * columns, 0.25f)),
            std::vector<float>(tokens * columns), std::vector<float>(count)};
  }

  FinishedStep Finished() const { return at_.before(); }
  const TensorSpec& Dense() const {
    return *std::find_if(tensors_.begin(), tensors_.end(),
                         [](const TensorSpec& t) { return t.kind == TensorKind::kDense; });
  }

  static constexpr size_t kColumnsMax = 1024;
  Config config_;
  RunDescription run_;
  const std::vector<TensorSpec>& tensors_ = run_.tensors;
  TransportContext context_;
  Metrics metrics_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<TableClient> tables_;
  OpenStep at_{uint64_t{1} << 32 | 1, 1};
  std::map<std::string, uint64_t> taken_;
  // The least of a forward and a backward: more where the pool grows.
  uint64_t caller_allocations_ = UINT64_MAX, caller_bytes_ = UINT64_MAX;
};

TEST_P(AllocationTest, WarmServerTakesNone) {
  if (!kPoolKeeps) GTEST_SKIP() << "under a sanitizer the pool keeps nothing";
  using Clock = std::chrono::steady_clock;
  // Lists of finished steps are as long as they can be without growing while one counts.
  constexpr uint64_t kFirst = 34, kLast = 63;
  const auto give_up = Clock::now() + std::chrono::minutes(2);
  while (at_.step < kFirst) Step();
  // The monitor looks at one tensor a tick, and tells of the dense ones when it was at all.
  while (metrics_.Value(Metric::kTableRows, {"dense"}) == 0 && Clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GT(metrics_.Value(Metric::kTableRows, {"dense"}), 0);
  EXPECT_GT(taken_["apply"], 0u);  // those lists did grow; or nothing is counted
  taken_.clear();
  const auto start = Clock::now();
  while (at_.step < kLast) Step();
  while (Clock::now() < start + std::chrono::milliseconds(300)) {  // some ticks, whatever happens
    Counted("tick", [&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(60));
      return Status::Ok();
    });
  }
  EXPECT_EQ(taken_.size(), 9u);
  for (const auto& [what, count] : taken_) EXPECT_EQ(count, 0u) << what;
}

// Goal: what a call takes in the client is small and does not grow with what it is about.
TEST_P(AllocationTest, CallsTakeAFewSmallPieces) {
  if (!kPoolKeeps) GTEST_SKIP() << "under a sanitizer the pool keeps nothing";
  const auto memory = std::find_if(tensors_.begin(), tensors_.end(), [](const TensorSpec& t) {
    return t.kind == TensorKind::kMemory;
  });
  const auto least = [&](size_t tokens) {
    for (int i = 0; i < 10; ++i) ReadAndTrain(*memory, tokens);
    caller_allocations_ = caller_bytes_ = UINT64_MAX;
    for (int i = 0; i < 10; ++i) ReadAndTrain(*memory, tokens);
    return caller_allocations_;
  };
  const uint64_t allocations = least(kTokens);
  EXPECT_LE(allocations, kCallAllocations);
  EXPECT_LE(caller_bytes_, kCallBytes);
  EXPECT_EQ(least(8), allocations);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, AllocationTest,
    testing::Values(Case{"f32", Wire::kF32, 1 << 30, RowType::kF32, OptimizerKind::kAdam},
                    Case{"bf16", Wire::kBf16, 1 << 30, RowType::kBf16, OptimizerKind::kAdagrad},
                    Case{"sparse_f32", Wire::kF32, 0, RowType::kF32, OptimizerKind::kSgd},
                    Case{"sparse_bf16", Wire::kBf16, 0, RowType::kBf16, OptimizerKind::kAdam}),
    [](const auto& c) { return std::string(c.param.name); });

}  // namespace
}  // namespace mf
