// Which token comes next: what `generate` draws from a model's logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mf {

struct Sampling {
  double temperature = 0.8;       // of the softmax; 0: the likeliest token (ties: the lowest id)
  int64_t top_k = 0;              // only the k likeliest (Fan et al., ACL 2018); 0: all
  double top_p = 1;               // only the fewest likeliest that together have this probability
                                  // (Holtzman et al., ICLR 2020, "nucleus")
  double repetition_penalty = 1;  // theta of Keskar et al. 2019, section 4.1; 1: none
};

/// The token that `unit` in [0, 1) picks. First the logits of tokens in `context` are made smaller
/// (divided by theta if positive, times theta if not), then come temperature, top_k and top_p; of
/// equal logits the lower ids are the likelier ones. REQUIRES: logits is not empty and all are
/// finite; temperature >= 0, top_k >= 0, 0 < top_p <= 1, repetition_penalty > 0.
uint32_t Sample(std::vector<float> logits, std::span<const uint32_t> context,
                const Sampling& sampling, double unit);

}  // namespace mf
