// Goal: a server that is warm takes no memory for the requests of training: every `operator new` in
// its thread is counted, kernels included, and there is none; a client takes the same few small
// pieces a call, however many tokens it is about. Not counted: what ZeroMQ takes from malloc for
// the messages that arrive, which malloc keeps (common/zmq_transport.cpp).
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "common/client.h"
#include "common/table_client.h"
#include "pserver/server.h"
#include "tests/support/frames.h"

namespace {

std::atomic<uint64_t> g_server_allocations{0};
std::atomic<uint64_t> g_caller_allocations{0};
std::atomic<uint64_t> g_caller_bytes{0};
enum class Thread { kOther, kServer, kCaller };
thread_local Thread t_thread = Thread::kOther;

void* Allocate(size_t bytes, size_t alignment) {
  if (t_thread == Thread::kServer) g_server_allocations.fetch_add(1);
  if (t_thread == Thread::kCaller) {
    g_caller_allocations.fetch_add(1);
    g_caller_bytes.fetch_add(bytes);
  }
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return Allocate(bytes, 16); }
void* operator new[](size_t bytes) { return Allocate(bytes, 16); }
void* operator new(size_t bytes, std::align_val_t a) {
  return Allocate(bytes, static_cast<size_t>(a));
}
void* operator new[](size_t bytes, std::align_val_t a) {
  return Allocate(bytes, static_cast<size_t>(a));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

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

/// A server with one kernel thread behind TCP, as a pserver process has it, and a client.
class AllocationTest : public testing::TestWithParam<Wire> {
 protected:
  static constexpr size_t kTokens = 256;
  static constexpr uint32_t kMicroBatches = 80;
  // Lists and books of the two calls, forward and backward.
  static constexpr uint64_t kCallAllocations = 16, kCallBytes = 4096;

  AllocationTest() {
    config_.model.layers = 1;
    config_.model.sequence = kTokens;
    config_.train.batch = 1;
    config_.train.micro_batches = kMicroBatches;
    config_.train.optimizer = OptimizerKind::kSgd;
    config_.exchange.mode = ExchangeMode::kPushdown;
    config_.exchange.wire = GetParam();
    tensors_ = TensorsOf(config_);
    auto transport =
        std::make_unique<MarkingTransport>(Must(BindZmq(context_, "tcp://127.0.0.1:0")));
    Shard::Options options;
    options.memory_bytes = 1 << 30;
    options.metrics = &metrics_;
    server_ = std::make_unique<Server>(std::move(transport), options, 1, &metrics_);
    const std::vector<std::string> addresses{server_->address()};
    client_ = std::make_unique<Client>(Must(ConnectZmq(context_, addresses)), addresses,
                                       Client::Options{});
    tables_ = std::make_unique<TableClient>(*client_, config_, tensors_);
    Request hello;
    hello.op = Op::kHello;
    hello.shards = 1;
    hello.run_id = "allocations";
    hello.text = CanonicalJson(config_);
    client_->SetSession(0, Must(client_->Call(0, hello).get())[0].session);
    Request rollback;
    rollback.op = Op::kRollback;
    rollback.epoch = at_.epoch;
    EXPECT_TRUE(client_->Call(0, rollback).get().ok());
  }

  /// Forward and backward of all memory layers, pull and push of all other tensors.
  void MicroBatch(uint32_t number, size_t tokens) {
    std::mt19937_64 random(1);  // the same rows every time: a new one takes memory for its gradient
    std::vector<std::vector<float>> out;
    std::vector<Buffer> in;
    std::vector<Pending> calls;
    for (const TensorSpec& tensor : tensors_) {
      const size_t columns = static_cast<size_t>(tensor.columns);
      if (tensor.kind == TensorKind::kDense) {
        out.emplace_back(tensor.total_rows() * columns);
        calls.push_back(tables_->PullRange({at_.epoch, at_.step - 1}, tensor, 0,
                                           tensor.total_rows(), out.back().data()));
        calls.push_back(tables_->PushWhole(at_, number, tensor, out.back().data()));
        continue;
      }
      const size_t pairs = static_cast<size_t>(tensor.tables);
      Buffer indices(pairs * tokens * static_cast<size_t>(tensor.index_bytes()));
      for (size_t i = 0; i < pairs * tokens; ++i) {
        const uint64_t bucket = random() % static_cast<uint64_t>(tensor.rows);
        std::memcpy(indices.data() + i * static_cast<size_t>(tensor.index_bytes()), &bucket,
                    static_cast<size_t>(tensor.index_bytes()));
      }
      const Buffer weights = BufferOf(std::vector<float>(pairs * tokens, 0.5f));
      const Buffer dy = BufferOf(std::vector<float>(tokens * columns, 0.25f));
      out.emplace_back(tokens * columns);
      const uint64_t before = g_caller_allocations, bytes = g_caller_bytes;
      t_thread = Thread::kCaller;
      Pending forward = tables_->Forward(at_, Access::kTraining, tensor, tokens, indices, weights,
                                         out.back().data());
      EXPECT_TRUE(forward.Wait().ok());
      t_thread = Thread::kOther;
      out.emplace_back(pairs * tokens);
      t_thread = Thread::kCaller;
      Pending backward =
          tables_->Backward(at_, number, tensor, tokens, indices, weights, dy, out.back().data());
      EXPECT_TRUE(backward.Wait().ok());
      t_thread = Thread::kOther;
      caller_allocations_ = std::min(caller_allocations_, g_caller_allocations - before);
      caller_bytes_ = std::min(caller_bytes_, g_caller_bytes - bytes);
    }
    for (Pending& call : calls) EXPECT_TRUE(call.Wait().ok());
    AwaitIdle();
  }

  /// `status` is answered after what the server does behind its last reply.
  void AwaitIdle() {
    Request status;
    status.op = Op::kStatus;
    EXPECT_TRUE(client_->Call(0, status).get().ok());
  }

  Config config_;
  std::vector<TensorSpec> tensors_;
  TransportContext context_;
  Metrics metrics_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<TableClient> tables_;
  const StepRef at_{uint64_t{1} << 32 | 1, 1};
  // The least of a forward and a backward: more where the pool grows.
  uint64_t caller_allocations_ = UINT64_MAX, caller_bytes_ = UINT64_MAX;
};

TEST_P(AllocationTest, WarmServerTakesNone) {
  if (!kPoolKeeps) GTEST_SKIP() << "under a sanitizer the pool keeps nothing";
  for (uint32_t i = 0; i < 10; ++i) MicroBatch(i, kTokens);
  EXPECT_GT(g_server_allocations, 0u);  // or nothing is counted
  // `status`, which ends a micro-batch here, answers with the configuration.
  const uint64_t warm = g_server_allocations;
  AwaitIdle();
  const uint64_t a_status = g_server_allocations - warm;
  // The work board looks at its leases 20 times a second and tells the metrics, which takes memory
  // in the micro-batch that it happens to fall into.
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  int64_t taking = 0;
  for (uint32_t i = 10; i < kMicroBatches; ++i) {
    const uint64_t before = g_server_allocations;
    MicroBatch(i, kTokens);
    if (g_server_allocations - before > a_status) ++taking;
  }
  // So it does where more requests are on their way at once than ever before, as the pool grows.
  // What a request of any kind takes shows in all of them.
  const auto ticks = (Clock::now() - start) / std::chrono::milliseconds(50);
  EXPECT_LT(taking, ticks + (int64_t{kMicroBatches} - 10) / 2);
}

// Goal: what a call takes in the client is small and does not grow with what it is about.
TEST_P(AllocationTest, CallsTakeAFewSmallPieces) {
  if (!kPoolKeeps) GTEST_SKIP() << "under a sanitizer the pool keeps nothing";
  for (uint32_t i = 0; i < 10; ++i) MicroBatch(i, kTokens);
  caller_allocations_ = caller_bytes_ = UINT64_MAX;
  for (uint32_t i = 10; i < 20; ++i) MicroBatch(i, kTokens);
  const uint64_t allocations = caller_allocations_, bytes = caller_bytes_;
  caller_allocations_ = UINT64_MAX;
  EXPECT_LE(allocations, kCallAllocations);
  EXPECT_LE(bytes, kCallBytes);
  for (uint32_t i = 20; i < 30; ++i) MicroBatch(i, 8);
  EXPECT_EQ(caller_allocations_, allocations);
}

INSTANTIATE_TEST_SUITE_P(Wires, AllocationTest, testing::Values(Wire::kF32, Wire::kBf16),
                         [](const auto& wire) {
                           return wire.param == Wire::kF32 ? "f32" : "bf16";
                         });

}  // namespace
}  // namespace mf
