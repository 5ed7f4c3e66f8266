// Sockets of ZeroMQ; beside it only zmq_curve.cpp knows the library.
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <new>

#include "common/base/buffer_pool.h"
#include "common/base/logging.h"
#include "common/net/transport.h"
#include "common/net/zmq_curve.h"

#if defined(__SANITIZE_THREAD__)
extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace mf {
namespace {

// libzmq is not built with ThreadSanitizer, so the happens-before edge of a message from one socket
// to another is invisible to it. These two calls state that edge and nothing more.
char g_handover;
void ReleaseToPeer() {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&g_handover);
#else
  (void)g_handover;
#endif
}
void AcquireFromPeer() {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&g_handover);
#endif
}

constexpr int kHighWaterMark = 100'000;          // messages; far above any client's window
constexpr int64_t kMessageBytesMax = 2ll << 30;  // one frame
constexpr int kHeartbeatMs = 5'000;
constexpr size_t kFramesMax = 16;      // no operation has more
constexpr size_t kCopyBytesMax = 256;  // below this a copy is cheaper than sharing

using Owner = std::shared_ptr<const void>;

void ReleaseOwner(void*, void* hint) {
  AcquireFromPeer();
  auto* owner = static_cast<Owner*>(hint);
  owner->~Owner();
  PoolAllocator<Owner>().deallocate(owner, 1);
}

/// A zmq message that shares the frame's bytes (or copies a few).
void InitMessage(zmq_msg_t* out, const Frame& frame) {
  if (frame.size() <= kCopyBytesMax) {
    zmq_msg_init_size(out, frame.size());
    if (frame.size() > 0) std::memcpy(zmq_msg_data(out), frame.data(), frame.size());
    return;
  }
  auto* owner = new (PoolAllocator<Owner>().allocate(1)) Owner(frame.owner());
  zmq_msg_init_data(out, const_cast<std::byte*>(frame.data()), frame.size(), &ReleaseOwner, owner);
}

/// A received message, closed when nobody uses its bytes any more.
struct Received {
  zmq_msg_t message;
  explicit Received(zmq_msg_t* from) {
    zmq_msg_init(&message);
    zmq_msg_move(&message, from);
  }
  ~Received() {
    ReleaseToPeer();
    zmq_msg_close(&message);
  }
  Received(const Received&) = delete;
};

/// A frame that shares the received message's bytes.
Frame TakeFrame(zmq_msg_t* received) {
  auto taken = std::allocate_shared<Received>(PoolAllocator<Received>(), received);
  const void* data = zmq_msg_data(&taken->message);
  const size_t size = zmq_msg_size(&taken->message);
  return Frame(std::move(taken), data, size);
}

