// The fields of an aggregate, found by the compiler: a test that goes over all fields of a struct
// cannot forget the one that is added tomorrow.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace mf {
namespace fields_internal {

struct Anything {
  template <class T>
  operator T() const;  // NOLINT: implicit, never called
};

template <class T, size_t... i>
constexpr bool CanHold(std::index_sequence<i...>) {
  return requires { T{((void)i, Anything{})...}; };
}

template <class T, size_t count = 0>
constexpr size_t Count() {
  if constexpr (!CanHold<T>(std::make_index_sequence<count + 1>())) {
    return count;
  } else {
    return Count<T, count + 1>();
  }
}

}  // namespace fields_internal

/// How many fields the aggregate T has.
template <class T>
constexpr size_t kFieldCount = fields_internal::Count<T>();

/// Calls f(field) for every field of an aggregate of at most twelve, in their order.
template <class T, class F>
void ForEachField(T& t, F f) {
  constexpr size_t n = kFieldCount<std::remove_const_t<T>>;
  static_assert(n <= 12, "ForEachField knows structs of at most 12 fields");
  const auto all = [&](auto&... fields) { (f(fields), ...); };
  if constexpr (n == 1) {
    auto& [a] = t;
    all(a);
  } else if constexpr (n == 2) {
    auto& [a, b] = t;
    all(a, b);
  } else if constexpr (n == 3) {
    auto& [a, b, c] = t;
    all(a, b, c);
  } else if constexpr (n == 4) {
    auto& [a, b, c, d] = t;
    all(a, b, c, d);
  } else if constexpr (n == 5) {
    auto& [a, b, c, d, e] = t;
    all(a, b, c, d, e);
  } else if constexpr (n == 6) {
    auto& [a, b, c, d, e, g] = t;
    all(a, b, c, d, e, g);
  } else if constexpr (n == 7) {
    auto& [a, b, c, d, e, g, h] = t;
    all(a, b, c, d, e, g, h);
  } else if constexpr (n == 8) {
    auto& [a, b, c, d, e, g, h, i] = t;
    all(a, b, c, d, e, g, h, i);
  } else if constexpr (n == 9) {
    auto& [a, b, c, d, e, g, h, i, j] = t;
    all(a, b, c, d, e, g, h, i, j);
  } else if constexpr (n == 10) {
    auto& [a, b, c, d, e, g, h, i, j, k] = t;
    all(a, b, c, d, e, g, h, i, j, k);
  } else if constexpr (n == 11) {
    auto& [a, b, c, d, e, g, h, i, j, k, l] = t;
    all(a, b, c, d, e, g, h, i, j, k, l);
  } else if constexpr (n == 12) {
    auto& [a, b, c, d, e, g, h, i, j, k, l, m] = t;
    all(a, b, c, d, e, g, h, i, j, k, l, m);
  }
}

}  // namespace mf
