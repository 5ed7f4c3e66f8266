#include "pserver/table/tensor_shard.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/base/buffer.h"
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
      clock_(clock),
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
  if (layout_.spec.admit_hits > 1) waiting_.resize(tables_.size());
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
    if (last) SealTable(k);  // while it is in the cache
  });
}

void TensorShard::Seal() {
  pool_.ParallelFor(tables_.size(), [&](size_t k, int) { SealTable(k); });
}

void TensorShard::SealTable(size_t k) {
  if (!counts_keys()) return gradients_[k]->Seal();
  const auto due = static_cast<uint64_t>(layout_.spec.admit_hits);
  gradients_[k]->Seal([&](uint64_t row, uint32_t hits) {
    return tables_[k]->Has(row) || uint64_t{waiting_[k].HitsOf(row)} + hits >= due;
  });
}

void TensorShard::CountKeys(uint64_t step) {
  const auto most = static_cast<size_t>(layout_.spec.waiting_keys / layout_.spec.tables);
  std::vector<uint64_t> admitted(tables_.size());
  pool_.ParallelFor(tables_.size(), [&](size_t k, int) {
    const Gradients& gradients = *gradients_[k];
    WaitingKeys& waiting = waiting_[k];
    for (const Gradients::Hit& hit : gradients.hits()) {
      admitted[k] += !tables_[k]->Has(hit.row);
      waiting.Erase(hit.row, clock_.now);
    }
    for (const Gradients::Hit& hit : gradients.refused()) {
      const uint32_t hits = waiting.HitsOf(hit.row) + gradients.count(hit);  // below admit_hits
      waiting.Set(hit.row, {hits, static_cast<uint32_t>(step)}, clock_.now);
    }
    waiting.Limit(most, clock_.now);
  });
  admitted_ += std::accumulate(admitted.begin(), admitted.end(), uint64_t{0});
}

/// Looking at all rows takes time: it is done every sixteenth of the time that a row has.
void TensorShard::Expire(uint64_t step) {
  const auto steps = static_cast<uint64_t>(layout_.spec.expire_steps);
  constexpr uint64_t kLooks = 16;
  if (steps == 0 || step <= steps || step % std::max<uint64_t>(1, steps / kLooks) != 0) return;
  const auto last = static_cast<uint32_t>(step - steps);
  std::vector<uint64_t> expired(tables_.size());
  pool_.ParallelFor(tables_.size(), [&](size_t k, int thread) {
    expired[k] = tables_[k]->Expire(last, [&] {
      if (thread == 0) pool_.Yield();
    });
    if (counts_keys()) waiting_[k].Expire(last, clock_.now);
  });
  expired_ += std::accumulate(expired.begin(), expired.end(), uint64_t{0});
}

uint64_t TensorShard::waiting_count() const {
  uint64_t count = 0;
  for (const WaitingKeys& keys : waiting_) count += keys.size();
  return count;
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
    const std::byte* hits =
        c.hits.size() == 0 ? nullptr : c.hits.data() + table_begin[k] * sizeof(uint32_t);
    gradients_[k]->Insert(local.data(), local.size(), hits);
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
  bytes += waiting_count() * WaitingKeys::kBytesEach;
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
  cut_waiting_.clear();
  cut_waiting_next_ = 0;
  for (size_t k = 0; k < waiting_.size(); ++k) {  // few enough to be copied
    for (WaitingKeys::Change change : waiting_[k].ChangedSince(since)) {
      change.row += FirstRowOf(k);
      cut_waiting_.push_back(change);
    }
  }
  return std::accumulate(rows.begin(), rows.end(), size_t{0});
}

bool TensorShard::NextCutRow(uint64_t* row, bool* removed, std::byte* out) {
  for (; cut_table_ < tables_.size(); ++cut_table_) {
    if (tables_[cut_table_]->NextCutRow(row, removed, out)) {
      *row += FirstRowOf(cut_table_);
      return true;
    }
    tables_[cut_table_]->EndCut();  // its memory is free
  }
  return false;
}

bool TensorShard::NextCutWaiting(uint64_t* row, bool* removed, std::byte* out) {
  if (cut_waiting_next_ == cut_waiting_.size()) {
    cut_waiting_ = {};
    cut_waiting_next_ = 0;
    return false;
  }
  const WaitingKeys::Change& change = cut_waiting_[cut_waiting_next_++];
  *row = change.row;
  *removed = change.removed;
  std::memcpy(out, &change.state.hits, sizeof(uint32_t));
  std::memcpy(out + sizeof(uint32_t), &change.state.at, sizeof(uint32_t));
  return true;
}

void TensorShard::EndCut() {
  for (const auto& table : tables_) table->EndCut();
  cut_waiting_ = {};
  cut_waiting_next_ = 0;
}

Status TensorShard::Restore(uint64_t row, const std::byte* data, size_t bytes) {
  if (!layout_.Has(row)) {
    return Status::Failed("row " + std::to_string(row) + " of " + layout_.spec.name +
                          " is none of this server's");
  }
  return tables_[TableOf(row)]->Restore(RowInTable(row), data, bytes);
}

Result<uint32_t> TensorShard::RestoreWaiting(uint64_t row, const std::byte* data, size_t bytes) {
  if (!counts_keys() || !layout_.Has(row) || bytes != kWaitingBytes) {
    return Status::Failed("key of row " + std::to_string(row) + " of " + layout_.spec.name +
                          " does not wait on this server");
  }
  const WaitingKeys::State state{LoadUnaligned<uint32_t>(data, 0),
                                 LoadUnaligned<uint32_t>(data, 1)};
  waiting_[TableOf(row)].Restore(RowInTable(row), state);
  return state.at;
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
  const uint64_t step = history.Of(layout_.spec.id).count() + 1;  // applied ones
  if (counts_keys()) CountKeys(step);
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
  Expire(step);
  ForgetStep();
}

void TensorShard::ForgetStep() {
  for (const auto& gradients : gradients_) gradients->Clear();
  order_.Reset();
  finite_ = true;
}

}  // namespace mf
