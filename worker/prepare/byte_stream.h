// The bytes of a file, unpacked where it is gzip- or zstd-compressed: seen from its first bytes,
// not from its name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "common/base/status.h"

namespace mf {

class ByteStream {
 public:
  /// kInvalid, naming the file, for what cannot be opened.
  static Result<std::unique_ptr<ByteStream>> Open(const std::string& path);
  virtual ~ByteStream() = default;

  /// At most `bytes` bytes: 0 only at the end. kInvalid, naming the file, for compressed data that
  /// is damaged or cut; kFailed for a disk that fails.
  virtual Result<size_t> Read(size_t bytes, char* data) = 0;
  /// Bytes of the file itself that were read: for progress.
  virtual uint64_t taken() const = 0;
};

}  // namespace mf
