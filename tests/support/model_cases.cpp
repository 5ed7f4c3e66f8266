#include "tests/support/model_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/base/check.h"
#include "common/base/random.h"
#include "worker/compute/cpu/embedding.h"

namespace mf {

ModelConfig SmallShape() {
  ModelConfig shape;
  shape.d = 24;
  shape.layers = 2;
  shape.heads = 2;  // 12 numbers a head, the first 2 rotated
  shape.K = 3;
  shape.tau = 8;  // with expanding bits, two bytes an index
  shape.sequence = 70;
  shape.vocabulary = 37;
  return shape;
}

std::vector<ModelCase> ModelSweep(const ModelConfig& shape) {
  std::vector<ModelCase> cases;
  const auto norm_name = [](NormKind norm) {
    return norm == NormKind::kRmsNorm ? std::string("Rms") : std::string("Layer");
  };
  for (const Score score : {Score::kSoftmax, Score::kScaled}) {
    for (const int64_t probes : {1, 2, 3}) {
      for (const NormKind norm : {NormKind::kRmsNorm, NormKind::kLayerNorm}) {
        for (const int64_t expand_bits : {0, 2}) {
          ModelCase next;
          next.config.model = shape;
          next.config.model.score = score;
          next.config.model.probes = probes;
          next.config.model.norm = norm;
          next.config.model.expand_bits = expand_bits;
          next.config.model.temperature = probes == 2 ? 0.75 : probes == 3 ? 1.5 : 1.0;
          next.name = std::string(score == Score::kSoftmax ? "Softmax" : "Scaled") +
                      std::to_string(probes) + norm_name(norm) + std::to_string(expand_bits);
          cases.push_back(next);
        }
      }
    }
  }
  for (const NormKind norm : {NormKind::kRmsNorm, NormKind::kLayerNorm}) {
    ModelCase next;
    next.config.model = shape;
    next.config.model.projection = Projection::kDense;
    next.config.model.norm = norm;
    next.name = "Dense" + norm_name(norm);
    cases.push_back(next);
  }
  return cases;
}

DenseTensors RandomParameters(const std::vector<TensorSpec>& tensors, uint64_t seed) {
  DenseTensors values;
  for (const TensorSpec& tensor : tensors) {
    const uint64_t key = RandomKey(seed, tensor.id);
    const bool matrix = tensor.init == Init::kNormal;
    const double mean = matrix ? 0 : tensor.init_value;
    const double spread = tensor.kind == TensorKind::kMemory ? 0.4 : matrix ? 0.3 : 0.2;
    std::vector<float> numbers;
    for (uint64_t row = 0; row < tensor.total_rows(); ++row) {
      for (uint32_t c = 0; c < static_cast<uint32_t>(tensor.columns); ++c) {
        numbers.push_back(static_cast<float>(mean + spread * RandomNormal(key, row, c)));
      }
    }
    values.push_back(std::move(numbers));
  }
  return values;
}

TokenBatch RandomBatch(const Config& config, size_t sequences, size_t length, uint64_t seed) {
  TokenBatch batch;
  batch.sequences = sequences;
  batch.length = length;
  const uint64_t vocabulary = static_cast<uint64_t>(config.model.vocabulary);
  for (size_t t = 0; t < batch.tokens(); ++t) {
    batch.inputs.push_back(static_cast<uint32_t>(RandomBelow(RandomKey(seed, 2 * t), vocabulary)));
    batch.targets.push_back(
        static_cast<uint32_t>(RandomBelow(RandomKey(seed, 2 * t + 1), vocabulary)));
  }
  return batch;
}

void CompleteEmbedding(const TensorSpec& embedding, const TokenBatch& batch,
                       std::vector<float>* gradient) {
  const size_t columns = static_cast<size_t>(embedding.columns);
  const std::vector<uint64_t> rows = DistinctTokens(batch.inputs);
  MF_CHECK(gradient->size() == rows.size() * columns);
  std::vector<float> whole(embedding.total_rows() * columns, 0.0f);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(gradient->begin() + static_cast<ptrdiff_t>(i * columns), columns,
                whole.begin() + static_cast<ptrdiff_t>(rows[i] * columns));
  }
  *gradient = std::move(whole);
}

std::vector<std::vector<double>> ToDouble(const DenseTensors& values) {
  std::vector<std::vector<double>> out;
  for (const auto& numbers : values) out.emplace_back(numbers.begin(), numbers.end());
  return out;
}

double RelativeError(const std::vector<float>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  double largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(difference <= worst)) worst = difference;  // keeps NaN
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

}  // namespace mf
