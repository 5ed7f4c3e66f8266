#include "tests/support/oracle/oracle.h"

#include <cmath>
#include <string>

#include "common/base/check.h"
#include "tests/support/oracle/oracle_ops.h"

namespace mf::oracle {
namespace {

/// What a block keeps for its backward pass; names as in DESIGN section 3.
struct Block {
  Matrix x, x1, qkv, attended, z, z1, middle, middle_normed;
};

class Oracle {
 public:
  Oracle(const Config& config, const std::vector<TensorSpec>& tensors, const Tensors& parameters,
         const TokenBatch& batch, const Options& options)
      : model_(config.model),
        tensors_(tensors),
        parameters_(parameters),
        batch_(batch),
        options_(options),
        attention_{batch.sequences, batch.length, static_cast<size_t>(model_.heads),
                   model_.rotary_pct} {
    result_.choice.resize(tensors.size());
    result_.border.resize(tensors.size());
    if (!options.gradients) return;
    for (const auto& values : parameters) result_.gradients.emplace_back(values.size(), 0.0);
  }

  Result Run() {
    const Matrix embed = AsMatrix("embed.weight");
    Matrix x(batch_.tokens(), embed.columns);
    for (size_t t = 0; t < x.rows; ++t) {
      for (size_t c = 0; c < x.columns; ++c) x.at(t, c) = embed.at(batch_.inputs[t], c);
    }
    blocks_.resize(static_cast<size_t>(model_.layers));
    for (size_t i = 0; i < blocks_.size(); ++i) x = ForwardBlock(Name(i), x, &blocks_[i]);

    const Matrix normed = NormOf("final_norm", model_.norm, x);
    const Matrix head = AsMatrix("head.weight");
    const Matrix logits = Multiply(normed, Transpose(head));
    Matrix dlogits = Loss(logits);
    if (!options_.gradients) return result_;

    Gradient("head.weight") = Multiply(Transpose(dlogits), normed).values;
    Matrix dx = NormGradientOf("final_norm", model_.norm, x, Multiply(dlogits, head));
    for (size_t i = blocks_.size(); i-- > 0;) dx = BackwardBlock(Name(i), blocks_[i], dx);
    std::vector<double>& dembed = Gradient("embed.weight");
    for (size_t t = 0; t < dx.rows; ++t) {
      for (size_t c = 0; c < dx.columns; ++c) {
        dembed[batch_.inputs[t] * dx.columns + c] += dx.at(t, c);
      }
    }
    return result_;
  }

 private:
  static std::string Name(size_t block) { return "blocks." + std::to_string(block) + "."; }
  bool memory() const { return model_.projection == Projection::kMemory; }

  const TensorSpec& Spec(const std::string& name) const {
    const TensorSpec* spec = FindTensor(tensors_, name);
    MF_CHECK(spec != nullptr);
    return *spec;
  }
  const std::vector<double>& Values(const std::string& name) const {
    return parameters_[Spec(name).id];
  }
  std::vector<double>& Gradient(const std::string& name) {
    return result_.gradients[Spec(name).id];
  }
  Matrix AsMatrix(const std::string& name) const {
    const TensorSpec& spec = Spec(name);
    return Matrix(static_cast<size_t>(spec.rows), static_cast<size_t>(spec.columns),
                  parameters_[spec.id]);
  }

  Matrix NormOf(const std::string& name, NormKind kind, const Matrix& x) const {
    return Norm(kind, x, Values(name + ".weight"),
                kind == NormKind::kLayerNorm ? Values(name + ".bias") : std::vector<double>());
  }
  Matrix NormGradientOf(const std::string& name, NormKind kind, const Matrix& x, const Matrix& dy) {
    NormGradient gradient = NormBackward(kind, x, dy, Values(name + ".weight"));
    Gradient(name + ".weight") = gradient.dgain;
    if (kind == NormKind::kLayerNorm) Gradient(name + ".bias") = gradient.dbias;
    return gradient.dx;
  }

  HashOptions HashOf(const TensorSpec& spec) const {
    return {static_cast<size_t>(spec.tables), static_cast<size_t>(spec.index_bits()),
            static_cast<size_t>(model_.probes), model_.score, model_.temperature};
  }
  const std::vector<uint32_t>& BucketsOf(const TensorSpec& spec) const {
    return options_.replay ? (*options_.replay)[spec.id] : result_.choice[spec.id];
  }
  /// The row of table pair / probes that token t reads.
  size_t RowAt(const TensorSpec& spec, size_t pair, size_t t) const {
    const size_t table = pair / static_cast<size_t>(model_.probes);
    const size_t bucket = BucketsOf(spec)[pair * batch_.tokens() + t];
    return (table * static_cast<size_t>(spec.rows) + bucket) * static_cast<size_t>(spec.columns);
  }

