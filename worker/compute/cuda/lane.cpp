#include "worker/compute/cuda/lane.h"

#include <algorithm>

#include "worker/compute/cuda/kernels/column_sums.h"
#include "worker/compute/cuda/kernels/norm.h"

namespace mf::cuda {
namespace {

constexpr size_t kSliceBytes = size_t{256} << 20;  // logits in memory at once

/// The widths that decide how large things are.
struct Widths {
  size_t tokens;
  size_t slice;
  size_t d;
  size_t heads;
  size_t vocabulary;
  size_t middle;
  size_t probes;
  size_t pairs;        // of the memory layer with the most
  size_t index_bytes;  // of a pair, at most
  size_t dense_wide;   // [T][w] for gelu, or 0
};

Widths WidthsOf(const Config& config, const Model::Plan& plan, size_t tokens, size_t slice) {
  Widths widths{};
  widths.tokens = tokens;
  widths.slice = slice;
  widths.d = static_cast<size_t>(config.model.d);
  widths.heads = static_cast<size_t>(config.model.heads);
  widths.vocabulary = static_cast<size_t>(config.model.vocabulary);
  widths.probes = static_cast<size_t>(config.model.probes);
  for (const BlockIds& block : plan.blocks) {
    widths.middle = std::max(widths.middle, block.first.out);
    for (const ProjectionIds* layer : {&block.qkv, &block.first, &block.second}) {
      if (config.model.projection == Projection::kDense) continue;
      widths.pairs = std::max(widths.pairs, layer->hash.pairs());
      widths.index_bytes =
          std::max(widths.index_bytes, static_cast<size_t>(layer->hash.index_bytes));
    }
  }
  if (config.model.projection == Projection::kDense) widths.dense_wide = widths.middle;
  return widths;
}

void LayOutGradients(const std::vector<TensorSpec>& tensors, int embed, const Widths& widths,
                     Layout& layout, std::vector<float*>* gradients) {
  gradients->assign(tensors.size(), nullptr);
  for (const TensorSpec& tensor : tensors) {
    if (tensor.kind != TensorKind::kDense || static_cast<int>(tensor.id) == embed) continue;
    layout.Take(tensor.values(), &(*gradients)[tensor.id]);
  }
  // Of the embedding the rows of tokens that occur. Last, so that one copy takes all.
  layout.Take(std::min(widths.tokens, widths.vocabulary) * widths.d,
              &(*gradients)[static_cast<size_t>(embed)]);
}

/// A hash of its own for a layer on the device, else the one that all others share.
void LayOutHash(const Widths& w, const std::vector<TensorSpec>& tensors, const ProjectionIds& layer,
                const HashBuffers& shared, Layout& layout, HashBuffers* hash) {
  *hash = shared;
  if (!tensors[static_cast<size_t>(layer.weight)].on_device) return;
  const size_t numbers = layer.hash.pairs() * w.tokens;
  layout.Take(numbers * static_cast<size_t>(layer.hash.index_bytes), &hash->indices);
  layout.Take(numbers, &hash->weights);
}

void LayOut(const Widths& w, const std::vector<TensorSpec>& tensors, const Model::Plan& plan,
            Layout& layout, DeviceBuffers* to) {
  const size_t t = w.tokens;
  HashBuffers shared;
  layout.Take(w.pairs * t * w.index_bytes, &shared.indices);
  layout.Take(w.pairs * t, &shared.weights);
  to->blocks.resize(plan.blocks.size());
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    BlockBuffers& block = to->blocks[i];
    const BlockIds& ids = plan.blocks[i];
    LayOutHash(w, tensors, ids.qkv, shared, layout, &block.qkv_hash);
    LayOutHash(w, tensors, ids.first, shared, layout, &block.first_hash);
    LayOutHash(w, tensors, ids.second, shared, layout, &block.second_hash);
    layout.Take(t * w.d, &block.x);
    layout.Take(t * 3 * w.d, &block.qkv);
    layout.Take(t * w.d, &block.attended);
    layout.Take(t * w.heads, &block.log_sums);
    layout.Take(t * w.d, &block.z);
    layout.Take(t * w.middle, &block.middle);
  }
  layout.Take(t * w.d, &to->x);
  layout.Take(t * w.d, &to->normed);
  layout.Take(t * w.dense_wide, &to->wide);
  layout.Take(w.slice * w.vocabulary, &to->logits);
  layout.Take(t, &to->nll);
  layout.Take(t * w.d, &to->dx);
  layout.Take(t * std::max(w.d, w.middle), &to->dnormed);
  layout.Take(t * 3 * w.d, &to->dqkv);
  layout.Take(t * w.middle, &to->dmiddle);
  layout.Take(t * w.heads, &to->products);
  const size_t widest = std::max({w.d, w.middle, 3 * w.d});
  layout.Take(std::max(NormScratch(t, std::max(w.d, w.middle)), ColumnSumsScratch(t, widest)),
              &to->sums);
  layout.Take(w.pairs * t, &to->dweights);
  layout.Take(t, &to->ids);
  layout.Take(t, &to->targets);
  layout.Take(t + 1, &to->begin);
  layout.Take(t, &to->positions);
  LayOutGradients(tensors, plan.embed, w, layout, &to->gradients);
}

void LayOut(const Widths& w, const std::vector<TensorSpec>& tensors, const Model::Plan& plan,
            Layout& layout, HostBuffers* to) {
  layout.Take(w.tokens * std::max(3 * w.d, w.middle), &to->y);
  layout.Take(w.pairs * w.tokens, &to->dweights);
  layout.Take(w.tokens, &to->nll);
  layout.Take(w.tokens, &to->ids);
  layout.Take(w.tokens, &to->targets);
  layout.Take(w.tokens + 1, &to->begin);
  layout.Take(w.tokens, &to->positions);
  LayOutGradients(tensors, plan.embed, w, layout, &to->gradients);
}

}  // namespace

Lane::Lane(const Config& config, const std::vector<TensorSpec>& tensors, const Model::Plan& plan,
           size_t most_tokens)
    : tokens(most_tokens),
      slice_rows(SliceRows(kSliceBytes, static_cast<size_t>(config.model.vocabulary), most_tokens)),
      products(stream.get()) {
  const Widths widths = WidthsOf(config, plan, tokens, slice_rows);
  Layout device_size;
  LayOut(widths, tensors, plan, device_size, &device);
  LayOutRows(tensors, tokens, widths.probes, device_size, &rows);
  memory_ = DeviceMemory(device_size.bytes(), "a micro-batch");
  Layout device_place(memory_.data());
  LayOut(widths, tensors, plan, device_place, &device);
  LayOutRows(tensors, tokens, widths.probes, device_place, &rows);

  Layout host_size;
  LayOut(widths, tensors, plan, host_size, &host);
  host_memory_ = pinned.Take(host_size.bytes());
  Layout host_place(host_memory_.data());
  LayOut(widths, tensors, plan, host_place, &host);
}

}  // namespace mf::cuda
