#include "common/net/zmq_curve.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "common/base/logging.h"

namespace mf {
namespace {

constexpr const char* kZapAddress = "inproc://zeromq.zap.01";  // where libzmq asks, RFC 27
constexpr const char* kZapDomain = "memoryformer";
// Answers to libzmq. A client that is refused does not come back; one that shall try again does, so
// a list that is being edited costs nobody his place.
constexpr const char *kAdmit = "200", *kTryAgain = "300", *kRefuse = "400";
constexpr int kHandshakeMs =
    5000;  // less than libzmq's 30 s: strangers hold descriptors and memory
constexpr size_t kRawKeyBytes = 32;
constexpr size_t kZ85KeyBytes = 41;  // with the terminating zero
constexpr size_t kFrameBytesMax = 255;
constexpr auto kQuiet = std::chrono::seconds(10);
constexpr rlim_t kReserve = 64;      // descriptors that are not for connections: of files,
constexpr rlim_t kReserveShare = 4;  // but not more than this part of all
constexpr int kEvents = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                        ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_DISCONNECTED;

Status NeedCurve() {
  if (zmq_has("curve") != 0) return Status::Ok();
  return Status::Failed(
      "this libzmq was built without CURVE, so keys cannot be used; install one with it (Debian's "
      "libzmq5 has it)");
}

Status SetKey(void* socket, int option, const std::string& key) {
  if (zmq_setsockopt(socket, option, key.c_str(), kZ85KeyBytes) == 0) return Status::Ok();
  return Status::Invalid(
      "keys: what stands where a key is due is none (Z85 of 32 bytes)");  // may be a secret
}

/// All frames of one message that has arrived; false if there is none. Long frames are cut.
bool ReceiveAll(void* socket, std::vector<std::string>* frames) {
  frames->clear();
  int more = 1;
  while (more != 0) {
    std::array<char, kFrameBytesMax> frame;
    const int bytes = zmq_recv(socket, frame.data(), frame.size(), ZMQ_DONTWAIT);
    if (bytes < 0) return false;
    frames->emplace_back(frame.data(), std::min<size_t>(static_cast<size_t>(bytes), frame.size()));
    size_t size = sizeof more;
    zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size);
  }
  return true;
}

}  // namespace

Status ZmqError(const std::string& what) {
  return Status::Failed(what + ": " + zmq_strerror(zmq_errno()));
}

Result<KeyPair> NewKeyPair() {
  MF_RETURN_IF_ERROR(NeedCurve());
  std::array<char, kZ85KeyBytes> public_key, secret_key;
  if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
    return ZmqError("cannot make keys");
  }
  return KeyPair{public_key.data(), secret_key.data()};
}

Status UseClientKeys(void* socket, const ClientKeys& keys) {
  MF_RETURN_IF_ERROR(NeedCurve());
  MF_RETURN_IF_ERROR(SetKey(socket, ZMQ_CURVE_SERVERKEY, keys.server_public_key));
  MF_RETURN_IF_ERROR(SetKey(socket, ZMQ_CURVE_PUBLICKEY, keys.own.public_key));
  return SetKey(socket, ZMQ_CURVE_SECRETKEY, keys.own.secret_key);
}

Result<std::unique_ptr<ServerDoor>> ServerDoor::Open(TransportContext& context, void* socket,
                                                     const ServerKeys* keys, OnRefused on_refused) {
  std::unique_ptr<ServerDoor> door(new ServerDoor);
  door->on_refused_ = std::move(on_refused);
  door->stop_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (door->stop_ < 0) {
    return Status::Failed("cannot watch the server's socket: " + std::string(std::strerror(errno)) +
                          "; raise ulimit -n");
  }
  if (keys != nullptr) MF_RETURN_IF_ERROR(door->UseKeys(context, socket, *keys));
  static std::atomic<uint64_t> made{0};
  const std::string events = "inproc://door-" + std::to_string(made.fetch_add(1));
  const int none = 0;
  door->events_ = zmq_socket(context.handle(), ZMQ_PAIR);
  if (door->events_ == nullptr ||
      zmq_setsockopt(door->events_, ZMQ_LINGER, &none, sizeof none) != 0 ||
      zmq_socket_monitor(socket, events.c_str(), kEvents) != 0 ||
      zmq_connect(door->events_, events.c_str()) != 0) {
    return ZmqError("cannot watch the server's socket");
  }
  try {
    door->thread_ = std::thread([door = door.get()] { door->Run(); });
  } catch (const std::system_error& error) {
    return Status::Failed("cannot start a thread: " + error.code().message() + "; raise ulimit -u");
  }
  return door;
}

Status ServerDoor::UseKeys(TransportContext& context, void* socket, const ServerKeys& keys) {
  MF_RETURN_IF_ERROR(NeedCurve());
  clients_file_ = keys.clients_file;
  const int one = 1, none = 0;
  // The handler stands before the socket is bound: without one, libzmq admits everybody.
  zap_ = zmq_socket(context.handle(), ZMQ_REP);
  if (zap_ == nullptr || zmq_setsockopt(zap_, ZMQ_LINGER, &none, sizeof none) != 0 ||
      zmq_bind(zap_, kZapAddress) != 0) {
    return ZmqError("cannot check the keys of clients");
  }
  MF_RETURN_IF_ERROR(SetKey(socket, ZMQ_CURVE_SECRETKEY, keys.own.secret_key));
  if (zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &one, sizeof one) != 0 ||
      zmq_setsockopt(socket, ZMQ_HANDSHAKE_IVL, &kHandshakeMs, sizeof kHandshakeMs) != 0 ||
      zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, kZapDomain, std::strlen(kZapDomain)) != 0) {
    return ZmqError("cannot use keys");
  }
  return Status::Ok();
}

