// SHA-256 in hex: identities of runs, data and models. libsodium is seen in digest.cpp only.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace mf {

/// A digest of bytes that arrive in pieces; how they are cut does not matter.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(const void* data, size_t bytes);
  void Update(std::string_view text) { Update(text.data(), text.size()); }
  /// 64 hex digits of everything so far; more may follow.
  std::string Hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string Sha256Hex(const void* data, size_t bytes);
inline std::string Sha256Hex(std::string_view text) { return Sha256Hex(text.data(), text.size()); }
/// Of a whole file; empty if it cannot be read.
std::string Sha256HexOfFile(const std::string& path);

}  // namespace mf
