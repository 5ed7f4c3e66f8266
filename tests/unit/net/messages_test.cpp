// Goal: every message comes back as it was sent, with every field of every operation set to values
// that are drawn at random; headers that were cut off, changed or made up are refused or read,
// never a crash.
#include "common/net/messages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <string>
#include <type_traits>
#include <utility>

#include "tests/support/fields.h"
#include "tests/support/frames.h"

namespace mf {
namespace {

/// Sets whatever it is given to a value that is not the default.
class Filler {
 public:
  explicit Filler(uint64_t seed) : random_(seed) {}

  void Fill(bool& value) { value = true; }
  void Fill(uint32_t& value) { value = static_cast<uint32_t>(NotZero()); }
  void Fill(uint64_t& value) { value = NotZero(); }
  void Fill(double& value) {
    // Any bits that are a number.
    uint64_t bits = NotZero() & ~(uint64_t{0x7FF} << 52);
    bits |= (random_() % 0x7FF) << 52;
    std::memcpy(&value, &bits, sizeof(value));
  }
  void Fill(std::string& value) {
    value.resize(1 + random_() % 100);
    for (char& c : value) c = static_cast<char>(random_());  // zeros, quotes, broken UTF-8
  }
  void Fill(Work& value) { value = static_cast<Work>(1 + random_() % 6); }
  void Fill(SnapshotDue& value) { value = static_cast<SnapshotDue>(1 + random_() % 2); }
  void Fill(ReadState& value) {
    if (random_() % 2 == 0) {
      Fill(value.emplace<OpenStep>());
    } else {
      Fill(value.emplace<FinishedStep>());
    }
  }
  template <class T>
  void Fill(std::vector<T>& values) {
    values.resize(1 + random_() % 5);
    for (T& value : values) Fill(value);
  }
  template <class T>
  requires std::is_aggregate_v<T>
  void Fill(T& body) {
    ForEachField(body, [this](auto& field) { this->Fill(field); });
  }
  uint64_t Draw() { return random_(); }

 private:
  uint64_t NotZero() { return random_() | uint64_t{1} << (random_() % 32); }
  std::mt19937_64 random_;
};

/// One of each alternative of a variant, filled.
template <class Variant, size_t first>
std::vector<Variant> FilledBodies(Filler& filler) {
  std::vector<Variant> bodies;
  [&]<size_t... i>(std::index_sequence<i...>) {
    ((bodies.emplace_back(std::in_place_index<i + first>),
      filler.Fill(std::get<i + first>(bodies.back()))),
     ...);
  }
  (std::make_index_sequence<std::variant_size_v<Variant> - first>());
  return bodies;
}

void ExpectSame(const Frames& a, const Frames& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(Same(a[i], b[i])) << i;
}

TEST(Messages, EveryRequestRoundTrips) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Filler filler(seed);
    for (const RequestBody& body : FilledBodies<RequestBody, 0>(filler)) {
      const Request sent{.id = filler.Draw(),
                         .session = filler.Draw(),
                         .body = body,
                         .payload = {Bytes(3, 1), Frame(), Bytes(1000, 2)}};
      Result<Request> received = DecodeRequest(Encode(sent));
      ASSERT_TRUE(received.ok()) << OpName(sent.op()) << ": " << received.status().message();
      EXPECT_EQ(received->id, sent.id);
      EXPECT_EQ(received->session, sent.session);
      EXPECT_TRUE(received->body == sent.body) << OpName(sent.op()) << ", seed " << seed;
      ExpectSame(received->payload, sent.payload);
      EXPECT_EQ(received->payload[2].data(), sent.payload[2].data()) << "shared, not copied";
    }
  }
}

TEST(Messages, EveryReplyRoundTrips) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Filler filler(seed);
    for (const ReplyBody& body : FilledBodies<ReplyBody, 1>(filler)) {
      const Op op = static_cast<Op>(body.index() - 1);
      const Reply sent{.id = filler.Draw(),
                       .op = op,
                       .incarnation = filler.Draw(),
                       .body = body,
                       .payload = {Bytes(17, 3)}};
      Result<Reply> received = DecodeReply(Encode(sent));
      ASSERT_TRUE(received.ok()) << OpName(op) << ": " << received.status().message();
      EXPECT_EQ(received->id, sent.id);
      EXPECT_EQ(received->code, Code::kOk);
      EXPECT_EQ(received->incarnation, sent.incarnation);
      EXPECT_TRUE(received->body == sent.body) << OpName(op) << ", seed " << seed;
      EXPECT_TRUE(Answers(*received, op));
      ExpectSame(received->payload, sent.payload);
    }
  }
}

