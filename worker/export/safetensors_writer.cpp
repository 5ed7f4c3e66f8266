#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/files.h"
#include "worker/export/safetensors.h"

namespace mf {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

std::atomic<const char*> g_temporary{nullptr};  // of the writer that is at work

const char* DTypeName(DType dtype) { return dtype == DType::kF32 ? "F32" : "U64"; }

/// The header, padded with spaces so that data begins at a multiple of 8.
std::string Header(const std::vector<TensorEntry>& tensors, const std::string& config_json,
                   const std::map<std::string, std::string>& more, uint64_t* data_bytes) {
  nlohmann::ordered_json root;  // tensors in the given order
  root["__metadata__"]["config"] = config_json;
  for (const auto& [key, text] : more) root["__metadata__"][key] = text;
  uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    uint64_t bytes = DTypeBytes(tensor.dtype);
    for (const int64_t size : tensor.shape) bytes *= static_cast<uint64_t>(size);
    auto& entry = root[tensor.name];
    entry["dtype"] = DTypeName(tensor.dtype);
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, offset + bytes};
    offset += bytes;
  }
  *data_bytes = offset;
  std::string text = root.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

std::vector<TensorEntry> EntriesOf(const std::vector<TensorSpec>& tensors) {
  std::vector<TensorEntry> entries;
  for (const TensorSpec& tensor : tensors) {
    entries.push_back({tensor.name, DType::kF32, tensor.shape});
  }
  return entries;
}

Status SafetensorsWriter::Fail(const char* action) const {
  return Status::Failed(path_ + ": cannot " + action + " it: " + std::strerror(errno));
}

Result<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorEntry>& tensors,
    const std::string& config_json, const std::map<std::string, std::string>& more) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter);
  MF_RETURN_IF_ERROR(CheckReplaceable(path));
  writer->path_ = FollowLinks(path);
  // Beside the final name, so that the rename stays inside one file system; the process id keeps
  // two writers of the same export apart.
  writer->temporary_ = writer->path_ + ".partial-" + std::to_string(getpid());
  g_temporary.store(writer->temporary_.c_str());  // first: a signal may come at any moment
  writer->fd_ = open(writer->temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) {
    return Status::Invalid(path + ": cannot write here: " + std::strerror(errno) +
                           "; give a place in a folder that exists and can be written");
  }
  writer->buffer_.reserve(kBufferBytes);
  const std::string header = Header(tensors, config_json, more, &writer->expected_);
  const uint64_t length = header.size();
  char length_bytes[8];
  for (int i = 0; i < 8; ++i) length_bytes[i] = static_cast<char>(length >> (8 * i));
  MF_RETURN_IF_ERROR(writer->Write(length_bytes, sizeof(length_bytes)));
  MF_RETURN_IF_ERROR(writer->Write(header.data(), header.size()));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) {
    close(fd_);
    unlink(temporary_.c_str());
  }
  g_temporary.store(nullptr);
}

void SafetensorsWriter::RemoveUnfinished() {
  if (const char* const path = g_temporary.load(); path != nullptr) unlink(path);
}

Status SafetensorsWriter::Write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(fd_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Fail("write");
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return Status::Ok();
}

Status SafetensorsWriter::Append(const void* data, size_t bytes) {
  MF_CHECK(bytes <= expected_ - appended_);
  appended_ += bytes;
  if (buffer_.size() + bytes > kBufferBytes) {
    MF_RETURN_IF_ERROR(Write(buffer_.data(), buffer_.size()));
    buffer_.clear();
  }
  if (bytes >= kBufferBytes) return Write(data, bytes);
  const char* begin = static_cast<const char*>(data);
  buffer_.insert(buffer_.end(), begin, begin + bytes);
  return Status::Ok();
}

Status SafetensorsWriter::Finish() {
  MF_CHECK(appended_ == expected_);
  MF_RETURN_IF_ERROR(Write(buffer_.data(), buffer_.size()));
  buffer_.clear();
  if (fsync(fd_) != 0) return Fail("flush");
  close(std::exchange(fd_, -1));
  const Status published = PublishPath(temporary_, path_);
  if (!published.ok()) unlink(temporary_.c_str());
  g_temporary.store(nullptr);
  return published;
}

}  // namespace mf
