// How evenly the rows of each layer's first and last table are hit, as a self-contained SVG: the
// paper's figure 4.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/metrics/bucket_summary.h"

namespace mf {

struct LayerHits {
  std::string name;
  std::vector<TableBuckets> tables;
};

/// One line of two histograms a layer: hits of its first and last table by 64 bins of the bucket
/// number, beside what even use would give. Pure: equal counts are equal bytes.
std::string BucketsSvg(uint64_t step, const std::vector<LayerHits>& layers);

}  // namespace mf
