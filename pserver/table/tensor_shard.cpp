#include "pserver/table/tensor_shard.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/kernels/wire.h"
#include "pserver/table/row_format.h"

namespace mf {
namespace {

// Rows of a job that writes them: what is asked meanwhile waits for one of them.
constexpr size_t kJobBytes = size_t{1} << 20;
uint64_t RowsPerJob(size_t row_bytes) {
  return std::clamp<uint64_t>(kJobBytes / row_bytes, 16, 4096);
}
constexpr size_t kRowsAhead = 32;     // of a pull: what a processor can wait for at once
constexpr size_t kTokensPerJob = 64;  // least tokens of a gather job

}  // namespace

TensorShard::TensorShard(TensorLayout layout, const Options& options, const ChangeClock& clock,
                         ThreadPool& pool, PageArena& arena, RequestScratch& scratch)
    : layout_(std::move(layout)),
      options_(options),
      pool_(pool),
      row_bytes_(RowFormat(layout_.spec, layout_.share).bytes()),
      scratch_(scratch) {
  for (int64_t k = layout_.share.tables.begin; k < layout_.share.tables.end; ++k) {
    tables_.push_back(std::make_unique<Table>(layout_, k, options.storage, clock, options.seed,
                                              arena, options.moments_arena));
    gradients_.push_back(std::make_unique<Gradients>(layout_, arena));
    if (options.count_hits && layout_.spec.kind == TensorKind::kMemory) {
      hits_.emplace_back(static_cast<uint64_t>(layout_.spec.rows));
    }
  }
  scratch_.made_rows.resize(std::max(scratch_.made_rows.size(), tables_.size()));
  scratch_.groups.resize(static_cast<size_t>(pool.threads()));
  scratch_.local_rows.resize(static_cast<size_t>(pool.threads()));
  if (options.storage == Table::Storage::kSparse) return;
  const uint64_t rows = static_cast<uint64_t>(layout_.spec.rows);
  const uint64_t per_job = RowsPerJob(row_bytes_);
  const uint64_t jobs = (rows + per_job - 1) / per_job;
  pool_.ParallelFor(tables_.size() * jobs, [&](size_t i, int) {
    const uint64_t begin = i % jobs * per_job;
    tables_[i / jobs]->Fill(begin, std::min(rows, begin + per_job));
  });
}

void TensorShard::Resolve(std::span<const uint32_t> buckets, size_t tokens, bool training,
                          const UpdateHistory& history) {
  scratch_.row_pointers.resize(buckets.size());
  const size_t per_table = probes() * tokens;
  const TensorHistory& own = history.Of(layout_.spec.id);
  pool_.ParallelFor(tables_.size(), [&](size_t k, int) {
    scratch_.made_rows[k].Reset();
    tables_[k]->ReadMany(buckets.subspan(k * per_table, per_table), training, own,
                         scratch_.made_rows[k], scratch_.row_pointers.data() + k * per_table);
  });
}

void TensorShard::Forward(std::span<const uint32_t> buckets, const void* weights, size_t tokens,
                          bool training, const UpdateHistory& history, float* y) {
  Resolve(buckets, tokens, training, history);
  const PairBatch batch{tokens, pairs(), scratch_.row_pointers.data(), weights,
                        layout_.spec.row_type};
  const size_t width = layout_.width();
  pool_.ParallelRanges(tokens, kTokensPerJob, [&](size_t begin, size_t end) {
    GatherReduce(batch, begin, end, width, y, width);
  });
}

void TensorShard::Dots(std::span<const uint32_t> buckets, const void* weights, size_t tokens,
                       const void* dy, const int8_t* exponents, const UpdateHistory& history,
                       int64_t* dots) {
  Resolve(buckets, tokens, /*training=*/true, history);
  const PairBatch batch{tokens, pairs(), scratch_.row_pointers.data(), weights,
                        layout_.spec.row_type};
  pool_.ParallelRanges(tokens, kTokensPerJob, [&](size_t begin, size_t end) {
    PairDots(batch, begin, end, layout_.share.blocks, dy, layout_.width(), exponents, dots);
  });
}

void TensorShard::Contribute(uint64_t micro_batch, Contribution contribution) {
  const auto due = order_.Offer(micro_batch, std::move(contribution));
  for (size_t i = 0; i < due.size(); ++i) {
    Add(due[i], i + 1 == due.size() && order_.watermark() == options_.micro_batches);
  }
}

/// Hits count whether the numbers are finite or not: of a NaN in dL/dy only the server of its
/// column knows.
void TensorShard::Add(const Contribution& contribution, bool last) {
  if (!contribution.finite) finite_ = false;
  if (!contribution.is_push) {
    AddPairs(contribution, last);
    return;
  }
  if (!hits_.empty() && contribution.hits.size() > 0) CountRowHits(contribution);
  if (contribution.finite) AddRows(contribution);
  if (last) Seal();
}

void TensorShard::AddPairs(const Contribution& c, bool last) {
  const size_t per_table = probes() * c.tokens;
  const uint64_t most_rows =
      std::min<uint64_t>(per_table, static_cast<uint64_t>(layout_.spec.rows));
  const FirstWrites writes =
      FasterFirstWrites(most_rows * layout_.stride * sizeof(float), tables_.size(), last);
  pool_.ParallelFor(tables_.size(), [&](size_t k, int thread) {
    RowGroups& groups = scratch_.groups[static_cast<size_t>(thread)];
    GroupByRow(c.buckets.as<uint32_t>() + k * per_table,
               c.weights.data() + k * per_table * sizeof(float), c.tokens, probes(),
               static_cast<uint64_t>(layout_.spec.rows), groups);
    if (!hits_.empty()) hits_[k].AddGroups(groups, c.step);
    if (c.finite) gradients_[k]->AddPairs(groups, c.dy.data(), layout_.width(), writes);
    if (last) gradients_[k]->Seal();  // while it is in the cache
  });
}

void TensorShard::Seal() {
  pool_.ParallelFor(tables_.size(), [&](size_t k, int) { gradients_[k]->Seal(); });
}

void TensorShard::CountRowHits(const Contribution& c) {
  const uint64_t count = c.hits.size() / sizeof(uint32_t);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t row = c.whole ? i : c.row_ids()[i];
    const uint32_t hits = LoadUnaligned<uint32_t>(c.hits.data(), i);
    if (hits > 0) hits_[TableOf(row)].Add(RowInTable(row), hits, c.step);
  }
}

