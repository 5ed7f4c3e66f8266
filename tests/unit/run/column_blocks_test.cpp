// Goal: blocks and shards partition the columns of every width, in the order and sizes that the
// wire format and the kernels rely on.
#include "common/run/column_blocks.h"

#include <gtest/gtest.h>

namespace mf {
namespace {

TEST(ColumnBlocks, BlocksPartitionEveryWidth) {
  for (int64_t columns = 1; columns <= 4200; ++columns) {
    for (const int64_t override_blocks : {0, 1, 3, 64, 100000}) {
      const auto blocks = ColumnBlocks(columns, override_blocks);
      ASSERT_FALSE(blocks.empty());
      EXPECT_LE(static_cast<int64_t>(blocks.size()), std::max<int64_t>(1, columns / 16));
      int64_t at = 0;
      for (size_t i = 0; i < blocks.size(); ++i) {
        ASSERT_EQ(blocks[i].begin, at);
        ASSERT_EQ(blocks[i].begin % 16, 0);
        ASSERT_GT(blocks[i].size(), 0) << columns << " columns, block " << i;
        // As equal as units of 16 columns allow.
        ASSERT_LE(blocks[0].size() - blocks[i].size(), i + 1 < blocks.size() ? 16 : 31);
        at = blocks[i].end;
      }
      ASSERT_EQ(at, columns);
    }
  }
}

TEST(ColumnBlocks, CountsFollowTheWidth) {
  const auto count = [](int64_t columns, int64_t override_blocks = 0) {
    const size_t blocks = ColumnBlocks(columns, override_blocks).size();
    EXPECT_EQ(ColumnBlockCount(columns, override_blocks), static_cast<int64_t>(blocks));
    return blocks;
  };
  EXPECT_EQ(count(8), 1u);
  EXPECT_EQ(count(40), 2u);
  EXPECT_EQ(count(128), 4u);  // at least 4
  EXPECT_EQ(count(512), 8u);  // h / 64
  EXPECT_EQ(count(1536), 24u);
  EXPECT_EQ(count(100000), 64u);  // at most 64
  EXPECT_EQ(count(512, 32), 32u);
  EXPECT_EQ(count(512, 33), 32u);  // one block per 16 columns
}

TEST(ColumnBlocks, ShardsPartitionTheBlocks) {
  for (int64_t blocks = 1; blocks <= 64; ++blocks) {
    for (int64_t shards = 1; shards <= blocks; ++shards) {
      int64_t at = 0;
      for (int64_t shard = 0; shard < shards; ++shard) {
        const BlockRange range = ShardBlocks(blocks, shard, shards);
        ASSERT_EQ(range.begin, at);
        ASSERT_GE(range.end - range.begin, blocks / shards);
        ASSERT_LE(range.end - range.begin, blocks / shards + 1);
        at = range.end;
      }
      ASSERT_EQ(at, blocks);
    }
  }
}

}  // namespace
}  // namespace mf
