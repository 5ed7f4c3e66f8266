// Messages between processes or threads: bytes in frames, no meaning. inproc and tcp are the same
// code. One thread at a time owns each end (DESIGN 5, "What bites"): always the same one, or
// whoever holds a lock, as a ZeroMQ socket may go from thread to thread where there is a fence
// between them. Beside the owner, others may call only what says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/status.h"
#include "common/net/keys.h"

namespace mf {

using Message = Frames;

inline uint64_t BytesOf(const Message& message) {
  uint64_t bytes = 0;
  for (const Frame& frame : message) bytes += frame.size();
  return bytes;
}

/// What binds the two ends of inproc addresses together; one per process is enough.
class TransportContext {
 public:
  TransportContext();
  ~TransportContext();
  TransportContext(const TransportContext&) = delete;
  TransportContext& operator=(const TransportContext&) = delete;
  void* handle() const { return handle_; }

 private:
  void* handle_;
};

/// The server's end: receives from anyone, answers to the identity a request came from.
class ServerTransport {
 public:
  virtual ~ServerTransport() = default;
  /// Waits up to `timeout_ms` (-1: for ever) for a message or a Wake(); false if there is none.
  virtual bool Receive(int timeout_ms, std::string* peer, Message* message) = 0;
  /// Never blocks. False if the peer is gone or its queue is full (counted by the caller).
  virtual bool Send(const std::string& peer, const Message& message) = 0;
  /// False while so much that was sent to the peer waits to be read by it that nothing more is
  /// sent.
  virtual bool HasRoomFor(const std::string& peer) = 0;
  /// Makes a Receive() in progress, or the next one, return. From any thread.
  virtual void Wake() = 0;
  /// Where it really listens (tcp port 0 replaced).
  virtual const std::string& address() const = 0;
};

/// The client's end: one connection to each of a list of servers.
class ClientTransport {
 public:
  virtual ~ClientTransport() = default;
  /// Never blocks; false if there is no message.
  virtual bool Receive(size_t* server, Message* message) = 0;
  /// Never blocks. False if the message cannot be queued.
  virtual bool Send(size_t server, const Message& message) = 0;
  /// Returns when Receive() may have something, on a Wake(), after `timeout_ms` (-1: never), or for
  /// no reason. By one thread at a time, and beside the owner: while it waits, others may send and
  /// receive. It tells of news since the last Receive() that found nothing. Hence such a Receive()
  /// comes before each Wait(), and also after each Send() during one: a send may take the news
  /// away.
  virtual void Wait(int timeout_ms) = 0;
  /// Makes a Wait() in progress, or the next one, return. From any thread.
  virtual void Wake() = 0;
  /// How often a connection to the server was made; more than once: what was on its way then is
  /// lost. Never blocks.
  virtual uint64_t Connections(size_t server) = 0;
};

/// Called, from a thread of the transport's, for every connection that was not admitted. `reason`:
/// "unknown_key" (a client that is not on the list), "handshake" (no keys, the key of another
/// server, no ZeroMQ at all) or "descriptors" (no room for more connections).
using OnRefused = std::function<void(std::string_view reason)>;

/// `address`: "tcp://NUMBER:PORT" (port 0: any; names become numbers by ResolveToListen() of
/// common/base/address.h) or "inproc://name". kFailed if it cannot be bound, kInvalid for an
/// address that is not this machine's. With `keys`, everything is encrypted and only the clients
/// that they list are admitted; one such server per context. kInvalid for keys that are none,
/// kFailed where this libzmq has no CURVE.
Result<std::unique_ptr<ServerTransport>> BindZmq(TransportContext& context,
                                                 const std::string& address,
                                                 const ServerKeys* keys = nullptr,
                                                 OnRefused on_refused = {});
/// Connects lazily, as ZeroMQ does: a server may come later (tcp), its name may be known later.
/// kInvalid for an address of another form. With `keys`, only to servers that have the key pair
/// named there; the same errors.
Result<std::unique_ptr<ClientTransport>> ConnectZmq(TransportContext& context,
                                                    const std::vector<std::string>& addresses,
                                                    const ClientKeys* keys = nullptr);
/// A fresh pair from the system's randomness. kFailed where this libzmq has no CURVE.
Result<KeyPair> NewKeyPair();

}  // namespace mf
