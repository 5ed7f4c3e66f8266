// CURVE at the server's door: who is admitted (ZAP, ZeroMQ RFC 27), and what did not get in.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/base/status.h"
#include "common/net/keys.h"
#include "common/net/transport.h"

namespace mf {

class ZapAuthenticator {
 public:
  /// Prepares `socket` of `context`, before it is bound, to admit the listed clients only. One per
  /// context. kInvalid for keys that are none, kFailed where this libzmq has no CURVE.
  static Result<std::unique_ptr<ZapAuthenticator>> Open(TransportContext& context, void* socket,
                                                        const ServerKeys& keys,
                                                        OnRefused on_refused);
  /// After `socket` was closed.
  ~ZapAuthenticator();

 private:
  ZapAuthenticator() = default;
  void Run();
  void AnswerZap();
  void TakeEvents();
  void TakeEvent(uint16_t event, uint32_t descriptor);
  const char* Judge(std::string_view raw_key);  // the answer's status code

  std::string clients_file_;
  OnRefused on_refused_;
  void* zap_ = nullptr;
  void* events_ = nullptr;
  int stop_ = -1;                  // an eventfd
  std::vector<uint32_t> waiting_;  // connections not yet admitted; used by thread_ only
  std::chrono::steady_clock::time_point quiet_until_{};  // used by thread_ only
  std::thread thread_;
};

/// kFailed: `what`, and why ZeroMQ's last call in this thread failed.
Status ZmqError(const std::string& what);

/// Before a client's socket is connected.
Status UseClientKeys(void* socket, const ClientKeys& keys);

}  // namespace mf
