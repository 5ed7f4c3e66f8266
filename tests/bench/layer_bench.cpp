// The kernels of a memory layer by all cores, each beside what bounds it on this machine and beside
// PyTorch doing the same, in the same run: K = 64, h = 512. Bounds, ours and the peer's take turns,
// so that a busy moment hits all; the fastest of each counts.
//
//   layer_bench [--threads N] [--repeats N] [--peer embedding_bag.py] [--json FILE]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/base/check.h"
#include "common/base/thread_pool.h"
#include "pserver/table/optimizers/adam.h"
#include "pserver/table/tensor_shard.h"
#include "tests/bench/support/child.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/layer.h"
#include "tests/bench/support/machine.h"
#include "tests/bench/support/report.h"

namespace mf {
namespace {

constexpr size_t kTables = 64, kColumns = 512;

struct Options {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int repeats = 5;
  std::string peer, json;
};

/// PyTorch in a process of its own. Its threads sleep between its turns: no busy waiting, which
/// would take our cores. As it is installed, or with its memory in huge pages.
class Peer {
 public:
  Peer(const Options& options, bool huge_pages) : threads_(options.threads) {
    if (options.peer.empty()) return;
    child_ = std::make_unique<Child>(std::vector<std::string>{
        "/usr/bin/env", "OMP_WAIT_POLICY=passive",
        huge_pages ? "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" : "GLIBC_TUNABLES=",
        "/usr/bin/python3", "-B", options.peer});
  }
  /// False if there is no PyTorch.
  bool Make(unsigned bits, size_t tokens) {
    if (child_ == nullptr) return false;
    char command[100];
    std::snprintf(command, sizeof command, "layer %u %zu %zu %zu %d", bits, tokens, kTables,
                  kColumns, threads_);
    child_->Write(command);
    if (child_->Read().has_value()) return true;
    child_.reset();
    return false;
  }
  double Seconds(const std::string& command) {
    child_->Write(command);
    const std::optional<std::string> answer = child_->Read();
    MF_CHECK(answer.has_value());
    return std::atof(answer->c_str());
  }

 private:
  const int threads_;
  std::unique_ptr<Child> child_;
};

/// What takes turns, by name, and the fastest time of each.
class Turns {
 public:
  void Add(const std::string& name, std::function<void()> run) {
    entries_.push_back({name, [run = std::move(run)] { return FastestOfBurst(run); }});
  }
  void AddPeer(const std::string& name, Peer& peer, const std::string& command) {
    entries_.push_back({name, [&peer, command] { return peer.Seconds(command); }});
  }
  void Run(int repeats) {
    for (int i = 0; i < repeats; ++i) {
      for (const Entry& entry : entries_) {
        const double seconds = entry.seconds();
        const auto [at, fresh] = fastest_.try_emplace(entry.name, seconds);
        if (!fresh) at->second = std::min(at->second, seconds);
      }
    }
  }
  /// Infinite if it was not measured.
  double operator[](const std::string& name) const {
    const auto found = fastest_.find(name);
    return found == fastest_.end() ? std::numeric_limits<double>::infinity() : found->second;
  }

