// Goal: a step's gradient depends on the numbers of its micro-batches and on nothing else: not on
// who came first, and not on who came twice (DESIGN 2.5).
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "pserver/table/tensor_shard.h"
#include "tests/support/frames.h"
#include "tests/support/shard_harness.h"

namespace mf {
namespace {

// Goal: whatever the order and the repeats of the offers, each number is handed out once, in order,
// and as soon as all before it are there.
TEST(ContributionOrder, HandsOutInOrderOnce) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 500; ++round) {
    const uint64_t count = 1 + random() % 20;
    std::vector<uint64_t> offers;
    for (uint64_t i = 0; i < count; ++i) offers.insert(offers.end(), 1 + random() % 3, i);
    std::shuffle(offers.begin(), offers.end(), random);
    ContributionOrder<uint64_t> order;
    std::vector<bool> seen(count);
    uint64_t next = 0;
    for (const uint64_t number : offers) {
      ASSERT_EQ(order.Accepts(number), !seen[number]);
      // A repeat brings another value: the first one counts.
      const auto ready = order.Offer(number, seen[number] ? 9999 : number);
      seen[number] = true;
      for (const uint64_t value : ready) ASSERT_EQ(value, next++);
      ASSERT_EQ(order.watermark(), next);
      ASSERT_TRUE(next == count || !seen[next]) << "what is there is not held back";
    }
    ASSERT_EQ(next, count);
    ASSERT_EQ(order.waiting(), 0u);
    order.Reset();
    ASSERT_EQ(order.watermark(), 0u);
    ASSERT_TRUE(order.Accepts(0));
  }
}

// Goal: a step that ends early forgets what waited.
TEST(ContributionOrder, ResetForgetsWhatWaits) {
  ContributionOrder<int> order;
  EXPECT_TRUE(order.Offer(2, 20).empty());
  EXPECT_EQ(order.waiting(), 1u);
  order.Reset();
  EXPECT_EQ(order.Offer(0, 1), decltype(order)::Ready{1});
  EXPECT_EQ(order.Offer(1, 2), decltype(order)::Ready{2});
  EXPECT_EQ(order.Offer(2, 3), decltype(order)::Ready{3});
}

constexpr uint64_t kMicroBatches = 6;
constexpr size_t kTokens = 40;

/// A tensor of 4 tables of 32 rows of 40 columns, with 2 probes.
class TensorFixture : public ::testing::TestWithParam<Table::Storage> {
 protected:
  TensorFixture() : history_({Spec()}), pool_(2) { tensor_ = NewTensor(); }

  static TensorSpec Spec() {
    TensorSpec spec;
    spec.name = "tensor";
    spec.kind = TensorKind::kMemory;
    spec.tables = 4;
    spec.rows = 32;
    spec.columns = 40;
    spec.probes = 2;
    spec.init = Init::kNormal;
    spec.init_value = 0.1;
    spec.weight_decay = 0.1;
    return spec;
  }
  std::unique_ptr<TensorShard> NewTensor(uint64_t micro_batches = kMicroBatches) {
    TensorShard::Options options{.storage = GetParam()};
    options.micro_batches = micro_batches;
    return std::make_unique<TensorShard>(LayoutOf(Spec(), 0, 0, 1), options, clock_, pool_, arena_,
                                         scratch_);
  }