void TensorShard::AddRows(const Contribution& c) {
  std::span<const uint64_t> rows = c.row_ids();
  if (c.whole) {
    const uint64_t total = layout_.spec.total_rows();
    if (scratch_.all_rows.size() < total) {
      scratch_.all_rows.resize(total);
      std::iota(scratch_.all_rows.begin(), scratch_.all_rows.end(), uint64_t{0});
    }
    rows = std::span<const uint64_t>(scratch_.all_rows.data(), total);
  }
  // Slots first, by one thread a table; then the sums, each row by one thread.
  std::vector<size_t>& table_begin = scratch_.begins;
  table_begin.resize(tables_.size() + 1);
  for (size_t k = 0; k < tables_.size(); ++k) {
    table_begin[k] = static_cast<size_t>(std::lower_bound(rows.begin(), rows.end(), FirstRowOf(k)) -
                                         rows.begin());
  }
  table_begin[tables_.size()] = rows.size();
  pool_.ParallelFor(tables_.size(), [&](size_t k, int thread) {
    std::vector<uint64_t>& local = scratch_.local_rows[static_cast<size_t>(thread)];
    local.assign(rows.begin() + static_cast<ptrdiff_t>(table_begin[k]),
                 rows.begin() + static_cast<ptrdiff_t>(table_begin[k + 1]));
    for (uint64_t& row : local) row -= FirstRowOf(k);
    gradients_[k]->Insert(local.data(), local.size());
  });
  const uint64_t per_job = RowsPerJob(row_bytes_);
  const size_t jobs = (rows.size() + per_job - 1) / per_job;
  pool_.ParallelFor(jobs, [&](size_t job, int) {
    const size_t end = std::min<size_t>(rows.size(), (job + 1) * per_job);
    for (size_t i = job * per_job; i < end; ++i) {
      const std::byte* values = c.values.data() + i * layout_.width() * sizeof(float);
      gradients_[TableOf(rows[i])]->Add(RowInTable(rows[i]), values);
    }
  });
}

void TensorShard::Pull(std::span<const uint64_t> rows, bool training, const UpdateHistory& history,
                       float* values) {
  const size_t width = layout_.width();
  const TensorHistory& own = history.Of(layout_.spec.id);
  const auto read = [&](size_t begin, size_t end, uint64_t table, ReadScratch& scratch) {
    scratch.Reset();
    Table& from = *tables_[table];
    for (size_t i = begin; i < end; ++i) {
      if ((i - begin) % kRowsAhead == 0) {  // they lie anywhere in memory
        const size_t last = std::min(end, i + kRowsAhead);
        for (size_t j = i; j < last; ++j) from.PrefetchIndex(RowInTable(rows[j]));
        for (size_t j = i; j < last; ++j) from.PrefetchRow(RowInTable(rows[j]));
      }
      const void* row = from.Read(RowInTable(rows[i]), training, own, scratch);
      if (layout_.spec.row_type == RowType::kBf16) {
        UnpackBf16(values + i * width, row, width);
      } else {
        std::memcpy(values + i * width, row, width * sizeof(float));
      }
    }
  };
  // A table is read by one thread: rows come sorted, so each table's rows are a run.
  std::vector<size_t>& run_begin = scratch_.begins;
  run_begin.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i == 0 || TableOf(rows[i]) != TableOf(rows[i - 1])) run_begin.push_back(i);
  }
  pool_.ParallelFor(run_begin.size(), [&](size_t run, int) {
    const size_t end = run + 1 < run_begin.size() ? run_begin[run + 1] : rows.size();
    // In slices, so that a large read does not pile up scratch rows.
    const size_t per_slice = RowsPerJob(row_bytes_);
    for (size_t begin = run_begin[run]; begin < end; begin += per_slice) {
      const size_t table = TableOf(rows[begin]);
      read(begin, std::min(end, begin + per_slice), table, scratch_.made_rows[table]);
    }
  });
}

