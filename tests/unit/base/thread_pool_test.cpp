// Goal: a pool runs every body once, whatever the number of threads, and what a body throws reaches
// the caller after all have ended, so that nothing runs on with what the caller has unwound.
#include "common/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <new>
#include <thread>
#include <vector>

namespace mf {
namespace {

TEST(ThreadPool, RunsEveryBodyOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const size_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(count);
      pool.ParallelFor(count, [&](size_t i, int thread) {
        EXPECT_LT(thread, threads);
        ++runs[i];
      });
      for (const auto& run : runs) EXPECT_EQ(run, 1);
    }
  }
}

TEST(ThreadPool, ThrowsInTheCaller) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (size_t bad = 0; bad < 200; ++bad) {
      std::atomic<int> inside{0};
      EXPECT_THROW(pool.ParallelFor(200,
                                    [&](size_t i, int) {
                                      ++inside;
                                      if (i == bad) {
                                        --inside;
                                        throw std::bad_alloc();
                                      }
                                      --inside;
                                    }),
                   std::bad_alloc);
      EXPECT_EQ(inside, 0);
    }
    std::atomic<int> runs{0};
    pool.ParallelFor(100, [&](size_t, int) { ++runs; });  // it is as good as new
    EXPECT_EQ(runs, 100);
  }
}

// Whatever takes long, on however many threads, what is short is done meanwhile by the caller.
TEST(ThreadPool, YieldsWhileItWorks) {
  using namespace std::chrono_literals;
  const auto caller = std::this_thread::get_id();
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    int yields = 0;
    pool.SetYield([&] {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      ++yields;
    });
    pool.ParallelFor(100, [](size_t, int) { std::this_thread::sleep_for(1ms); });
    EXPECT_GE(yields, 100 / threads / 10) << threads;
    yields = 0;
    const auto begin = std::chrono::steady_clock::now();
    pool.RunAside([&] {
      EXPECT_NE(std::this_thread::get_id(), caller);
      std::this_thread::sleep_for(100ms);
    });
    EXPECT_GE(yields, 5);
    EXPECT_LE(yields, 1 + (std::chrono::steady_clock::now() - begin) / ThreadPool::kYieldInterval);
    EXPECT_THROW(pool.RunAside([] { throw std::bad_alloc(); }), std::bad_alloc);
  }
}

TEST(ThreadPool, YieldsWhileOthersWork) {
  using namespace std::chrono_literals;
  ThreadPool pool(2);
  std::atomic<int> yields{0};
  pool.SetYield([&] { ++yields; });
  // The last body is another thread's, or the caller's: whoever has it waits for the caller's
  // yield.
  for (int i = 0; i < 20; ++i) {
    yields = 0;
    pool.ParallelFor(2,
                     [](size_t body, int) { std::this_thread::sleep_for(body == 0 ? 0ms : 40ms); });
    EXPECT_GE(yields, 1);
  }
}

}  // namespace
}  // namespace mf