  /// Pairs or summed rows, by number; the same for every tensor.
  Contribution Make(uint64_t number) const {
    std::mt19937_64 random(number);
    const auto floats = [&](size_t count) {
      std::vector<float> values(count);
      for (float& value : values) value = static_cast<float>(random() % 1999) / 1000 - 1;
      return FrameOf(values);
    };
    Contribution c;
    if (number % 3 == 2) {
      c.is_push = true;
      std::vector<uint64_t> rows;
      for (uint64_t row = random() % 5; row < 4 * 32; row += 1 + random() % 9) rows.push_back(row);
      c.rows = BufferOf(rows);
      c.values = floats(rows.size() * 40);
      return c;
    }
    c.tokens = kTokens;
    std::vector<uint32_t> buckets;
    for (size_t k = 0; k < 4; ++k) {
      for (size_t i = 0; i < 2 * kTokens; ++i) {
        // The second probe of a token is another row than the first.
        const uint32_t other = i < kTokens ? 0 : buckets[buckets.size() - kTokens] ^ 1;
        buckets.push_back(i < kTokens ? static_cast<uint32_t>(random() % 24) : other);
      }
    }
    c.buckets = BufferOf(buckets);
    c.weights = floats(buckets.size());
    c.dy = floats(kTokens * 40);
    return c;
  }

  /// Squares of the gradient, then all rows after the step.
  std::pair<std::vector<double>, std::vector<uint32_t>> Finish(TensorShard& tensor) {
    std::vector<double> squares;
    tensor.Prepare(&squares);
    tensor.Apply(history_, 1e-2, 0.5f);
    UpdateHistory after = history_;
    after.Append(1e-2);
    return {squares, Rows(tensor, after)};
  }
  std::vector<uint32_t> Rows(TensorShard& tensor, const UpdateHistory& history) {
    std::vector<uint64_t> rows(4 * 32);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = i;
    std::vector<float> values(rows.size() * 40);
    tensor.Pull(rows, false, history, values.data());
    return Bits(values);
  }

  const UpdateHistory history_;
  ThreadPool pool_;
  const ChangeClock clock_;
  PageArena arena_;
  RequestScratch scratch_;
  std::unique_ptr<TensorShard> tensor_;
};

// Goal: shuffled and duplicated contributions give the bits of contributions in order.
TEST_P(TensorFixture, OrderOfArrivalDoesNotShow) {
  for (uint64_t i = 0; i < kMicroBatches; ++i) tensor_->Contribute(i, Make(i));
  const auto expected = Finish(*tensor_);
  EXPECT_GT(*std::max_element(expected.first.begin(), expected.first.end()), 0);
  std::mt19937_64 random(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<uint64_t> numbers;
    for (uint64_t i = 0; i < kMicroBatches; ++i) numbers.insert(numbers.end(), 1 + random() % 2, i);
    std::shuffle(numbers.begin(), numbers.end(), random);
    const auto tensor = NewTensor();
    for (const uint64_t number : numbers) tensor->Contribute(number, Make(number));
    EXPECT_EQ(tensor->watermark(), kMicroBatches);
    const auto result = Finish(*tensor);
    ASSERT_EQ(result.first, expected.first);
    ASSERT_EQ(result.second, expected.second);
  }
}

// Goal: the order of the numbers does show: the test above tests something.
TEST_P(TensorFixture, OrderOfNumbersShows) {
  const auto swapped = NewTensor();
  for (uint64_t i = 0; i < kMicroBatches; ++i) {
    tensor_->Contribute(i, Make(i));
    swapped->Contribute(i, Make(kMicroBatches - 1 - i));
  }
  EXPECT_NE(Finish(*tensor_).second, Finish(*swapped).second);
}

// Goal: it does not show whether the norm was taken with the last micro-batch or afterwards,
// whether that one came last or waited for, and brought pairs or summed rows; nor that an earlier
// step ended in between.
TEST_P(TensorFixture, NormTakenEarlyIsTheSame) {
  for (const uint64_t count : {5, 6}) {  // the last one brings pairs, or rows
    const auto early = NewTensor(count), waits = NewTensor(count), late = NewTensor(0);
    for (const uint64_t round : {1, 2}) {
      for (uint64_t i = 0; i < count; ++i) {
        early->Contribute(i, Make(i * round));
        late->Contribute(i, Make(i * round));
        const uint64_t swapped = i < 2 ? i : count + 1 - i;
        waits->Contribute(swapped, Make(swapped * round));
      }
      std::vector<double> squares, other, third;
      early->Prepare(&squares);
      late->Prepare(&other);
      waits->Prepare(&third);
      EXPECT_GT(*std::min_element(squares.begin(), squares.end()), 0);
      EXPECT_EQ(squares, other);
      EXPECT_EQ(squares, third);
      if (round == 1) {
        for (TensorShard* tensor : {early.get(), late.get(), waits.get()}) tensor->ForgetStep();
      }
    }
    const auto expected = Finish(*late);
    EXPECT_EQ(Finish(*early), expected);
    EXPECT_EQ(Finish(*waits), expected);
  }
}

