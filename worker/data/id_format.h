// How token ids lie in a .bin file. Nothing in a raw file says it, so everything that may is asked:
// the headers that `worker prepare` and llm.c write, the index that Megatron puts beside it, the
// configuration, and whether the numbers can be what they are taken for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/status.h"
#include "worker/config/config.h"
#include "worker/data/checked_file.h"

namespace mf {

struct IdFormat {
  uint64_t header_bytes = 0;
  size_t id_bytes = 2;          // little-endian, unsigned
  bool shard = false;           // of `worker prepare`: what follows is known
  uint32_t number = 0, of = 1;  // which shard it is, and of how many
  std::string ids_digest = {};  // SHA-256 of all ids
  std::string tokenizer = {};   // SHA-256 of its file; empty: bytes
};

/// In this order: the header of `worker prepare` (token_shard.h), llm.c's header (1 KiB; u16, or
/// u32 of its Llama 3), `setting`, FILE.idx beside FILE.bin, the vocabulary: u32 above 65,536.
/// kInvalid, naming the file and what to do, for a length that does not fit, and without a
/// `setting` for what shows that it is something else: ids of another width, an archive, a model.
Result<IdFormat> FindIdFormat(const CheckedFile& file, int64_t vocabulary, IdType setting);

/// What to do about an id above the vocabulary: what the file looks like, or a larger vocabulary.
std::string AdviceForIds(const CheckedFile& file, const IdFormat& format, int64_t vocabulary);

}  // namespace mf
