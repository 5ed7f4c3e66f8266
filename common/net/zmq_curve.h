// The server's door: with keys, who is admitted (CURVE and ZAP, ZeroMQ RFC 27); what did not get
// in; and that there is room inside. A process that has no descriptor left for a connection that
// waits at the door would ask for it again and again: libzmq's thread then takes a whole core, and
// nobody gets in, nor can a snapshot be written. So the last descriptors are not for connections:
// one that got such a number is sent away, and its client comes again by itself.
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

class ServerDoor {
 public:
  /// Watches `socket` of `context`, before it is bound, and, with `keys`, prepares it to admit the
  /// listed clients only; one with keys per context. kInvalid for keys that are none, kFailed where
  /// this libzmq has no CURVE, or no threads or descriptors are left.
  static Result<std::unique_ptr<ServerDoor>> Open(TransportContext& context, void* socket,
                                                  const ServerKeys* keys, OnRefused on_refused);
  /// After `socket` was closed.
  ~ServerDoor();

 private:
  ServerDoor() = default;
  Status UseKeys(TransportContext& context, void* socket, const ServerKeys& keys);
  void Run();
  void AnswerZap();
  void TakeEvents();
  void TakeEvent(uint16_t event, uint32_t descriptor);
  void TakeKeyEvent(uint16_t event, uint32_t descriptor);
  /// Sends a connection away that took one of the last descriptors.
  bool NoRoomFor(uint32_t descriptor);
  /// Not more than one line in a while, however many knock.
  bool MaySpeak();
  const char* Judge(std::string_view raw_key);  // the answer's status code

  std::string clients_file_;
  OnRefused on_refused_;
  void* zap_ = nullptr;  // none without keys
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
