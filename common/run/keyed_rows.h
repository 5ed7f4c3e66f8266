// The row that a key has in a keyed tensor. The function is a bijection of 64 bits, so that no two
// keys meet, and mixes well, so that any set of keys is spread evenly over the tables: the
// finaliser of MurmurHash3, whose constants are Appleby's (fmix64).
#pragma once

#include <cstdint>

namespace mf {

constexpr uint64_t RowOfKey(uint64_t key) {
  key = (key ^ key >> 33) * 0xFF51AFD7ED558CCDull;
  key = (key ^ key >> 33) * 0xC4CEB9FE1A85EC53ull;
  return key ^ key >> 33;
}

/// The inverse.
constexpr uint64_t KeyOfRow(uint64_t row) {
  row = (row ^ row >> 33) * 0x9CB4B2F8129337DBull;  // times its counterpart: 1 modulo 2^64
  row = (row ^ row >> 33) * 0x4F74430C22A54005ull;
  return row ^ row >> 33;
}

}  // namespace mf
