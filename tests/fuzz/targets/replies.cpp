// Replies as a worker decodes them: of whatever a server sends, the same message comes out again
// when it is encoded. The input is one header frame.
#include <cstring>

#include "common/net/messages.h"
#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const Buffer header(size);
  if (size > 0) std::memcpy(header.data(), data, size);
  auto reply = DecodeReply({Frame(header)});
  if (!reply.ok()) return 0;
  auto again = DecodeReply(Encode(*reply));
  MF_CHECK(again.ok() && again->id == reply->id && again->code == reply->code);
  MF_CHECK(again->body.index() == reply->body.index() && again->message == reply->message);
  return 0;
}
