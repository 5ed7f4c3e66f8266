// Sockets of ZeroMQ; beside it only zmq_curve.cpp knows the library.
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>

#include "common/base/address.h"
#include "common/base/buffer_pool.h"
#include "common/base/check.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/net/transport.h"
#include "common/net/unread_replies.h"
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
// Of a context: three for each server that a client is connected to. libzmq's 1023 are 341 servers.
constexpr int kSocketsMax = 16'384;
constexpr int kThreads = 4;        // of libzmq, started with the first socket, and of our own
constexpr int kFiles = 12;         // of libzmq and of the first socket
constexpr int kServerFiles = 4;    // of a connection to a server
constexpr size_t kFramesMax = 16;  // no operation has more
constexpr size_t kCopyBytesMax = UnreadReplies::kCopied;  // a copy is cheaper than sharing
constexpr uint64_t kUnreadPart = 8;  // of the memory: an eighth, for replies that nobody reads

using Owner = std::shared_ptr<const void>;

void ReleaseOwner(void*, void* hint) {
  AcquireFromPeer();
  auto* owner = static_cast<Owner*>(hint);
  owner->~Owner();
  PoolAllocator<Owner>().deallocate(owner, 1);
}

/// A zmq message that shares the frame's bytes (or copies a few). std::bad_alloc if there is no
/// memory for it.
void InitMessage(zmq_msg_t* out, const Frame& frame) {
  if (frame.size() <= kCopyBytesMax) {
    if (zmq_msg_init_size(out, frame.size()) != 0) throw std::bad_alloc();
    if (frame.size() > 0) std::memcpy(zmq_msg_data(out), frame.data(), frame.size());
    return;
  }
  auto* owner = new (PoolAllocator<Owner>().allocate(1)) Owner(frame.owner());
  if (zmq_msg_init_data(out, const_cast<std::byte*>(frame.data()), frame.size(), &ReleaseOwner,
                        owner) == 0) {
    return;
  }
  ReleaseOwner(nullptr, owner);
  throw std::bad_alloc();
}

/// The frames of a message, all of them made before the first one is sent: memory that ends
/// half-way must not leave half a message in the socket, which the next one would become a part of.
class Outgoing {
 public:
  /// For so many frames.
  explicit Outgoing(size_t count) { frames_.reserve(count); }
  ~Outgoing() {
    for (size_t i = sent_; i < frames_.size(); ++i) zmq_msg_close(&frames_[i]);
  }
  Outgoing(const Outgoing&) = delete;

  void Add(const Frame& frame) {
    MF_CHECK(frames_.size() < frames_.capacity());  // they must not move
    zmq_msg_t made;
    InitMessage(&made, frame);
    zmq_msg_init(&frames_.emplace_back());
    zmq_msg_move(&frames_.back(), &made);
  }
  /// False if the peer is gone or does not take it.
  bool Send(void* socket) {
    ReleaseToPeer();
    while (sent_ < frames_.size()) {
      const int flags = ZMQ_DONTWAIT | (sent_ + 1 < frames_.size() ? ZMQ_SNDMORE : 0);
      if (zmq_msg_send(&frames_[sent_], socket, flags) >= 0) {
        ++sent_;
      } else if (zmq_errno() != EINTR) {
        return false;
      }
    }
    return true;
  }

 private:
  std::vector<zmq_msg_t, PoolAllocator<zmq_msg_t>> frames_;
  size_t sent_ = 0;
};

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
    MF_RETURN_IF_ERROR(Set(ZMQ_LINGER, 0));
    MF_RETURN_IF_ERROR(Set(ZMQ_SNDHWM, kHighWaterMark));
    MF_RETURN_IF_ERROR(Set(ZMQ_RCVHWM, kHighWaterMark));
    MF_RETURN_IF_ERROR(Set(ZMQ_HEARTBEAT_IVL, kHeartbeatMs));
    MF_RETURN_IF_ERROR(Set(ZMQ_MAXMSGSIZE, kMessageBytesMax));
    return type == ZMQ_ROUTER ? Set(ZMQ_ROUTER_MANDATORY, 1) : Status::Ok();
  }

  /// `identity`: of the peer, where the socket has several.
  bool Send(const Message& message, const Frame* identity = nullptr) {
    Outgoing outgoing(message.size() + 1);
    if (identity != nullptr) outgoing.Add(*identity);
    for (const Frame& frame : message) outgoing.Add(frame);
    return outgoing.Send(handle_);
  }

  /// All frames of the next message; false if there is none. Frames above kFramesMax are dropped,
  /// which the checks of the receiver then refuse. std::bad_alloc if there is no memory for it:
  /// then it is gone, and the next one is the next.
  bool ReceiveFrames(Message* out) {
    out->clear();
    bool more = true, out_of_memory = false;
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
      try {
        if (!out_of_memory && out->size() <= kFramesMax) out->push_back(TakeFrame(&message));
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
      zmq_msg_close(&message);
    }
    if (out_of_memory) throw std::bad_alloc();
    return true;
  }

  void* handle() const { return handle_; }
  /// Before it is bound or connected to an address of IPv6, and of nothing else: with this, libzmq
  /// speaks IPv4 in IPv6's clothes only.
  Status UseIpv6() { return Set(ZMQ_IPV6, 1); }

 private:
  template <class Value>
  Status Set(int option, const Value& value) {
    if (zmq_setsockopt(handle_, option, &value, sizeof value) == 0) return Status::Ok();
    return ZmqError("cannot set option " + std::to_string(option) + " of a socket");
  }
  void* handle_ = nullptr;
};