ServerDoor::~ServerDoor() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(stop_, &one, sizeof one);
    thread_.join();
  }
  for (void* socket : {zap_, events_}) {
    if (socket != nullptr) zmq_close(socket);
  }
  if (stop_ >= 0) close(stop_);
}

void ServerDoor::Run() {
  std::array<zmq_pollitem_t, 3> items = {
      {{nullptr, stop_, ZMQ_POLLIN, 0}, {events_, 0, ZMQ_POLLIN, 0}, {zap_, 0, ZMQ_POLLIN, 0}}};
  const int count = zap_ == nullptr ? 2 : 3;
  while (true) {
    zmq_poll(items.data(), count, -1);
    if (items[0].revents != 0) return;
    if (items[1].revents != 0) TakeEvents();
    if (items[2].revents != 0) AnswerZap();
  }
}

/// One question of libzmq's: version, request id, domain, address, identity, mechanism, key.
void ServerDoor::AnswerZap() {
  std::vector<std::string> question;
  if (!ReceiveAll(zap_, &question)) return;
  const bool sound = question.size() == 7 && question[0] == "1.0" && question[2] == kZapDomain &&
                     question[5] == "CURVE";
  const std::string id = question.size() > 1 ? question[1] : "";
  const char* verdict = sound ? Judge(question[6]) : kRefuse;
  const std::array<std::string, 6> answer = {
      "1.0", id, verdict, verdict == kAdmit ? "" : "not on the list of clients", "", ""};
  for (size_t i = 0; i < answer.size(); ++i) {
    zmq_send(zap_, answer[i].data(), answer[i].size(), i + 1 < answer.size() ? ZMQ_SNDMORE : 0);
  }
}

const char* ServerDoor::Judge(std::string_view raw_key) {
  if (raw_key.size() != kRawKeyBytes) return kRefuse;
  std::array<char, kZ85KeyBytes> key;
  zmq_z85_encode(key.data(), reinterpret_cast<const uint8_t*>(raw_key.data()), kRawKeyBytes);
  auto clients = ReadClients(clients_file_);
  if (clients.ok() && clients->contains(key.data())) return kAdmit;
  if (MaySpeak()) {
    if (clients.ok()) {
      spdlog::warn("refused a client: its key {} is not in {}", key.data(), clients_file_);
    } else {
      spdlog::error("nobody is admitted: {}", clients.status().message());
    }
  }
  return clients.ok() ? kRefuse : kTryAgain;
}

bool ServerDoor::MaySpeak() {
  const auto now = std::chrono::steady_clock::now();
  if (now < quiet_until_) return false;
  quiet_until_ = now + kQuiet;
  return true;
}

bool ServerDoor::NoRoomFor(uint32_t descriptor) {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY) return false;
  // The lowest free number is given out, so a high one says that most are taken.
  const rlim_t reserve = std::min(kReserve, files.rlim_cur / kReserveShare);
  if (descriptor < files.rlim_cur - reserve) return false;
  // libzmq sees its end and closes it. Should the number be another's by now, that is one of the
  // last, too, and files do not care.
  shutdown(static_cast<int>(descriptor), SHUT_RDWR);
  if (MaySpeak()) {
    spdlog::warn(
        "no room for more connections: {} open files are allowed (ulimit -n), {} of them "
        "are kept for files; clients try again by themselves",
        files.rlim_cur, reserve);
  }
  if (on_refused_) on_refused_("descriptors");
  return true;
}

void ServerDoor::TakeEvents() {
  std::vector<std::string> frames;  // what happened (u16) and to which descriptor (u32); an address
  while (ReceiveAll(events_, &frames)) {
    uint16_t event = 0;
    uint32_t descriptor = 0;
    if (frames[0].size() != sizeof event + sizeof descriptor) continue;
    std::memcpy(&event, frames[0].data(), sizeof event);
    std::memcpy(&descriptor, frames[0].data() + sizeof event, sizeof descriptor);
    TakeEvent(event, descriptor);
  }
}

void ServerDoor::TakeEvent(uint16_t event, uint32_t descriptor) {
  if (event == ZMQ_EVENT_ACCEPTED && NoRoomFor(descriptor)) return;
  if (zap_ != nullptr) TakeKeyEvent(event, descriptor);
}

/// What is no ZeroMQ at all ends without an event of its own, so a connection that ends before it
/// was admitted counts as refused. The events of a handshake do not say whose it was: the newest
/// connection's, as an honest one takes milliseconds. Should two of them overlap, it is counted
/// when the other one ends.
void ServerDoor::TakeKeyEvent(uint16_t event, uint32_t descriptor) {
  if (event == ZMQ_EVENT_ACCEPTED) {
    waiting_.push_back(descriptor);
  } else if (event == ZMQ_EVENT_DISCONNECTED) {
    const auto found = std::find(waiting_.begin(), waiting_.end(), descriptor);
    if (found == waiting_.end()) return;
    waiting_.erase(found);
    if (on_refused_) on_refused_("handshake");
  } else if (!waiting_.empty()) {
    waiting_.pop_back();
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH && on_refused_) on_refused_("unknown_key");
  }
}

}  // namespace mf
