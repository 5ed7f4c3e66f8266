// Goal: a pool runs every body once, whatever the number of threads, and what a body throws reaches
// the caller after all have ended, so that nothing runs on with what the caller has unwound.
#include "common/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
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

}  // namespace
}  // namespace mf
