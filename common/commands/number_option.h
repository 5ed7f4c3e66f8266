// Numbers of flags, said once for every command of both programs. CLI11's own reading is silent
// about what it does not take as it stands: 010 is octal, -1 of an unsigned number wraps, nan
// passes every range.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mf {

/// The number that the whole of `text` is: decimal, finite, without a plus or spaces, of an
/// unsigned type without a sign; of a whole type without a point or exponent. T: int, uint32_t,
/// int64_t, uint64_t or double.
template <class T>
std::optional<T> ReadNumber(std::string_view text);

/// `flag` of `command` with a number in [low, high]; anything else is refused with that range.
/// `number` outlives the parse and holds the default before it.
template <class T>
CLI::Option* AddNumber(CLI::App& command, const std::string& flag, T* number,
                       std::type_identity_t<T> low, std::type_identity_t<T> high,
                       const std::string& meaning);
/// The same, where a flag that is not given differs from every number.
template <class T>
CLI::Option* AddNumber(CLI::App& command, const std::string& flag, std::optional<T>* number,
                       std::type_identity_t<T> low, std::type_identity_t<T> high,
                       const std::string& meaning);

constexpr int kThreadsMax = 1024;                      // of a flag for threads
constexpr uint64_t kBytesMax = 1'000'000'000'000'000;  // of a flag for memory
constexpr double kSecondsMax = 1e9;                    // fits every clock

}  // namespace mf
