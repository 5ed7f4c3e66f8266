#include "pserver/shard/table_monitor.h"

#include <algorithm>
#include <string>
#include <utility>

namespace mf {
namespace {

// A row costs up to 6 ns (a logarithm).
constexpr double kSecondsPerRow = 1e-6;
constexpr uint64_t kRowsALook = 32'768;  // or a table, if it has more

double Difference(uint64_t& told, uint64_t now) {
  return static_cast<double>(now - std::exchange(told, now));
}

}  // namespace

void TableMonitor::StepEnded(uint64_t finished, bool applied) {
  if (metrics_ == nullptr) return;
  metrics_->Set(Metric::kStep, static_cast<double>(finished));
  metrics_->Count(Metric::kStepsDropped, {}, applied ? 0 : 1);
}

void TableMonitor::RolledBack(uint64_t finished) {
  if (metrics_ == nullptr) return;
  metrics_->Set(Metric::kStep, static_cast<double>(finished));
  metrics_->Count(Metric::kRecoveries);
  metrics_->Count(Metric::kStepsDropped, {}, 0);
  // The servers count hits from zero again; the counters go on.
  told_.clear();
  looked_.clear();
  next_ = 0;
  dense_rows_ = dense_bytes_ = 0;
}

void TableMonitor::Tick(const std::vector<std::unique_ptr<TensorShard>>& tensors, uint64_t step,
                        double now) {
  if (metrics_ == nullptr || tensors.empty() || now < not_before_) return;
  told_.resize(tensors.size());
  const TensorShard& tensor = *tensors[next_];
  const TensorSpec& spec = tensor.layout().spec;
  const size_t tables = static_cast<size_t>(spec.tables);
  uint64_t rows = 0;
  while (tensor.counts_hits() && looked_.size() < tables && rows < kRowsALook) {
    looked_.push_back(tensor.BucketsOf(looked_.size(), step));
    rows += static_cast<uint64_t>(spec.rows);
  }
  not_before_ = now + kSecondsPerRow * static_cast<double>(rows);
  if (tensor.counts_hits() && looked_.size() < tables) return;
  SampleTensor(tensor);
  if (tensor.counts_hits()) TellBuckets(spec.layer(), looked_, next_);
  looked_.clear();
  if (++next_ < tensors.size()) return;
  next_ = 0;
  metrics_->Set(Metric::kTableRows, static_cast<double>(std::exchange(dense_rows_, 0)), {"dense"});
  metrics_->Set(Metric::kTableBytes, static_cast<double>(std::exchange(dense_bytes_, 0)),
                {"dense"});
}

void TableMonitor::SampleTensor(const TensorShard& tensor) {
  const TensorSpec& spec = tensor.layout().spec;
  if (spec.kind == TensorKind::kDense) {
    dense_rows_ += tensor.updated_count();
    dense_bytes_ += tensor.bytes();
    return;
  }
  const std::string layer = spec.layer();
  const bool keyed = spec.kind == TensorKind::kKeyed;
  metrics_->Set(keyed ? Metric::kKeyedRows : Metric::kTableRows,
                static_cast<double>(tensor.updated_count()), {layer});
  metrics_->Set(Metric::kTableBytes, static_cast<double>(tensor.bytes()), {layer});
  if (!keyed) return;
  Told& told = told_[spec.id];
  metrics_->Set(Metric::kKeysWaiting, static_cast<double>(tensor.waiting_count()), {layer});
  metrics_->Count(Metric::kKeysAdmitted, {layer}, Difference(told.admitted, tensor.admitted()));
  metrics_->Count(Metric::kRowsExpired, {layer}, Difference(told.expired, tensor.expired()));
}

void TableMonitor::TellBuckets(const std::string& layer, const std::vector<TableBuckets>& tables,
                               size_t i) {
  const LayerBuckets summary = SummariseLayer(tables);
  metrics_->Count(Metric::kBucketHits, {layer}, Difference(told_[i].hits, summary.hits));
  const auto set = [&](Metric metric, const MeanAndWorst& value) {
    metrics_->Set(metric, value.mean, {layer, "mean"});
    metrics_->Set(metric, value.worst, {layer, "worst"});
  };
  set(Metric::kBucketCoverage, summary.coverage);
  set(Metric::kBucketEntropy, summary.entropy);
  set(Metric::kBucketTop1, summary.top1);
  set(Metric::kBucketDead, summary.dead);
  const size_t bins = std::min<uint64_t>(kBucketBins, tables[0].rows);
  for (size_t bin = 0; bin < bins; ++bin) {
    const std::string name = std::to_string(bin);
    metrics_->Count(Metric::kBucketBinHits, {layer, "first", name},
                    Difference(told_[i].first_bins[bin], tables.front().bins[bin]));
    metrics_->Count(Metric::kBucketBinHits, {layer, "last", name},
                    Difference(told_[i].last_bins[bin], tables.back().bins[bin]));
  }
}

}  // namespace mf
