// Errors that are expected at run time: network, disk, configuration, bytes from a peer.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "common/base/check.h"

namespace mf {

enum class Code {
  kOk = 0,
  kInvalid,      // bad usage or bad input: exit code 2
  kFailed,       // failed at run time: exit code 1
  kStale,        // the step of the request has ended
  kNotYet,       // the step of the request has not begun
  kWrongEpoch,   // another recovery epoch
  kWrongRun,     // another configuration
  kNotJoined,    // no session
  kUnavailable,  // the server has to be recovered first
  kDamaged,      // what is on disk is not what was written there
  kBusy,         // no room for the request yet; who asked sends it again
};

inline constexpr int kCodeCount = static_cast<int>(Code::kBusy) + 1;

/// The code as metrics label it.
inline const char* CodeName(Code code) {
  constexpr const char* kNames[kCodeCount] = {
      "ok",        "invalid",    "failed",      "stale",   "not_yet", "wrong_epoch",
      "wrong_run", "not_joined", "unavailable", "damaged", "busy"};
  return kNames[static_cast<int>(code)];
}

/// The outcome of an operation: ok, or a code and one line that says what, where and what to do.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status Ok() { return {}; }
  static Status Invalid(std::string message) { return {Code::kInvalid, std::move(message)}; }
  static Status Failed(std::string message) { return {Code::kFailed, std::move(message)}; }

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  /// The process's exit code for this outcome: 0 done, 2 bad usage or input, 1 everything else.
  int exit_code() const {
    return ok() ? 0 : code_ == Code::kInvalid || code_ == Code::kWrongRun ? 2 : 1;
  }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

/// A value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit
  Result(Status status) : status_(std::move(status)) { MF_CHECK(!status_.ok()); }  // NOLINT

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  /// REQUIRES: ok().
  T& value() & {
    MF_CHECK(ok());
    return *value_;
  }
  const T& value() const& {
    MF_CHECK(ok());
    return *value_;
  }
  T&& value() && {
    MF_CHECK(ok());
    return std::move(*value_);
  }
  T* operator->() { return &value(); }
  T& operator*() { return value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace mf

#define MF_RETURN_IF_ERROR(expression)                        \
  do {                                                        \
    if (::mf::Status status_ = (expression); !status_.ok()) { \
      return status_;                                         \
    }                                                         \
  } while (false)

#define MF_CONCAT_INNER(a, b) a##b
#define MF_CONCAT(a, b) MF_CONCAT_INNER(a, b)
#define MF_ASSIGN_OR_RETURN(declaration, expression) \
  auto MF_CONCAT(result_, __LINE__) = (expression);  \
  if (!MF_CONCAT(result_, __LINE__).ok()) {          \
    return MF_CONCAT(result_, __LINE__).status();    \
  }                                                  \
  declaration = std::move(MF_CONCAT(result_, __LINE__)).value()