TEST(Messages, EveryErrorRoundTrips) {
  for (int code = 1; code < kCodeCount; ++code) {
    const Reply sent{.id = 7,
                     .code = static_cast<Code>(code),
                     .message = "what, where, what to do",
                     .incarnation = 9};
    Result<Reply> received = DecodeReply(Encode(sent));
    ASSERT_TRUE(received.ok()) << received.status().message();
    EXPECT_EQ(received->code, sent.code);
    EXPECT_EQ(received->message, sent.message);
    EXPECT_EQ(received->id, sent.id);
    EXPECT_EQ(received->incarnation, sent.incarnation);
    for (int op = 0; op < kOpCount; ++op) EXPECT_FALSE(Answers(*received, static_cast<Op>(op)));
  }
}

// Goal: empty messages, too; and every operation has a name of its own.
TEST(Messages, EmptyOnesRoundTripAndHaveNames) {
  std::set<std::string> names;
  [&]<size_t... i>(std::index_sequence<i...>) {
    const auto check = [&](RequestBody body) {
      const Request sent{.body = std::move(body)};
      Result<Request> received = DecodeRequest(Encode(sent));
      ASSERT_TRUE(received.ok());
      EXPECT_TRUE(received->body == sent.body) << OpName(sent.op());
      names.insert(OpName(sent.op()));
    };
    (check(RequestBody(std::in_place_index<i>)), ...);
  }
  (std::make_index_sequence<kOpCount>());
  EXPECT_EQ(names.size(), static_cast<size_t>(kOpCount));
}

TEST(Messages, AnyHeaderIsReadOrRefused) {
  EXPECT_FALSE(DecodeRequest({}).ok());
  EXPECT_FALSE(DecodeReply({Frame()}).ok());
  Filler filler(1);
  std::vector<Frame> headers;
  for (const RequestBody& body : FilledBodies<RequestBody, 0>(filler)) {
    headers.push_back(Encode(Request{.body = body})[0]);
  }
  for (const ReplyBody& body : FilledBodies<ReplyBody, 1>(filler)) {
    headers.push_back(Encode(Reply{.body = body})[0]);
  }
  headers.push_back(Encode(Reply{.code = Code::kFailed, .message = "text"})[0]);
  size_t refused = 0;
  for (const Frame& header : headers) {
    for (size_t size = 0; size < header.size(); ++size) {
      EXPECT_FALSE(DecodeRequest({Frame(header.owner(), header.data(), size)}).ok()) << size;
      EXPECT_FALSE(DecodeReply({Frame(header.owner(), header.data(), size)}).ok()) << size;
    }
  }
  for (int i = 0; i < 40'000; ++i) {
    Frame frame;
    if (i % 4 == 0) {
      frame = Bytes(8 * (1 + filler.Draw() % 40), filler.Draw());
    } else {
      const Frame& header = headers[filler.Draw() % headers.size()];
      Buffer copy(header.size());
      std::memcpy(copy.data(), header.data(), header.size());
      for (uint64_t changes = 1 + filler.Draw() % 6; changes > 0; --changes) {
        // The first words hold the segment table and the pointers: there it hurts most.
        const size_t at =
            filler.Draw() %
            (filler.Draw() % 2 == 0 ? std::min<size_t>(24, copy.size()) : copy.size());
        copy.data()[at] = static_cast<std::byte>(filler.Draw());
      }
      frame = copy;
    }
    const Result<Request> request = DecodeRequest({frame});
    const Result<Reply> reply = DecodeReply({frame});
    refused += !request.ok() + !reply.ok();
    EXPECT_TRUE(!request.ok() || static_cast<int>(request.value().op()) < kOpCount);
  }
  EXPECT_GT(refused, 20'000u);
  EXPECT_FALSE(DecodeRequest({Bytes((8 << 20) + 8, 3)}).ok());
}

}  // namespace
}  // namespace mf
