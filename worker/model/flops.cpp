#include "worker/model/flops.h"

#include "worker/config/tensors.h"

namespace mf {

FlopsReport Flops(const Config& config, int64_t sequence) {
  const ModelConfig& m = config.model;
  FlopsReport report;
  for (const TensorSpec& tensor : TensorsOf(config)) {
    const int64_t numbers = tensor.tables * tensor.rows * tensor.columns;
    report.parameters += numbers;
    if (tensor.kind == TensorKind::kMemory) report.table_bytes += 4 * numbers;
  }
  // The paper's own count, 6 K d a token for the three memory layers of a block (whose rows have
  // 3d, about d, and d numbers), against 12 d^2 for the fully connected ones.
  report.block_flops_without_attention = m.projection == Projection::kMemory
                                             ? 6 * m.K * m.probes * sequence * m.d
                                             : 12 * sequence * m.d * m.d;
  report.block_flops = report.block_flops_without_attention + 2 * sequence * sequence * m.d;
  report.model_flops = m.layers * report.block_flops + sequence * m.d * m.vocabulary;
  return report;
}

}  // namespace mf