  /// A memory layer or a fully connected one: y = layer(x) + bias.
  Matrix Project(const std::string& name, const Matrix& x) {
    if (!memory()) return AddBias(Multiply(x, AsMatrix(name + ".weight")), Values(name + ".bias"));
    const TensorSpec& spec = Spec(name + ".tables");
    const HashOptions hash = HashOf(spec);
    HashResult own = Hash(hash, x);
    result_.choice[spec.id] = std::move(own.buckets);
    result_.border[spec.id] = std::move(own.border);
    const std::vector<double> weights = HashWeights(hash, x, BucketsOf(spec));
    const std::vector<double>& table = parameters_[spec.id];
    Matrix y(x.rows, static_cast<size_t>(spec.columns));
    for (size_t pair = 0; pair < hash.tables * hash.probes; ++pair) {
      for (size_t t = 0; t < x.rows; ++t) {
        for (size_t c = 0; c < y.columns; ++c) {
          y.at(t, c) += weights[pair * x.rows + t] * table[RowAt(spec, pair, t) + c];
        }
      }
    }
    return AddBias(y, Values(name + ".bias"));
  }

  Matrix ProjectBackward(const std::string& name, const Matrix& x, const Matrix& dy) {
    Gradient(name + ".bias") = ColumnSums(dy);
    if (!memory()) {
      Gradient(name + ".weight") = Multiply(Transpose(x), dy).values;
      return Multiply(dy, Transpose(AsMatrix(name + ".weight")));
    }
    const TensorSpec& spec = Spec(name + ".tables");
    const HashOptions hash = HashOf(spec);
    const std::vector<double> weights = HashWeights(hash, x, BucketsOf(spec));
    const std::vector<double>& table = parameters_[spec.id];
    std::vector<double>& dtable = result_.gradients[spec.id];
    std::vector<double> dweights(weights.size(), 0.0);
    for (size_t pair = 0; pair < hash.tables * hash.probes; ++pair) {
      for (size_t t = 0; t < x.rows; ++t) {
        const size_t row = RowAt(spec, pair, t);
        for (size_t c = 0; c < dy.columns; ++c) {
          dtable[row + c] += weights[pair * x.rows + t] * dy.at(t, c);
          dweights[pair * x.rows + t] += table[row + c] * dy.at(t, c);
        }
      }
    }
    return HashBackward(hash, x, BucketsOf(spec), dweights);
  }

  Matrix ForwardBlock(const std::string& name, const Matrix& x, Block* block) {
    Block& b = *block;
    b.x = x;
    b.x1 = NormOf(name + "norm1", model_.norm, x);
    b.qkv = Project(name + "qkv", b.x1);
    b.attended = Attention(attention_, b.qkv);
    b.z = Add(x, memory() ? b.attended : Project(name + "out", b.attended));
    b.z1 = NormOf(name + "norm2", model_.norm, b.z);
    b.middle = Project(name + (memory() ? "m1" : "fc1"), b.z1);
    b.middle_normed =
        memory() ? NormOf(name + "mid_norm", NormKind::kLayerNorm, b.middle) : Gelu(b.middle);
    return Add(b.z, Project(name + (memory() ? "m2" : "fc2"), b.middle_normed));
  }

  Matrix BackwardBlock(const std::string& name, const Block& b, const Matrix& dy) {
    Matrix d = ProjectBackward(name + (memory() ? "m2" : "fc2"), b.middle_normed, dy);
    d = memory() ? NormGradientOf(name + "mid_norm", NormKind::kLayerNorm, b.middle, d)
                 : GeluBackward(b.middle, d);
    d = ProjectBackward(name + (memory() ? "m1" : "fc1"), b.z1, d);
    const Matrix dz = Add(dy, NormGradientOf(name + "norm2", model_.norm, b.z, d));
    d = memory() ? dz : ProjectBackward(name + "out", b.attended, dz);
    d = AttentionBackward(attention_, b.qkv, d);
    d = ProjectBackward(name + "qkv", b.x1, d);
    return Add(dz, NormGradientOf(name + "norm1", model_.norm, b.x, d));
  }

  /// Fills loss and logits; returns dlogits.
  Matrix Loss(const Matrix& logits) {
    result_.logits = logits.values;
    Matrix d = LogSoftmax(logits);
    for (size_t t = 0; t < logits.rows; ++t) {
      result_.logprobs.push_back(d.at(t, batch_.targets[t]));
      result_.loss_sum -= result_.logprobs.back();
      for (size_t c = 0; c < d.columns; ++c) {
        const double hit = c == batch_.targets[t] ? 1.0 : 0.0;
        d.at(t, c) = options_.loss_scale * (std::exp(d.at(t, c)) - hit);
      }
    }
    return d;
  }

  const ModelConfig& model_;
  const std::vector<TensorSpec>& tensors_;
  const Tensors& parameters_;
  const TokenBatch& batch_;
  const Options& options_;
  const AttentionOptions attention_;
  std::vector<Block> blocks_;
  Result result_;
};

}  // namespace

Result Run(const Config& config, const std::vector<TensorSpec>& tensors, const Tensors& parameters,
           const TokenBatch& batch, const Options& options) {
  return Oracle(config, tensors, parameters, batch, options).Run();
}

}  // namespace mf::oracle
