#include "common/buffer.h"

#include <new>

namespace mf {

Buffer::Buffer(size_t bytes) : size_(bytes) {
  constexpr std::align_val_t kAlignment{64};
  auto* memory = static_cast<std::byte*>(::operator new(bytes == 0 ? 1 : bytes, kAlignment));
  data_ =
      std::shared_ptr<std::byte>(memory, [](std::byte* p) { ::operator delete(p, kAlignment); });
}

}  // namespace mf
