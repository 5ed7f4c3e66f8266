// Goal: memory that is given back is taken again, warm, and never more is kept than said; buffers
// are aligned, live as long as any owner, and may be let go by any thread.
#include "common/base/buffer_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "common/base/buffer.h"

namespace mf {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kKeeps = false;
#else
constexpr bool kKeeps = true;
#endif

bool IsAligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 64 == 0; }

// Goal: a class holds what is asked for, wastes at most a quarter, and is its own class.
TEST(BufferPoolTest, ClassesAreAQuarterApart) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200'000; ++i) {
    const size_t bytes = i < 5000 ? static_cast<size_t>(i) : random() >> (24 + random() % 39);
    const size_t held = ClassBytes(bytes);
    ASSERT_GE(held, bytes);
    ASSERT_TRUE(held <= 64 || held <= bytes + bytes / 4) << bytes << " in " << held;
    ASSERT_EQ(ClassBytes(held), held);
    ASSERT_EQ(held % 16, 0u);
  }
}

TEST(BufferPoolTest, WhatIsGivenBackIsTakenAgain) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{3} << 20, size_t{100} << 20}) {
    const PoolBlock block = TakeBlock(bytes);
    EXPECT_TRUE(IsAligned(block.memory));
    EXPECT_EQ(block.bytes, ClassBytes(bytes));
    std::memset(block.memory, 7, bytes);
    const size_t before = PooledBytes();
    GiveBlock(block);
    EXPECT_EQ(PooledBytes(), kKeeps ? before + block.bytes : 0);
    const PoolBlock again = TakeBlock(bytes);
    EXPECT_TRUE(!kKeeps || again.memory == block.memory);
    EXPECT_EQ(PooledBytes(), before);
    GiveBlock(again);
  }
}

// Goal: what lies in the pool from one call to the next goes, and nothing that is in use.
TEST(BufferPoolTest, WhatNobodyTakesGoes) {
  EmptyPool();
  const PoolBlock used = TakeBlock(1000), unused = TakeBlock(5000);
  GiveBlock(used);
  GiveBlock(unused);
  GiveUnusedBlocks();  // both were given since the last call
  EXPECT_EQ(PooledBytes(), kKeeps ? used.bytes + unused.bytes : 0);
  GiveBlock(TakeBlock(1000));
  GiveUnusedBlocks();
  EXPECT_EQ(PooledBytes(), kKeeps ? used.bytes : 0);
  GiveUnusedBlocks();
  EXPECT_EQ(PooledBytes(), 0u);
}

// Goal: the blocks that waited longest go when the limit is reached.
TEST(BufferPoolTest, NoMoreIsKeptThanSaid) {
  constexpr size_t kBytes = size_t{48} << 20;
  std::vector<PoolBlock> blocks;
  for (size_t total = 0; total < 2 * kPooledBytesMax; total += kBytes) {
    blocks.push_back(TakeBlock(kBytes));  // untouched: no memory of the machine yet
  }
  for (const PoolBlock& block : blocks) {
    GiveBlock(block);
    EXPECT_LE(PooledBytes(), kPooledBytesMax);
  }
  if (kKeeps) {
    EXPECT_GT(PooledBytes(), kPooledBytesMax - kBytes);
    const PoolBlock last = TakeBlock(kBytes);
    EXPECT_EQ(last.memory, blocks.back().memory);
    GiveBlock(last);
  }
  EXPECT_THROW(TakeBlock(SIZE_MAX - 100), std::bad_alloc);
  EXPECT_THROW(Buffer(SIZE_MAX - 100), std::bad_alloc);
  EmptyPool();
  EXPECT_EQ(PooledBytes(), 0u);
}

TEST(BufferPoolTest, ABufferLivesAsLongAsAnyOwner) {
  Frame frame;
  {
    Buffer buffer(1000);
    EXPECT_TRUE(IsAligned(buffer.data()));
    std::memset(buffer.data(), 42, buffer.size());
    frame = buffer;
  }
  for (int i = 0; i < 10; ++i) std::memset(Buffer(1000).data(), 1, 1000);
  for (size_t i = 0; i < frame.size(); ++i) ASSERT_EQ(std::to_integer<int>(frame.data()[i]), 42);
}

// Goal: threads that make, hand over and let go of buffers of all sizes never see each other's
// bytes.
TEST(BufferPoolTest, ThreadsDoNotShareBytes) {
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([thread] {
      std::mt19937_64 random(thread);
      std::vector<std::pair<Frame, int>> held;
      for (int i = 0; i < 3000; ++i) {
        const Buffer buffer(1 + (random() >> (44 + random() % 20)));
        const int fill = static_cast<int>(random() % 256);
        std::memset(buffer.data(), fill, buffer.size());
        held.emplace_back(buffer, fill);
        if (held.size() < 8) continue;
        const size_t at = random() % held.size();
        const auto [frame, due] = held[at];
        ASSERT_EQ(std::to_integer<int>(frame.data()[0]), due);
        ASSERT_EQ(std::to_integer<int>(frame.data()[frame.size() - 1]), due);
        held.erase(held.begin() + static_cast<ptrdiff_t>(at));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace mf
