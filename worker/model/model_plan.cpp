#include <string>

#include "common/base/check.h"
#include "worker/model/model_state.h"

namespace mf {
namespace {

class Finder {
 public:
  Finder(const Config& config, const std::vector<TensorSpec>& tensors)
      : model_(config.model), tensors_(tensors) {}

  int Id(const std::string& name) const {
    const TensorSpec* spec = FindTensor(tensors_, name);
    MF_CHECK(spec != nullptr);
    return static_cast<int>(spec->id);
  }

  NormIds Norm(const std::string& name, size_t width, NormKind kind) const {
    NormIds norm{kind, width, Id(name + ".weight"), -1};
    if (kind == NormKind::kLayerNorm) norm.bias = Id(name + ".bias");
    return norm;
  }

  ProjectionIds Projection(const std::string& name, size_t in, size_t out) const {
    if (model_.projection == mf::Projection::kDense) {
      return {in, out, Id(name + ".weight"), Id(name + ".bias"), {}};
    }
    ProjectionIds ids{in, out, Id(name + ".tables"), Id(name + ".bias"), {}};
    const TensorSpec& spec = tensors_[static_cast<size_t>(ids.weight)];
    ids.hash = {.tables = static_cast<size_t>(spec.tables),
                .bits = static_cast<size_t>(spec.index_bits()),
                .probes = static_cast<size_t>(model_.probes),
                .score = model_.score,
                .temperature = static_cast<float>(model_.temperature),
                .index_bytes = spec.index_bytes()};
    MF_CHECK(ids.hash.width() == in && static_cast<size_t>(spec.columns) == out);
    return ids;
  }

 private:
  const ModelConfig& model_;
  const std::vector<TensorSpec>& tensors_;
};

}  // namespace

Model::Plan::Plan(const Config& config, const std::vector<TensorSpec>& tensors) {
  const ModelConfig& m = config.model;
  const Finder find(config, tensors);
  const bool memory = m.projection == Projection::kMemory;
  const size_t d = static_cast<size_t>(m.d);
  const size_t middle = memory ? static_cast<size_t>(m.expanded()) : 4 * d;
  embed = find.Id("embed.weight");
  for (int64_t layer = 0; layer < m.layers; ++layer) {
    const std::string name = "blocks." + std::to_string(layer) + ".";
    BlockIds block;
    block.layer = static_cast<size_t>(layer);
    block.norm1 = find.Norm(name + "norm1", d, m.norm);
    block.qkv = find.Projection(name + "qkv", d, 3 * d);
    block.norm2 = find.Norm(name + "norm2", d, m.norm);
    if (memory) block.mid_norm = find.Norm(name + "mid_norm", middle, NormKind::kLayerNorm);
    if (!memory) block.attention_out = find.Projection(name + "out", d, d);
    block.first = find.Projection(name + (memory ? "m1" : "fc1"), d, middle);
    block.second = find.Projection(name + (memory ? "m2" : "fc2"), middle, d);
    blocks.push_back(block);
  }
  final_norm = find.Norm("final_norm", d, m.norm);
  head = find.Id("head.weight");
  rotary = Rotary(static_cast<size_t>(m.head_dim()), m.rotary_pct, static_cast<size_t>(m.sequence));
}

}  // namespace mf
