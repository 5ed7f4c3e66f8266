// A check that is on in every build: a failure is a bug of ours, never a peer's or a user's input.
#pragma once

#include <cstdio>
#include <cstdlib>

#define MF_CHECK(condition)                                                              \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
