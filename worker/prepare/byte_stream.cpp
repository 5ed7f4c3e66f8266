#include "worker/prepare/byte_stream.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <limits>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/input_file.h"

namespace mf {
namespace {

constexpr size_t kReadBytes = size_t{1} << 18;

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(InputFile file) : file_(std::move(file)) {}
  Result<size_t> Read(size_t bytes, char* data) override {
    MF_ASSIGN_OR_RETURN(const size_t count, file_.ReadSome(at_, bytes, data));
    at_ += count;
    return count;
  }
  uint64_t taken() const override { return at_; }
  const std::string& path() const { return file_.path(); }

 private:
  const InputFile file_;
  uint64_t at_ = 0;
};

/// What compressed streams share: packed bytes that come as they are needed.
class PackedStream : public ByteStream {
 public:
  explicit PackedStream(InputFile file) : file_(std::move(file)), packed_(kReadBytes) {}
  uint64_t taken() const override { return file_.taken(); }

 protected:
  /// Reads on if nothing is left of what was read. False at the end of the file.
  Result<bool> Fill() {
    if (begin_ < end_) return true;
    MF_ASSIGN_OR_RETURN(end_, file_.Read(packed_.size(), packed_.data()));
    begin_ = 0;
    return end_ > 0;
  }
  Status Damaged(const std::string& why) const {
    return Status::Invalid(file_.path() + ": " + why + ": copy it again");
  }

  PlainStream file_;
  std::vector<char> packed_;
  size_t begin_ = 0, end_ = 0;
};

/// One or more members, one after the other, as gzip and pigz write them. Zeros may stand behind
/// them, such as tapes and some archives fill blocks with.
class GzipStream final : public PackedStream {
 public:
  explicit GzipStream(InputFile file) : PackedStream(std::move(file)) {
    constexpr int kGzipOnly = 16;
    if (inflateInit2(&state_, MAX_WBITS + kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~GzipStream() override { inflateEnd(&state_); }

  Result<size_t> Read(size_t bytes, char* data) override {
    state_.next_out = reinterpret_cast<Bytef*>(data);
    state_.avail_out = static_cast<uInt>(std::min<size_t>(bytes, UINT32_MAX));
    const uInt wanted = state_.avail_out;
    while (state_.avail_out == wanted) {
      MF_ASSIGN_OR_RETURN(const bool more, Fill());
      if (!more && inside_) return Damaged("the gzip data ends in the middle");
      if (!more) return size_t{0};
      if (!inside_) {
        while (begin_ < end_ && packed_[begin_] == 0) ++begin_;
        if (begin_ == end_) continue;
      }
      state_.next_in = reinterpret_cast<Bytef*>(packed_.data() + begin_);
      state_.avail_in = static_cast<uInt>(end_ - begin_);
      inside_ = true;
      const int code = inflate(&state_, Z_NO_FLUSH);
      begin_ = end_ - state_.avail_in;
      if (code == Z_MEM_ERROR) throw std::bad_alloc();
      if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) {
        return Damaged("damaged gzip data");
      }
      if (code == Z_STREAM_END) {
        inside_ = false;
        inflateReset(&state_);
      }
    }
    return size_t{wanted - state_.avail_out};
  }

 private:
  z_stream state_{};
  bool inside_ = false;  // of a member
};

class ZstdStream final : public PackedStream {
 public:
  explicit ZstdStream(InputFile file)
      : PackedStream(std::move(file)), state_(ZSTD_createDStream(), &ZSTD_freeDStream) {
    if (state_ == nullptr) throw std::bad_alloc();
  }

  Result<size_t> Read(size_t bytes, char* data) override {
    ZSTD_outBuffer out{data, bytes, 0};
    while (out.pos == 0) {
      MF_ASSIGN_OR_RETURN(const bool more, Fill());
      if (!more && inside_) return Damaged("the zstd data ends in the middle");
      if (!more) return size_t{0};
      ZSTD_inBuffer in{packed_.data(), end_, begin_};
      const size_t left = ZSTD_decompressStream(state_.get(), &out, &in);
      begin_ = in.pos;
      if (ZSTD_isError(left) != 0) {
        return Damaged(std::string("damaged zstd data (") + ZSTD_getErrorName(left) + ")");
      }
      inside_ = left != 0;
    }
    return out.pos;
  }

 private:
  const std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> state_;
  bool inside_ = false;  // of a frame
};

}  // namespace

Result<std::unique_ptr<ByteStream>> ByteStream::Open(const std::string& path) {
  MF_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(path));
  char head[4] = {};
  MF_ASSIGN_OR_RETURN(const size_t count, file.ReadSome(0, sizeof(head), head));
  const std::string_view begin(head, count);
  if (begin.starts_with("\x1f\x8b\x08")) {
    return std::unique_ptr<ByteStream>(std::make_unique<GzipStream>(std::move(file)));
  }
  if (begin.starts_with("\x28\xb5\x2f\xfd")) {
    return std::unique_ptr<ByteStream>(std::make_unique<ZstdStream>(std::move(file)));
  }
  return std::unique_ptr<ByteStream>(std::make_unique<PlainStream>(std::move(file)));
}

}  // namespace mf