 private:
  struct Entry {
    std::string name;
    std::function<double()> seconds;
  };
  std::vector<Entry> entries_;
  std::map<std::string, double> fastest_;
};

/// Ratios of what was measured: times a time that is not there are left out.
std::vector<Ratio> Ratios(double seconds, const std::vector<Ratio>& compared) {
  std::vector<Ratio> ratios;
  for (const Ratio& other : compared) {
    if (std::isfinite(other.value)) ratios.push_back({other.what, other.value / seconds});
  }
  return ratios;
}

/// Forward and backward. Returns the forward's tokens/s.
double MeasureLayer(unsigned tau, size_t tokens, double forward_at_1024, const Options& options,
                    ThreadPool& pool, Peer& peer, Peer& huge_peer, Report& report) {
  BenchLayer layer(
      {.tables = kTables, .rows = size_t{1} << tau, .columns = kColumns, .tokens = tokens});
  const std::vector<const float*> rows = layer.RowsByToken();
  Turns turns;
  turns.Add("read 8", [&] { ReadRowsInParallel(pool, rows, kColumns, 8); });
  turns.Add("read 16", [&] { ReadRowsInParallel(pool, rows, kColumns, 16); });
  turns.Add("forward", [&] { layer.Forward(pool); });
  turns.Add("dots", [&] { layer.ExactDots(pool); });
  turns.Add("row gradients", [&] { layer.RowGradients(pool); });
  turns.Add("backward", [&] { layer.Backward(pool); });
  const auto add_peer = [&](const std::string& name, Peer& one) {
    if (!one.Make(tau, tokens)) return;
    turns.AddPeer(name + " forward", one, "forward");
    turns.AddPeer(name + " dense", one, "both");
    turns.AddPeer(name + " sparse", one, "both-sparse");
  };
  add_peer("peer", peer);
  add_peer("huge peer", huge_peer);
  LayerShape small_pages = layer.shape;
  small_pages.huge_pages = false;
  std::unique_ptr<BenchLayer> scattered;
  if (tokens == 1024) {
    scattered = std::make_unique<BenchLayer>(small_pages);
    turns.Add("forward, small pages", [&] { scattered->Forward(pool); });
    turns.Add("backward, small pages", [&] { scattered->Backward(pool); });
  }
  LayerShape narrow = layer.shape;
  narrow.type = RowType::kBf16;
  BenchLayer bf16(narrow);
  const std::vector<const float*> bf16_rows = bf16.RowsByToken();
  turns.Add("bf16 read 8", [&] { ReadRowsInParallel(pool, bf16_rows, kColumns / 2, 8); });
  turns.Add("bf16 read 16", [&] { ReadRowsInParallel(pool, bf16_rows, kColumns / 2, 16); });
  turns.Add("bf16 forward", [&] { bf16.Forward(pool); });
  turns.Add("bf16 dots", [&] { bf16.ExactDots(pool); });
  turns.Run(tokens > 4096 ? std::min(options.repeats, 2) : options.repeats);

  const std::string where = ", tau " + std::to_string(tau) + ", " + std::to_string(tokens);
  const double read = std::min(turns["read 8"], turns["read 16"]);
  const double count = static_cast<double>(tokens);
  report.Line("machine: the batch's rows read" + where, layer.shape.read_bytes() / read / kGiga,
              "GB/s", {}, "loads and adds only, 8 or 16 rows in flight");
  const double forward = turns["forward"];
  std::vector<Ratio> ratios =
      Ratios(forward, {{"reading the rows", read},
                       {"embedding_bag", turns["peer forward"]},
                       {"embedding_bag in huge pages", turns["huge peer forward"]}});
  if (forward_at_1024 > 0) {
    ratios.push_back({"its rate at 1024 tokens", count / forward / forward_at_1024});
  }
  report.Line("kernel: forward" + where, count / forward, "tokens/s", ratios);
  const double backward = turns["backward"];
  report.Line("kernel: backward" + where, count / backward, "tokens/s",
              Ratios(backward, {{"reading the rows twice", 2 * read}}),
              "dots, grouping, row gradients");
  report.Line("kernel: dots" + where, count / turns["dots"], "tokens/s",
              Ratios(turns["dots"], {{"reading the rows", read}}));
  report.Line("kernel: row gradients" + where, count / turns["row gradients"], "tokens/s",
              Ratios(turns["row gradients"], {{"reading the rows", read}}));
  const double bf16_read = std::min(turns["bf16 read 8"], turns["bf16 read 16"]);
  report.Line("kernel: forward, bf16 rows" + where, count / turns["bf16 forward"], "tokens/s",
              Ratios(turns["bf16 forward"], {{"f32 rows", forward}, {"reading them", bf16_read}}));
  report.Line(
      "kernel: dots, bf16 rows" + where, count / turns["bf16 dots"], "tokens/s",
      Ratios(turns["bf16 dots"], {{"f32 rows", turns["dots"]}, {"reading them", bf16_read}}));
  report.Line("kernel: forward + backward" + where, count / (forward + backward), "tokens/s",
              Ratios(forward + backward, {{"embedding_bag, dense gradients", turns["peer dense"]},
                                          {"sparse gradients", turns["peer sparse"]},
                                          {"dense, huge pages", turns["huge peer dense"]},
                                          {"sparse, huge pages", turns["huge peer sparse"]}}));
  if (scattered != nullptr) {
    report.Line("kernel: forward, 4 KiB pages" + where, count / turns["forward, small pages"],
                "tokens/s", Ratios(turns["forward, small pages"], {{"in huge pages", forward}}));
    report.Line("kernel: backward, 4 KiB pages" + where, count / turns["backward, small pages"],
                "tokens/s", Ratios(turns["backward, small pages"], {{"in huge pages", backward}}));
  }
  return count / forward;
}

/// Adam over some rows, in one order, beside the same rows read, added to and written.
void MeasureAdam(const std::string& order, const std::vector<size_t>& numbers, float* state,
                 size_t plane, const float* gradients, const Options& options, ThreadPool& pool,
                 Report& report) {
  std::vector<float*> rows;
  for (const size_t row : numbers) rows.push_back(state + row * kColumns);
  const size_t jobs = static_cast<size_t>(pool.threads());
  Turns turns;
  turns.Add("sweep", [&] { SweepRows(pool, rows, plane, gradients, kColumns); });
  turns.Add("adam", [&] {
    pool.ParallelFor(jobs, [&](size_t job, int) {
      for (size_t r = job * rows.size() / jobs; r < (job + 1) * rows.size() / jobs; ++r) {
        AdamStep({}, 1e-3, 0.1, 5, 1, gradients + r * kColumns, rows[r], rows[r] + plane,
                 rows[r] + 2 * plane, kColumns);
      }
    });
  });
  turns.Run(options.repeats);
  // w, m, v read and written, the gradient read.
  const double bytes = 7.0 * static_cast<double>(rows.size() * kColumns * sizeof(float));
  report.Line("machine: rows read, added to, written, " + order, bytes / turns["sweep"] / kGiga,
              "GB/s", {}, "w, m, v in place");
  report.Line("kernel: Adam, " + order, bytes / turns["adam"] / kGiga, "GB/s",
              Ratios(turns["adam"], {{"the read-modify-write sweep", turns["sweep"]}}));
}

/// Rows that a batch of `tokens` even random tokens meets, rising.
std::vector<uint64_t> DistinctRows(size_t rows_per_table, size_t tokens) {
  std::mt19937 rng(3);
  std::vector<uint64_t> rows;
  for (size_t k = 0; k < kTables; ++k) {
    for (size_t t = 0; t < tokens; ++t) rows.push_back(k * rows_per_table + rng() % rows_per_table);
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

/// The end of a step of which every row of `rows` was pushed: `push` does that as micro-batch
/// *micro_batch.
void MeasureApply(const Options& options, ThreadPool& pool, const std::vector<uint64_t>& rows,
                  const float* gradients, const std::function<void()>& push, uint64_t* micro_batch,
                  TensorShard& shard, UpdateHistory& history, Report& report) {
  constexpr size_t kRows = size_t{1} << 13;
  const double row_bytes = static_cast<double>(rows.size() * kColumns * sizeof(float));
  // Apply ends the step, so that every turn has to push and prepare again.
  double prepare = std::numeric_limits<double>::infinity(), apply = prepare, sweep = prepare;
  const Floats state = NewFloats(3 * kTables * kRows * kColumns);
  std::vector<float*> state_rows;
  for (const uint64_t row : rows) state_rows.push_back(state.get() + row * kColumns);
  shard.ForgetStep();
  for (int i = 0; i <= 4 * options.repeats; ++i) {
    *micro_batch = 0;
    push();
    std::vector<double> squares;
    const double prepared = SecondsOf([&] { shard.Prepare(&squares); });
    const double applied = SecondsOf([&] { shard.Apply(history, 1e-3, 1.0f); });
    history.Append(1e-3);
    sweep = std::min(sweep, SecondsOf([&] {
                       SweepRows(pool, state_rows, kTables * kRows * kColumns, gradients, kColumns);
                     }));
    if (i == 0) continue;  // the first one touches new memory
    prepare = std::min(prepare, prepared);
    apply = std::min(apply, applied);
  }
  report.Line("tensor: Prepare (norm) of those rows", row_bytes / prepare / kGiga, "GB/s");
  report.Line("tensor: Apply (Adam) of those rows", 7 * row_bytes / apply / kGiga, "GB/s",
              Ratios(apply, {{"the read-modify-write sweep", sweep}}), "rows rise");
}

/// Pull, push and the optimizer as a server's tensor does them.
void MeasureRows(const Options& options, ThreadPool& pool, Peer& peer, Report& report) {
  constexpr unsigned kTau = 13;
  constexpr size_t kRows = size_t{1} << kTau, kTokens = 1024;
  const std::vector<uint64_t> rows = DistinctRows(kRows, kTokens);
  const double row_bytes = static_cast<double>(rows.size() * kColumns * sizeof(float));
  const Frame values = [&] {
    Buffer buffer(rows.size() * kColumns * sizeof(float));
    std::fill_n(buffer.as<float>(), rows.size() * kColumns, 1e-3f);
    return Frame(buffer);
  }();
  const float* gradients = values.as<float>();
  {
    const size_t plane = kTables * kRows * kColumns;
    const Floats state = NewFloats(3 * plane);
    std::vector<size_t> numbers(rows.begin(), rows.end());
    MeasureAdam("sorted", numbers, state.get(), plane, gradients, options, pool, report);
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937(4));
    MeasureAdam("random order", numbers, state.get(), plane, gradients, options, pool, report);
  }

  TensorSpec spec;
  spec.name = "bench";
  spec.kind = TensorKind::kMemory;
  spec.tables = kTables;
  spec.rows = kRows;
  spec.columns = kColumns;
  spec.weight_decay = 0.1;
  const ChangeClock clock;
  PageArena arena;
  RequestScratch scratch;
  UpdateHistory history({spec});
  TensorShard shard(LayoutOf(spec, 0, 0, 1), {}, clock, pool, arena, scratch);
  Floats pulled = NewFloats(rows.size() * kColumns);
  uint64_t micro_batch = 0;
  const Buffer row_ids(rows.size() * sizeof(uint64_t));
  std::memcpy(row_ids.data(), rows.data(), row_ids.size());
  const auto push = [&] {
    Contribution contribution;
    contribution.is_push = true;
    contribution.rows = row_ids;
    contribution.values = values;
    shard.Contribute(micro_batch++, std::move(contribution));
  };
  Turns turns;
  const Floats table = NewFloats(kTables * kRows * kColumns);
  const size_t jobs = static_cast<size_t>(pool.threads());
  turns.Add("copy", [&] {
    pool.ParallelFor(jobs, [&](size_t job, int) {
      for (size_t r = job * rows.size() / jobs; r < (job + 1) * rows.size() / jobs; ++r) {
        std::memcpy(pulled.get() + r * kColumns, table.get() + rows[r] * kColumns,
                    kColumns * sizeof(float));
      }
    });
  });
  turns.Add("pull", [&] { shard.Pull(rows, /*training=*/true, history, pulled.get()); });
  turns.Add("push", push);
  if (peer.Make(kTau, kTokens)) {
    turns.AddPeer("peer pull", peer, "pull " + std::to_string(rows.size()));
    turns.AddPeer("peer push", peer, "push " + std::to_string(rows.size()));
  }
  turns.Run(options.repeats);
  const double count = static_cast<double>(rows.size());
  report.Line("machine: memcpy of those rows", row_bytes / turns["copy"] / kGiga, "GB/s");
  report.Line(
      "tensor: pull of distinct rows", count / turns["pull"], "rows/s",
      Ratios(turns["pull"], {{"memcpy", turns["copy"]}, {"index_select", turns["peer pull"]}}));
  report.Line(
      "tensor: push of distinct rows", count / turns["push"], "rows/s",
      Ratios(turns["push"], {{"memcpy", turns["copy"]}, {"index_add_", turns["peer push"]}}));

  MeasureApply(options, pool, rows, gradients, push, &micro_batch, shard, history, report);
}

Options Parse(int argc, char** argv) {
  const std::string usage =
      "layer_bench [--threads N] [--repeats N] [--peer embedding_bag.py] [--json FILE]";
  Options options;
  ParseFlags(argc, argv, usage,
             {{"--threads", &options.threads},
              {"--repeats", &options.repeats},
              {"--peer", &options.peer},
              {"--json", &options.json}});
  if (options.threads < 1 || options.repeats < 1) EndWithUsage(usage);
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const mf::Options options = mf::Parse(argc, argv);
  mf::ThreadPool pool(options.threads);
  mf::Peer peer(options, /*huge_pages=*/false), huge_peer(options, /*huge_pages=*/true);
  mf::Report report(options.json);
  std::printf("K = 64, h = 512, %d threads; times and rates are of the fastest run.\n",
              options.threads);
  for (const unsigned tau : {8u, 13u}) {
    const double rate = mf::MeasureLayer(tau, 1024, 0, options, pool, peer, huge_peer, report);
    mf::MeasureLayer(tau, 8192, rate, options, pool, peer, huge_peer, report);
  }
  mf::MeasureRows(options, pool, huge_peer, report);
  return 0;
}
