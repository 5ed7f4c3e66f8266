// Memory straight from the system in pages of 2 MiB: random reads of large tables miss the TLB far
// less, and a fault costs as much as one of 4 KiB.
#pragma once

#include <cstddef>

namespace mf {

inline constexpr size_t kHugePageBytes = size_t{2} << 20;

/// `bytes`, a multiple of 4096, zeroed and aligned to a huge page; to be given back by munmap.
/// Where the system has no huge pages they are small. A page takes no memory until it is touched.
/// std::bad_alloc when the system refuses it.
void* MapHugePages(size_t bytes);

}  // namespace mf