// Goal: a contribution that is not finite moves the watermark, changes no row and is remembered
// until the step ends.
TEST_P(TensorFixture, NotFiniteContributionsChangeNoRow) {
  const auto without = NewTensor();
  for (uint64_t i = 0; i < kMicroBatches; ++i) {
    Contribution c = Make(i);
    Contribution clean = Make(i);
    if (i == 1 || i == 2) {  // one of pairs, one of rows
      c.finite = false;
      clean = Contribution();
      clean.is_push = true;
    }
    tensor_->Contribute(i, std::move(c));
    without->Contribute(i, std::move(clean));
    EXPECT_EQ(tensor_->finite(), i < 1);
    EXPECT_EQ(tensor_->watermark(), i + 1);
  }
  EXPECT_TRUE(without->finite());
  EXPECT_EQ(Finish(*tensor_), Finish(*without));
  EXPECT_TRUE(tensor_->finite());
  EXPECT_EQ(tensor_->watermark(), 0u);
}

// Goal: a forgotten step leaves the rows, and nothing of its gradient comes up in the next one.
TEST_P(TensorFixture, ForgottenStepsLeaveNothing) {
  const auto before = Rows(*tensor_, history_);
  for (uint64_t i = 0; i + 1 < kMicroBatches; ++i) tensor_->Contribute(i + 1, Make(i + 50));
  tensor_->Contribute(0, Make(77));
  std::vector<double> squares;
  tensor_->Prepare(&squares);
  tensor_->ForgetStep();
  EXPECT_EQ(Rows(*tensor_, history_), before);
  EXPECT_EQ(tensor_->updated_count(), 0u);
  const auto fresh = NewTensor();
  for (uint64_t i = 0; i < kMicroBatches; ++i) {
    tensor_->Contribute(i, Make(i));
    fresh->Contribute(i, Make(i));
  }
  EXPECT_EQ(Finish(*tensor_), Finish(*fresh));
}

// Goal: updated rows are those that were hit, whole tables being listed in pieces.
TEST_P(TensorFixture, UpdatedRowsAreTheRowsHit) {
  Contribution c = Make(2);
  ASSERT_TRUE(c.is_push);
  const std::vector<uint64_t> rows(c.row_ids().begin(), c.row_ids().end());
  tensor_->Contribute(0, std::move(c));
  Finish(*tensor_);
  EXPECT_EQ(tensor_->updated_count(), rows.size());
  EXPECT_EQ(tensor_->UpdatedRows(0, 1000), rows);
  EXPECT_TRUE(tensor_->UpdatedRows(128, 1000).empty());
  EXPECT_TRUE(tensor_->UpdatedRows(UINT64_MAX, 1000).empty());
  EXPECT_TRUE(tensor_->UpdatedRows(0, 0).empty());
  std::vector<uint64_t> pieces;
  while (true) {
    const auto some = tensor_->UpdatedRows(pieces.empty() ? 0 : pieces.back() + 1, 3);
    if (some.empty()) break;
    pieces.insert(pieces.end(), some.begin(), some.end());
  }
  EXPECT_EQ(pieces, rows);
}

INSTANTIATE_TEST_SUITE_P(Storage, TensorFixture,
                         ::testing::Values(Table::Storage::kDirect, Table::Storage::kSparse),
                         [](const auto& value) {
                           return value.param == Table::Storage::kDirect ? "direct" : "sparse";
                         });

}  // namespace
}  // namespace mf
