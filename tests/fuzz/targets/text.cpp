// Is it text? The answer depends on the bytes alone, not on the pieces that they come in. The first
// byte of the input says how long those are.
#include <algorithm>

#include "tests/fuzz/support/target.h"
#include "worker/data/text_check.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  if (size == 0) return 0;
  const size_t piece = 1 + data[0];
  const std::string_view text = fuzz::TextOf(data + 1, size - 1);
  TextCheck whole, pieces;
  whole.Update(text.data(), text.size());
  for (size_t at = 0; at < text.size(); at += piece) {
    // A copy of its own, so that a sanitizer sees a read beyond its end.
    const std::vector<char> some(
        text.begin() + static_cast<ptrdiff_t>(at),
        text.begin() + static_cast<ptrdiff_t>(std::min(at + piece, text.size())));
    pieces.Update(some.data(), some.size());
  }
  const std::string fault = whole.Fault();
  MF_CHECK(pieces.Fault() == fault && pieces.count() == whole.count());
  MF_CHECK(fault.empty() == (whole.count() == 0));
  (void)KnownFormat(text);
  return 0;
}
