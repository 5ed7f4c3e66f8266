// gtest's main for tests that need a GPU: exit code 77, which ctest takes as skipped, where none
// is.
#include <gtest/gtest.h>

#include <cstdio>

#include "worker/backend/cuda/compute.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (mf::cuda::DeviceCount() == 0) {
    std::printf("skipped: there is no GPU here\n");
    return 77;
  }
  return RUN_ALL_TESTS();
}
