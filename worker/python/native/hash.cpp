// The hash of memory layers on a CPU, for Python: the worker's kernels over NumPy arrays.
#include "worker/compute/cpu/hash.h"

#include <algorithm>
#include <future>
#include <string>
#include <vector>

#include "worker/python/native/arrays.h"
#include "worker/python/native/module.h"

namespace mf {
namespace {

namespace py = pybind11;

constexpr size_t kNumbersMin =
    1 << 15;  // for a thread: below it takes longer to start than to compute

HashParameters ParametersOf(size_t tables, size_t bits, size_t probes, const std::string& score,
                            float temperature) {
  if (tables < 1 || bits < 1 || bits > 32 || probes < 1 || probes > bits) {
    throw py::value_error("hash: sizes are out of range");
  }
  HashParameters hash{.tables = tables, .bits = bits, .probes = probes, .temperature = temperature};
  hash.score = score == "softmax" ? Score::kSoftmax : Score::kScaled;
  hash.index_bytes = bits <= 8 ? 1 : bits <= 16 ? 2 : 4;
  return hash;
}

/// Tokens of z [tokens][width].
size_t TokensOf(const HashParameters& hash, const Array& z) {
  return static_cast<size_t>(z->len) / (hash.width() * sizeof(float));
}

/// rows(begin, end) over all tokens, without the GIL. Tokens are independent of each other, so the
/// number of threads changes nothing.
template <class Rows>
void OverTokens(const HashParameters& hash, size_t tokens, size_t threads, const Rows& rows) {
  py::gil_scoped_release others_run;
  const size_t parts =
      std::clamp<size_t>(tokens * hash.width() / kNumbersMin, 1, std::max<size_t>(threads, 1));
  std::vector<std::future<void>> others;
  for (size_t part = 1; part < parts; ++part) {
    others.push_back(
        std::async(std::launch::async, rows, part * tokens / parts, (part + 1) * tokens / parts));
  }
  rows(0, tokens / parts);
}

void Forward(size_t tables, size_t bits, size_t probes, const std::string& score, float temperature,
             size_t threads, const py::object& z, const py::object& indices,
             const py::object& weights) {
  GiveBackArrays();
  const HashParameters hash = ParametersOf(tables, bits, probes, score, temperature);
  const Array in = ArrayOf(z, "inputs");
  const size_t tokens = TokensOf(hash, in), count = hash.pairs() * tokens;
  const size_t index_bytes = count * static_cast<size_t>(hash.index_bytes);
  const Array out_indices = ArrayOf(indices, index_bytes, "bucket numbers", true);
  const Array out_weights = ArrayOf(weights, count * sizeof(float), "weights", true);
  const auto buffer = [](const Array& array) {
    return Buffer(std::shared_ptr<std::byte>(array, DataOf<std::byte>(array)),
                  static_cast<size_t>(array->len));
  };
  const Hashes out{.tokens = tokens,
                   .pairs = hash.pairs(),
                   .probes = probes,
                   .index_bytes = hash.index_bytes,
                   .indices = buffer(out_indices),
                   .weights = buffer(out_weights)};
  OverTokens(hash, tokens, threads, [&](size_t begin, size_t end) {
    HashRows(hash, DataOf<const float>(in) + begin * hash.width(), begin, end - begin, out);
  });
}

void Backward(size_t tables, size_t bits, size_t probes, const std::string& score,
              float temperature, size_t threads, const py::object& z, const py::object& dweights,
              const py::object& dz) {
  GiveBackArrays();
  const HashParameters hash = ParametersOf(tables, bits, probes, score, temperature);
  const Array in = ArrayOf(z, "inputs");
  const size_t tokens = TokensOf(hash, in);
  const Array gradients =
      ArrayOf(dweights, hash.pairs() * tokens * sizeof(float), "gradients of weights");
  const Array out = ArrayOf(dz, static_cast<size_t>(in->len), "gradients of inputs", true);
  OverTokens(hash, tokens, threads, [&](size_t begin, size_t end) {
    HashBackwardRows(hash, DataOf<const float>(in) + begin * hash.width(), begin, end - begin,
                     tokens, DataOf<const float>(gradients),
                     DataOf<float>(out) + begin * hash.width());
  });
}

}  // namespace

void AddHash(py::module_& module) {
  module.def("hash_rows", &Forward);
  module.def("hash_backward_rows", &Backward);
}

}  // namespace mf