class Socket {
 public:
  Socket() = default;
  ~Socket() { Close(); }
  Socket(Socket&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Socket& operator=(Socket&&) = delete;
  void Close() {
    if (handle_ != nullptr) zmq_close(std::exchange(handle_, nullptr));
  }

  Status Open(TransportContext& context, int type) {
    handle_ = zmq_socket(context.handle(), type);
    if (handle_ == nullptr) return ZmqError("cannot open a socket");
    Set(ZMQ_LINGER, 0);
    Set(ZMQ_SNDHWM, kHighWaterMark);
    Set(ZMQ_RCVHWM, kHighWaterMark);
    Set(ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
    zmq_setsockopt(handle_, ZMQ_MAXMSGSIZE, &kMessageBytesMax, sizeof kMessageBytesMax);
    if (type == ZMQ_ROUTER) Set(ZMQ_ROUTER_MANDATORY, 1);
    return Status::Ok();
  }

  bool SendFrame(const Frame& frame, bool more) {
    zmq_msg_t message;
    InitMessage(&message, frame);
    ReleaseToPeer();
    const int flags = ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0);
    int sent = 0;
    do {
      sent = zmq_msg_send(&message, handle_, flags);
    } while (sent < 0 && zmq_errno() == EINTR);
    if (sent >= 0) return true;
    zmq_msg_close(&message);
    return false;
  }

  bool SendFrames(const Message& message) {
    for (size_t i = 0; i < message.size(); ++i) {
      if (!SendFrame(message[i], i + 1 < message.size())) return false;
    }
    return true;
  }

  /// All frames of the next message; false if there is none. Frames above kFramesMax are dropped,
  /// which the checks of the receiver then refuse.
  bool ReceiveFrames(Message* out) {
    out->clear();
    bool more = true;
    while (more) {
      zmq_msg_t message;
      zmq_msg_init(&message);
      int received = 0;
      do {
        received = zmq_msg_recv(&message, handle_, ZMQ_DONTWAIT);
      } while (received < 0 && zmq_errno() == EINTR);
      if (received < 0) {
        zmq_msg_close(&message);
        return false;
      }
      AcquireFromPeer();
      more = zmq_msg_more(&message) != 0;
      Frame frame = TakeFrame(&message);
      zmq_msg_close(&message);
      if (out->size() <= kFramesMax) out->push_back(std::move(frame));
    }
    return true;
  }

  void* handle() const { return handle_; }

 private:
  void Set(int option, int value) { zmq_setsockopt(handle_, option, &value, sizeof value); }
  void* handle_ = nullptr;
};

/// An eventfd that ends a poll from another thread.
class WakeSignal {
 public:
  WakeSignal() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { MF_CHECK(fd_ >= 0); }
  ~WakeSignal() { close(fd_); }
  WakeSignal(const WakeSignal&) = delete;
  void Raise() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
  }
  void Clear() {
    uint64_t count;
    [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof count);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

/// What poll() watches for a socket. Edge-triggered: it tells of news since the last attempt to
/// receive that found nothing, so such an attempt comes before every poll(), also after a send. The
/// descriptor itself may be polled by any thread, beside the one that owns the socket.
pollfd PollOf(const Socket& socket) {
  int fd = -1;
  size_t size = sizeof fd;
  MF_CHECK(zmq_getsockopt(socket.handle(), ZMQ_FD, &fd, &size) == 0);
  return {fd, POLLIN, 0};
}

/// Calls `take` until it succeeds, `wake` is raised or time is up. One poll() a wait, where
/// zmq_poll() makes two and asks every socket twice.
template <class Take>
bool TakeWithin(int timeout_ms, std::vector<pollfd>& sockets_and_wake, WakeSignal& wake,
                const Take& take) {
  if (take()) return true;
  if (timeout_ms == 0) return false;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  int left_ms = timeout_ms;
  while (true) {
    const int ready = poll(sockets_and_wake.data(), sockets_and_wake.size(), left_ms);
    const bool woken = ready > 0 && sockets_and_wake.back().revents != 0;
    if (woken) wake.Clear();
    if (take()) return true;
    if (woken) return false;
    if (timeout_ms < 0) continue;
    // News may be of the connection only: the rest of the wait remains.
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    left_ms = static_cast<int>(left.count());
    if (left_ms <= 0) return false;
  }
}

class ZmqServer final : public ServerTransport {
 public:
  ~ZmqServer() override { socket_.Close(); }  // before its door

  Status Bind(TransportContext& context, const std::string& address, const ServerKeys* keys,
              OnRefused on_refused) {
    MF_RETURN_IF_ERROR(socket_.Open(context, ZMQ_ROUTER));
    if (keys != nullptr) {
      MF_ASSIGN_OR_RETURN(
          door_, ZapAuthenticator::Open(context, socket_.handle(), *keys, std::move(on_refused)));
    }
    if (zmq_bind(socket_.handle(), address.c_str()) != 0)
      return ZmqError("cannot listen on " + address);
    char last[256];
    size_t size = sizeof last;
    zmq_getsockopt(socket_.handle(), ZMQ_LAST_ENDPOINT, last, &size);
    address_ = last;
    polls_ = {PollOf(socket_), {wake_.fd(), POLLIN, 0}};
    return Status::Ok();
  }

  bool Receive(int timeout_ms, std::string* peer, Message* message) override {
    return TakeWithin(timeout_ms, polls_, wake_, [&] { return Take(peer, message); });
  }

  bool Send(const std::string& peer, const Message& message) override {
    const Frame identity(nullptr, peer.data(), peer.size());
    return socket_.SendFrame(identity, true) && socket_.SendFrames(message);
  }

  void Wake() override { wake_.Raise(); }
  const std::string& address() const override { return address_; }

 private:
  bool Take(std::string* peer, Message* message) {
    if (!socket_.ReceiveFrames(message) || message->empty()) return false;
    peer->assign(message->front().as<char>(), message->front().size());
    message->erase(message->begin());
    return true;
  }

  std::unique_ptr<ZapAuthenticator> door_;  // with keys
  Socket socket_;
  WakeSignal wake_;
  std::vector<pollfd> polls_;  // of socket_ and wake_
  std::string address_;
};

/// Counts the connections that a socket makes, by ZeroMQ's own events, and tells the log of those
/// that come to nothing.
class ConnectionCount {
 public:
  ConnectionCount() = default;
  ~ConnectionCount() {
    if (events_ != nullptr) zmq_close(events_);
  }
  ConnectionCount(ConnectionCount&& other) noexcept
      : events_(std::exchange(other.events_, nullptr)),
        count_(other.count_),
        address_(std::move(other.address_)) {}
  ConnectionCount& operator=(ConnectionCount&&) = delete;

  Status Watch(TransportContext& context, void* socket, const std::string& address) {
    static std::atomic<uint64_t> made{0};
    const std::string name = "inproc://connections-" + std::to_string(made.fetch_add(1));
    address_ = address;
    events_ = zmq_socket(context.handle(), ZMQ_PAIR);
    const int linger = 0;
    if (events_ == nullptr || zmq_setsockopt(events_, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_socket_monitor(socket, name.c_str(), kEvents) != 0 ||
        zmq_connect(events_, name.c_str()) != 0) {
      return ZmqError("cannot watch a connection");
    }
    return Status::Ok();
  }
  uint64_t count() {
    // An event is two messages: what happened with a number of 4 bytes, and the address.
    char event[256];
    bool first = true;
    int size = 0;
    while ((size = zmq_recv(events_, event, sizeof event, ZMQ_DONTWAIT)) >= 0) {
      uint16_t kind = 0;
      if (first && size >= static_cast<int>(sizeof kind)) {
        std::memcpy(&kind, event, sizeof kind);
        Take(kind);
      }
      int more = 0;
      size_t bytes = sizeof more;
      zmq_getsockopt(events_, ZMQ_RCVMORE, &more, &bytes);
      first = more == 0;
    }
    return count_;
  }

 private:
  static constexpr int kEvents =
      ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
      ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

  void Take(uint16_t kind) {
    if (kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
      ++count_;
      return;
    }
    // Once is enough for the log; the deadline ends it.
    if (said_) return;
    said_ = true;
    if (kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
      spdlog::warn("{} does not admit this key; add its line to the server's file of clients",
                   address_);
    } else {
      spdlog::warn(
          "{} breaks off the handshake: is --keys given on both sides, and server.pub that "
          "server's?",
          address_);
    }
  }

  void* events_ = nullptr;
  uint64_t count_ = 0;
  std::string address_;
  bool said_ = false;
};

class ZmqClient final : public ClientTransport {
 public:
  Status Connect(TransportContext& context, const std::vector<std::string>& addresses,
                 const ClientKeys* keys) {
    for (const std::string& address : addresses) {
      Socket socket;
      MF_RETURN_IF_ERROR(socket.Open(context, ZMQ_DEALER));
      connections_.emplace_back();
      if (keys != nullptr) MF_RETURN_IF_ERROR(UseClientKeys(socket.handle(), *keys));
      MF_RETURN_IF_ERROR(connections_.back().Watch(context, socket.handle(), address));
      if (zmq_connect(socket.handle(), address.c_str()) != 0) {
        return ZmqError("cannot connect to " + address);
      }
      sockets_.push_back(std::move(socket));
      polls_.push_back(PollOf(sockets_.back()));
    }
    polls_.push_back({wake_.fd(), POLLIN, 0});
    return Status::Ok();
  }

  /// Round robin, so that a busy server does not starve the others.
  bool Receive(size_t* server, Message* message) override {
    for (size_t i = 0; i < sockets_.size(); ++i) {
      const size_t candidate = (next_ + i) % sockets_.size();
      if (sockets_[candidate].ReceiveFrames(message)) {
        *server = candidate;
        next_ = candidate + 1;
        return true;
      }
    }
    return false;
  }

  bool Send(size_t server, const Message& message) override {
    return sockets_[server].SendFrames(message);
  }

  void Wait(int timeout_ms) override {
    if (poll(polls_.data(), polls_.size(), timeout_ms) > 0 && polls_.back().revents != 0) {
      wake_.Clear();
    }
  }

  void Wake() override { wake_.Raise(); }
  uint64_t Connections(size_t server) override { return connections_[server].count(); }

 private:
  std::vector<Socket> sockets_;
  std::vector<ConnectionCount> connections_;  // after what they watch: closed first
  std::vector<pollfd> polls_;                 // in that order, then wake_; used by Wait() only
  WakeSignal wake_;
  size_t next_ = 0;
};

/// ZeroMQ takes the memory of every frame that arrives from malloc, which by itself gives large
/// blocks back to the system at once: each would fault in its pages anew.
void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most it takes; larger frames are mapped
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 64 << 20);  // or threads but the first give their empty heaps back
}

}  // namespace

TransportContext::TransportContext() : handle_(zmq_ctx_new()) {
  MF_CHECK(handle_ != nullptr);
  KeepFreedMemory();
}
TransportContext::~TransportContext() { zmq_ctx_term(handle_); }

Result<std::unique_ptr<ServerTransport>> BindZmq(TransportContext& context,
                                                 const std::string& address, const ServerKeys* keys,
                                                 OnRefused on_refused) {
  auto server = std::make_unique<ZmqServer>();
  MF_RETURN_IF_ERROR(server->Bind(context, address, keys, std::move(on_refused)));
  return std::unique_ptr<ServerTransport>(std::move(server));
}

Result<std::unique_ptr<ClientTransport>> ConnectZmq(TransportContext& context,
                                                    const std::vector<std::string>& addresses,
                                                    const ClientKeys* keys) {
  auto client = std::make_unique<ZmqClient>();
  MF_RETURN_IF_ERROR(client->Connect(context, addresses, keys));
  return std::unique_ptr<ClientTransport>(std::move(client));
}

}  // namespace mf