/// An eventfd that ends a poll from another thread.
class WakeSignal {
 public:
  WakeSignal() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~WakeSignal() {
    if (fd_ >= 0) close(fd_);
  }
  WakeSignal(const WakeSignal&) = delete;
  Status status() const {
    return fd_ >= 0 ? Status::Ok() : Status::Failed("cannot open an eventfd; raise ulimit -n");
  }
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
    MF_RETURN_IF_ERROR(wake_.status());
    MF_RETURN_IF_ERROR(socket_.Open(context, ZMQ_ROUTER));
    if (address.starts_with("tcp://[")) MF_RETURN_IF_ERROR(socket_.UseIpv6());
    if (keys != nullptr || address.starts_with("tcp://")) {
      MF_ASSIGN_OR_RETURN(door_,
                          ServerDoor::Open(context, socket_.handle(), keys, std::move(on_refused)));
    }
    if (zmq_bind(socket_.handle(), address.c_str()) != 0) {
      if (zmq_errno() != EADDRNOTAVAIL && zmq_errno() != EAFNOSUPPORT)
        return ZmqError("cannot listen on " + address);
      return Status::Invalid("cannot listen on " + address + ": " + zmq_strerror(zmq_errno()) +
                             "; give an address of this machine, or 0.0.0.0 for all of them");
    }
    char last[256];
    size_t size = sizeof last;
    zmq_getsockopt(socket_.handle(), ZMQ_LAST_ENDPOINT, last, &size);
    address_ = last;
    if (address_.starts_with("tcp://")) {
      unread_ = std::make_unique<UnreadReplies>(MemoryLimitBytes() / kUnreadPart);
    }
    polls_ = {PollOf(socket_), {wake_.fd(), POLLIN, 0}};
    return Status::Ok();
  }

  bool Receive(int timeout_ms, std::string* peer, Message* message) override {
    return TakeWithin(timeout_ms, polls_, wake_, [&] { return Take(peer, message); });
  }

  bool Send(const std::string& peer, const Message& message) override {
    const Frame identity(nullptr, peer.data(), peer.size());
    if (unread_ == nullptr) return socket_.Send(message, &identity);
    const Message counted = unread_->Count(peer, message);
    return !counted.empty() && socket_.Send(counted, &identity);
  }

  bool HasRoomFor(const std::string& peer) override {
    return unread_ == nullptr || unread_->HasRoomFor(peer);
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

  std::unique_ptr<ServerDoor> door_;  // of tcp
  Socket socket_;
  WakeSignal wake_;
  std::vector<pollfd> polls_;  // of socket_ and wake_
  std::string address_;
  std::unique_ptr<UnreadReplies> unread_;  // of tcp
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
          "server's? Or has it no room for more connections (its log says so)?",
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
    MF_RETURN_IF_ERROR(wake_.status());
    for (const std::string& address : addresses) {
      Socket socket;
      MF_RETURN_IF_ERROR(socket.Open(context, ZMQ_DEALER));
      if (address.starts_with("tcp://")) {
        MF_ASSIGN_OR_RETURN(const Address server,
                            ParseTcp("server", address, AddressUse::kConnect));
        const Reach reach = ReachOf(server);
        if (reach.ipv6_only) MF_RETURN_IF_ERROR(socket.UseIpv6());
        if (!reach.unknown.empty()) {
          spdlog::warn("{}: {} is not known here ({}); it is looked up again until it is", address,
                       server.host, reach.unknown);
        }
      }
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
    return sockets_[server].Send(message);
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
  mallopt(M_TOP_PAD, 64 << 20);  // grown rarely: untouched pages cost nothing
}

/// libzmq aborts where it gets no thread or no descriptor.
Status CheckRoom(size_t connections) {
  MF_RETURN_IF_ERROR(CheckThreads(kThreads));
  return CheckOpenFiles(kFiles + kServerFiles * static_cast<int>(connections));
}

}  // namespace

TransportContext::TransportContext() : handle_(zmq_ctx_new()) {
  MF_CHECK(handle_ != nullptr);
  zmq_ctx_set(handle_, ZMQ_MAX_SOCKETS, kSocketsMax);
  KeepFreedMemory();
}
TransportContext::~TransportContext() { zmq_ctx_term(handle_); }

Result<std::unique_ptr<ServerTransport>> BindZmq(TransportContext& context,
                                                 const std::string& address, const ServerKeys* keys,
                                                 OnRefused on_refused) {
  MF_RETURN_IF_ERROR(CheckRoom(1));
  auto server = std::make_unique<ZmqServer>();
  MF_RETURN_IF_ERROR(server->Bind(context, address, keys, std::move(on_refused)));
  return std::unique_ptr<ServerTransport>(std::move(server));
}

Result<std::unique_ptr<ClientTransport>> ConnectZmq(TransportContext& context,
                                                    const std::vector<std::string>& addresses,
                                                    const ClientKeys* keys) {
  MF_RETURN_IF_ERROR(CheckRoom(addresses.size()));
  auto client = std::make_unique<ZmqClient>();
  MF_RETURN_IF_ERROR(client->Connect(context, addresses, keys));
  return std::unique_ptr<ClientTransport>(std::move(client));
}

}  // namespace mf
