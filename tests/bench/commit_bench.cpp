// The end of a step on one server: norm and update of a tensor's rows (K = 64, h = 512, tau = 13),
// by optimizer and type of rows, beside a sweep over as much memory; and what counting hits costs
// beside the gather of the same pairs (tau = 8 and 13). Turns alternate; the fastest of each
// counts.
//
//   commit_bench [--threads N] [--repeats N] [--json FILE]
#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "pserver/table/tensor_shard.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/machine.h"
#include "tests/bench/support/report.h"

namespace mf {
namespace {

constexpr size_t kTables = 64, kColumns = 512;
constexpr unsigned kTau = 13;
constexpr size_t kTokens = 1024;
constexpr uint64_t kStepsCounted = 100;
constexpr size_t kPairs = kTables * kTokens;
constexpr double kNever = std::numeric_limits<double>::infinity();

struct Options {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int repeats = 20;
  std::string json;
};

constexpr size_t RowsOf(unsigned tau) { return size_t{1} << tau; }

TensorSpec Spec(RowType type, unsigned tau = kTau, OptimizerKind optimizer = OptimizerKind::kAdam) {
  TensorSpec spec;
  spec.name = "bench";
  spec.kind = TensorKind::kMemory;
  spec.tables = kTables;
  spec.rows = static_cast<int64_t>(RowsOf(tau));
  spec.columns = kColumns;
  spec.init = Init::kNormal;
  spec.init_value = 0.03;
  spec.weight_decay = 0.1;
  spec.optimizer.kind = optimizer;
  spec.row_type = type;
  return spec;
}

Frame Filled(size_t count, float value) {
  Buffer buffer(count * sizeof(float));
  std::fill_n(buffer.as<float>(), count, value);
  return Frame(buffer);
}

/// Even random tokens.
Contribution Batch(std::mt19937& rng, unsigned tau = kTau) {
  Contribution c;
  c.step = 1;
  c.tokens = kTokens;
  c.buckets = Buffer(kPairs * sizeof(uint32_t));
  for (size_t i = 0; i < kPairs; ++i) {
    c.buckets.as<uint32_t>()[i] = static_cast<uint32_t>(rng() % RowsOf(tau));
  }
  c.weights = Filled(kPairs, 0.25f);
  c.dy = Filled(kTokens * kColumns, 1e-3f);
  return c;
}

struct Times {
  double contribute = kNever, contribute_last = kNever, prepare = kNever, apply = kNever;
};

/// Steps of two micro-batches, the second of which ends the step.
void MeasureStep(OptimizerKind kind, RowType type, const std::string& name, const Options& options,
                 ThreadPool& pool, Report& report) {
  const TensorSpec spec = Spec(type, kTau, kind);
  const ChangeClock clock;
  RequestScratch scratch;
  PageArena arena;
  UpdateHistory history({spec});
  TensorShard shard(LayoutOf(spec, 0, 0, 1), {.micro_batches = 2}, clock, pool, arena, scratch);
  constexpr size_t kRows = RowsOf(kTau);
  // As much as the update moves: three planes read and written, the gradient read.
  const Floats state = NewFloats(3 * kTables * kRows * kColumns);
  const Floats gradients = NewFloats(kTables * kRows * kColumns);
  double sweep = kNever;
  Times times;
  std::mt19937 rng(5);
  const Contribution batch = Batch(rng), other = Batch(rng);
  std::vector<uint64_t> rows;
  for (const Contribution* c : {&batch, &other}) {
    for (size_t i = 0; i < kPairs; ++i) {
      rows.push_back(i / kTokens * kRows + c->buckets.as<uint32_t>()[i]);
    }
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  std::vector<float*> state_rows;
  for (const uint64_t row : rows) state_rows.push_back(state.get() + row * kColumns);
  for (int i = 0; i <= options.repeats; ++i) {
    std::vector<double> squares;
    const double first = SecondsOf([&] { shard.Contribute(0, batch); });
    const double last = SecondsOf([&] { shard.Contribute(1, other); });
    const double prepare = SecondsOf([&] { shard.Prepare(&squares); });
    const double apply = SecondsOf([&] { shard.Apply(history, 1e-3, 1.0f); });
    history.Append(1e-3);
    const double swept = SecondsOf([&] {
      SweepRows(pool, state_rows, kTables * kRows * kColumns, gradients.get(), kColumns);
    });
    if (i == 0) continue;  // the first one touches new memory
    times.contribute = std::min(times.contribute, first);
    times.contribute_last = std::min(times.contribute_last, last);
    times.prepare = std::min(times.prepare, prepare);
    times.apply = std::min(times.apply, apply);
    sweep = std::min(sweep, swept);
  }
  constexpr double kMilli = 1e3;
  report.Line("commit: first micro-batch, " + name, times.contribute * kMilli, "ms");
  report.Line("commit: last micro-batch and norm, " + name, times.contribute_last * kMilli, "ms");
  report.Line("commit: prepare, " + name, times.prepare * kMilli, "ms");
  const double planes = Optimizer(spec).planes();
  const double bytes = static_cast<double>(rows.size() * kColumns * sizeof(float));
  report.Line("commit: apply, " + name, (2 * planes + 1) * bytes / times.apply / kGiga, "GB/s",
              {{"a sweep's rate", sweep * (2 * planes + 1) / 7 / times.apply}},
              std::to_string(rows.size()) + " rows");
}

std::string Percent(double ratio) {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "%.1f%%", 100 * ratio);
  return text.data();
}

/// The forward by type of rows, and counting the hits of the same pairs.
void MeasureCounting(unsigned tau, const Options& options, ThreadPool& pool, Report& report) {
  const ChangeClock clock;
  RequestScratch scratch;
  PageArena arena;
  const UpdateHistory history({Spec(RowType::kF32, tau)});
  TensorShard wide(LayoutOf(Spec(RowType::kF32, tau), 0, 0, 1), {}, clock, pool, arena, scratch);
  TensorShard narrow(LayoutOf(Spec(RowType::kBf16, tau), 0, 0, 1), {}, clock, pool, arena, scratch);
  std::mt19937 rng(5);
  const size_t rows = RowsOf(tau);
  const Contribution batch = Batch(rng, tau);
  const std::span<const uint32_t> buckets(batch.buckets.as<const uint32_t>(), kPairs);
  Floats y = NewFloats(kTokens * kColumns);
  std::vector<BucketCounts> counts(kTables, BucketCounts(rows));
  std::vector<RowGroups> groups(kTables);
  for (size_t k = 0; k < kTables; ++k) {
    GroupByRow(buckets.data() + k * kTokens, batch.weights.data(), kTokens, 1, rows, groups[k]);
  }
  double forward = kNever, forward_narrow = kNever, count = kNever, summarise = kNever;
  const auto count_all = [&](uint64_t step) {
    for (size_t k = 0; k < kTables; ++k) counts[k].AddGroups(groups[k], step);
  };
  uint64_t step = 0;
  while (step < kStepsCounted) count_all(++step);
  const std::vector<BucketCounts> counted = counts;
  const auto gather = [&](TensorShard& shard) {
    return FastestOfBurst(
        [&] { shard.Forward(buckets, batch.weights.data(), kTokens, true, history, y.get()); });
  };
  for (int i = 0; i < options.repeats; ++i) {
    forward = std::min(forward, gather(wide));
    forward_narrow = std::min(forward_narrow, gather(narrow));
    // A server counts inside the loop that adds the gradients of rows, which is cut by tables: the
    // threads share the work, and there is no turn of the pool for it.
    count = std::min(count, FastestOfBurst([&] { count_all(++step); }) / pool.threads());
    summarise = std::min(
        summarise, FastestOfBurst([&] {
          pool.ParallelFor(kTables, [&](size_t k, int) { counted[k].Summarise(kStepsCounted); });
        }));
  }
  const double tokens = static_cast<double>(kTokens);
  const std::string at = ", tau " + std::to_string(tau);
  report.Line("tensor: forward, f32 rows" + at, tokens / forward, "tokens/s");
  report.Line("tensor: forward, bf16 rows" + at, tokens / forward_narrow, "tokens/s",
              {{"f32 rows", forward / forward_narrow}});
  report.Line("buckets: hits of a micro-batch counted" + at, 1e6 * count, "us",
              {{"the gather's time", count / forward}},
              Percent(count / forward) + " of the gather");
  report.Line("buckets: summary of all tables" + at, 1e3 * summarise, "ms", {},
              std::to_string(kTables * rows) + " rows");
}

Options Parse(int argc, char** argv) {
  const std::string usage = "commit_bench [--threads N] [--repeats N] [--json FILE]";
  Options options;
  ParseFlags(argc, argv, usage,
             {{"--threads", &options.threads},
              {"--repeats", &options.repeats},
              {"--json", &options.json}});
  if (options.threads < 1 || options.repeats < 1) EndWithUsage(usage);
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const mf::Options options = mf::Parse(argc, argv);
  mf::ThreadPool pool(options.threads);
  mf::Report report(options.json);
  for (const unsigned tau : {8u, mf::kTau}) mf::MeasureCounting(tau, options, pool, report);
  mf::MeasureStep(mf::OptimizerKind::kAdam, mf::RowType::kF32, "Adam", options, pool, report);
  mf::MeasureStep(mf::OptimizerKind::kAdam, mf::RowType::kBf16, "Adam, bf16 rows", options, pool,
                  report);
  mf::MeasureStep(mf::OptimizerKind::kAdagrad, mf::RowType::kF32, "Adagrad", options, pool, report);
  mf::MeasureStep(mf::OptimizerKind::kSgd, mf::RowType::kF32, "SGD", options, pool, report);
  return 0;
}
