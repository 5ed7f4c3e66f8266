#include "common/commands/number_option.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <functional>

namespace mf {
namespace {

template <class T>
constexpr bool kWhole = std::is_integral_v<T>;

/// In plain digits, however large.
template <class T>
std::string Digits(T number) {
  if constexpr (kWhole<T>) {
    return std::to_string(number);
  } else {
    char text[400];  // the largest double has 309 digits
    const auto end = std::to_chars(text, text + sizeof(text), number, std::chars_format::fixed);
    return {text, end.ptr};
  }
}

template <class T>
CLI::Option* Add(CLI::App& command, const std::string& flag, std::function<void(T)> take, T low,
                 T high, const std::string& meaning) {
  const auto read = [=](const std::string& text) {
    const std::optional<T> number = ReadNumber<T>(text);
    if (number.has_value() && *number >= low && *number <= high) return take(*number);
    // Not a ValidationError: CLI11 would put the flag's name in front once more.
    throw CLI::ConversionError(flag + " " + text + ": it must be a " +
                               (kWhole<T> ? "whole number" : "number") + " from " + Digits(low) +
                               " to " + Digits(high));
  };
  CLI::Option* option = command.add_option_function<std::string>(flag, read, meaning);
  return option->type_name((kWhole<T> ? "INT in [" : "FLOAT in [") + Digits(low) + " - " +
                           Digits(high) + "]");
}

}  // namespace

template <class T>
std::optional<T> ReadNumber(std::string_view text) {
  T number{};
  const char* end = text.data() + text.size();
  const std::from_chars_result read = std::from_chars(text.data(), end, number);
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  if constexpr (!kWhole<T>) {
    if (!std::isfinite(number)) return std::nullopt;
  }
  return number;
}

template <class T>
CLI::Option* AddNumber(CLI::App& command, const std::string& flag, T* number,
                       std::type_identity_t<T> low, std::type_identity_t<T> high,
                       const std::string& meaning) {
  CLI::Option* option = Add<T>(
      command, flag, [number](T value) { *number = value; }, low, high, meaning);
  return option->default_function([number] {  // for capture_default_str()
    char text[32];
    const auto end = std::to_chars(text, text + sizeof(text), *number);
    return std::string(text, end.ptr);
  });
}

template <class T>
CLI::Option* AddNumber(CLI::App& command, const std::string& flag, std::optional<T>* number,
                       std::type_identity_t<T> low, std::type_identity_t<T> high,
                       const std::string& meaning) {
  return Add<T>(
      command, flag, [number](T value) { *number = value; }, low, high, meaning);
}

#define MF_NUMBER(T)                                                                          \
  template std::optional<T> ReadNumber(std::string_view);                                     \
  template CLI::Option* AddNumber(CLI::App&, const std::string&, T*, std::type_identity_t<T>, \
                                  std::type_identity_t<T>, const std::string&);               \
  template CLI::Option* AddNumber(CLI::App&, const std::string&, std::optional<T>*,           \
                                  std::type_identity_t<T>, std::type_identity_t<T>,           \
                                  const std::string&);
MF_NUMBER(int)
MF_NUMBER(uint32_t)
MF_NUMBER(int64_t)
MF_NUMBER(uint64_t)
MF_NUMBER(double)
#undef MF_NUMBER

}  // namespace mf
