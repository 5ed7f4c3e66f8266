// Small models, parameters and batches for the tests of the model and of its oracle.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/data/token_batch.h"
#include "worker/model/model.h"

namespace mf {

struct ModelCase {
  std::string name;  // usable as a test's name
  Config config;
};

/// Small, and no width or length a multiple of what the backends work with at once.
ModelConfig SmallShape();

/// Both scores x probes 1 to 3 x both norms x expanding bits 0 and 2, some with a temperature other
/// than 1; then the dense baseline with both norms.
std::vector<ModelCase> ModelSweep(const ModelConfig& shape);

/// Like a model in training rather than a new one: gains near 1, biases not 0, tables large enough
/// that every layer matters. Indexed by tensor id, tables included.
DenseTensors RandomParameters(const std::vector<TensorSpec>& tensors, uint64_t seed);

TokenBatch RandomBatch(const Config& config, size_t sequences, size_t length, uint64_t seed);

/// The gradient of the embedding, of which a model gives the rows of tokens that occur, becomes
/// that of the whole tensor; all other rows are 0.
void CompleteEmbedding(const TensorSpec& embedding, const TokenBatch& batch,
                       std::vector<float>* gradient);

std::vector<std::vector<double>> ToDouble(const DenseTensors& values);

/// Largest difference relative to the largest expected number; infinite if the sizes differ.
double RelativeError(const std::vector<float>& got, const std::vector<double>& expected);

}  // namespace mf
