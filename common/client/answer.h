// What a call to servers will come to.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace mf {

class Client;
struct OpenCall;
struct Reply;

/// To be waited for as a std::future is. It may be dropped (the request is made all the same) and
/// may outlive the client. One thread at a time.
class Answer {
 public:
  Answer() = default;
  Answer(Answer&&) = default;
  Answer& operator=(Answer&&) = default;
  /// Until the call is done, at the latest at its deadline.
  void wait() const;
  /// Waits. Once. The replies in server order, each of the operation that was asked for; or the
  /// first error: the transport's, or the code of a server's reply with the server's number before
  /// its message.
  Result<std::vector<Reply>> get();

 private:
  friend class Client;
  Answer(Client* client, std::shared_ptr<OpenCall> call)
      : client_(client), call_(std::move(call)) {}
  Client* client_ = nullptr;  // there as long as the call is open
  std::shared_ptr<OpenCall> call_;
};

}  // namespace mf