void TensorShard::Settle(const UpdateHistory& history) {
  const TensorHistory& own = history.Of(layout_.spec.id);
  pool_.ParallelFor(tables_.size(), [&](size_t k, int) { tables_[k]->Settle(own); });
}

std::vector<uint64_t> TensorShard::UpdatedRows(uint64_t first, uint64_t most) const {
  std::vector<uint64_t> result;
  for (size_t k = 0; k < tables_.size() && result.size() < most; ++k) {
    const uint64_t first_of_table = FirstRowOf(k);
    const uint64_t begin = first > first_of_table ? first - first_of_table : 0;
    if (begin >= static_cast<uint64_t>(layout_.spec.rows)) continue;
    for (const uint64_t row : tables_[k]->UpdatedRows(begin, most - result.size())) {
      result.push_back(first_of_table + row);
    }
  }
  return result;
}

uint64_t TensorShard::updated_count() const {
  uint64_t count = 0;
  for (const auto& table : tables_) count += table->updated_count();
  return count;
}

uint64_t TensorShard::bytes() const {
  uint64_t bytes = 0;
  for (const auto& table : tables_) bytes += table->bytes();
  for (const auto& gradients : gradients_) bytes += gradients->bytes();
  return bytes;
}

std::vector<TableBuckets> TensorShard::Buckets(uint64_t step) const {
  std::vector<TableBuckets> tables(hits_.size());
  pool_.ParallelFor(hits_.size(), [&](size_t k, int) { tables[k] = hits_[k].Summarise(step); });
  return tables;
}

size_t TensorShard::BeginCut(int64_t since) {
  cut_table_ = 0;
  std::vector<size_t> rows(tables_.size());
  pool_.ParallelFor(tables_.size(), [&](size_t k, int) { rows[k] = tables_[k]->BeginCut(since); });
  return std::accumulate(rows.begin(), rows.end(), size_t{0});
}

bool TensorShard::NextCutRow(uint64_t* row, std::byte* out) {
  for (; cut_table_ < tables_.size(); ++cut_table_) {
    if (tables_[cut_table_]->NextCutRow(row, out)) {
      *row += FirstRowOf(cut_table_);
      return true;
    }
    tables_[cut_table_]->EndCut();  // its memory is free
  }
  return false;
}

void TensorShard::EndCut() {
  for (const auto& table : tables_) table->EndCut();
}

Status TensorShard::Restore(uint64_t row, const std::byte* data, size_t bytes) {
  if (!layout_.Has(row)) {
    return Status::Failed("row " + std::to_string(row) + " of " + layout_.spec.name +
                          " is none of this server's");
  }
  return tables_[TableOf(row)]->Restore(RowInTable(row), data, bytes);
}

void TensorShard::Prepare(std::vector<double>* squares) {
  Seal();
  for (const auto& gradients : gradients_) {
    for (size_t block = 0; block < layout_.share.blocks.size(); ++block) {
      squares->push_back(gradients->squares(block));
    }
  }
}

void TensorShard::Apply(const UpdateHistory& history, double lr, float scale) {
  pool_.ParallelFor(tables_.size(), [&](size_t k, int thread) {
    tables_[k]->Materialise(gradients_[k]->hits(), [&] {
      if (thread == 0) pool_.Yield();  // by the thread that called, as between two tables
    });
  });
  std::vector<RequestScratch::Hits>& jobs = scratch_.hits;
  jobs.clear();
  const uint64_t per_job = RowsPerJob(row_bytes_);
  for (size_t k = 0; k < tables_.size(); ++k) {
    const size_t rows = gradients_[k]->hits().size();
    for (size_t begin = 0; begin < rows; begin += per_job) {
      jobs.push_back({k, begin, std::min<size_t>(rows, begin + per_job)});
    }
  }
  const TensorHistory& own = history.Of(layout_.spec.id);
  pool_.ParallelFor(jobs.size(), [&](size_t i, int) {
    const RequestScratch::Hits& job = jobs[i];
    tables_[job.table]->Update(*gradients_[job.table], job.begin, job.end, own, lr, scale);
  });
  ForgetStep();
}

void TensorShard::ForgetStep() {
  for (const auto& gradients : gradients_) gradients->Clear();
  order_.Reset();
  finite_ = true;
}

}  // namespace mf
