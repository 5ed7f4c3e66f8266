#include "common/base/digest.h"

#include <sodium.h>

#include <fstream>
#include <vector>

#include "common/base/check.h"

namespace mf {

struct Sha256::State {
  crypto_hash_sha256_state hash;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  MF_CHECK(sodium_init() >= 0);  // idempotent and safe in several threads
  crypto_hash_sha256_init(&state_->hash);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(const void* data, size_t bytes) {
  if (bytes == 0) return;
  crypto_hash_sha256_update(&state_->hash, static_cast<const unsigned char*>(data), bytes);
}

std::string Sha256::Hex() const {
  crypto_hash_sha256_state copy = state_->hash;  // finishing spoils the state
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_final(&copy, digest);
  char hex[2 * sizeof(digest) + 1];
  sodium_bin2hex(hex, sizeof(hex), digest, sizeof(digest));
  return hex;
}

std::string Sha256Hex(const void* data, size_t bytes) {
  Sha256 hash;
  hash.Update(data, bytes);
  return hash.Hex();
}

std::string Sha256HexOfFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return "";
  Sha256 hash;
  std::vector<char> block(1 << 20);
  do {
    in.read(block.data(), static_cast<std::streamsize>(block.size()));
    hash.Update(block.data(), static_cast<size_t>(in.gcount()));
  } while (in);
  return in.eof() ? hash.Hex() : "";
}

}  // namespace mf
