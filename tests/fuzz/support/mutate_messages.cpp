// How libFuzzer changes scripts of messages: whole messages, single fields of a request, bytes of a
// frame. With changes of bytes alone nearly every input would be one that does not parse.
#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "common/net/messages.h"
#include "tests/fuzz/support/message_script.h"
#include "tests/support/fields.h"
#include "tests/support/request_fields.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace mf::fuzz {
namespace {

using Random = std::minstd_rand;

size_t Below(Random& random, size_t limit) { return random() / 8 % limit; }

std::string MutateBytes(const std::string& bytes, size_t grow) {
  std::string changed = bytes;
  changed.resize(bytes.size() + grow);
  const size_t size =
      LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(changed.data()), bytes.size(), changed.size());
  changed.resize(size);
  return changed;
}

// One for each type of a field. Steps and epochs are small or near the end of their range.
template <class Unsigned>
void ChangeNumber(Unsigned& value, Random& random) {
  constexpr uint64_t kEpoch = uint64_t{1} << 32;
  const uint64_t choices[] = {0,
                              1,
                              2,
                              3,
                              4,
                              5,
                              8,
                              1 << 20,
                              kEpoch | 1,
                              kEpoch | 2,
                              kEpoch | 3,
                              uint64_t{1} << 63,
                              std::numeric_limits<uint64_t>::max(),
                              uint64_t{value} + 1,
                              uint64_t{value} - 1,
                              random()};
  value = static_cast<Unsigned>(choices[Below(random, std::size(choices))]);
}
void Change(uint32_t& value, Random& random) { ChangeNumber(value, random); }
void Change(uint64_t& value, Random& random) { ChangeNumber(value, random); }
void Change(bool& value, Random&) { value = !value; }
void Change(double& value, Random& random) {
  const double choices[] = {0,
                            -1,
                            1,
                            0.5,
                            1e-3,
                            1e300,
                            -1e300,
                            3.5e38,
                            std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::infinity(),
                            std::numeric_limits<double>::denorm_min()};
  value = choices[Below(random, std::size(choices))];
}
void Change(std::string& text, Random&) { text = MutateBytes(text, 16); }
void Change(std::vector<uint64_t>& values, Random& random) {
  if (values.empty() || Below(random, 3) == 0) {
    values.resize(Below(random, 4));
  }
  for (uint64_t& value : values) Change(value, random);
}
template <class Step>
requires requires(Step step) { step.epoch; }
void Change(Step& at, Random& random) {
  Change(Below(random, 4) == 0 ? at.epoch : at.step, random);
}
void Change(ReadState& at, Random& random) {
  if (Below(random, 3) == 0) {
    if (IsTraining(at)) {
      at = FinishedStepOf(at);
    } else {
      at = OpenStepOf(at);
    }
  } else {
    std::visit([&](auto& step) { Change(step, random); }, at);
  }
}
void Change(SnapshotPlan& plan, Random& random) {
  const size_t which = Below(random, 3);
  if (which == 0) Change(plan.take, random);
  if (which == 1) Change(plan.common, random);
  if (which == 2) Change(plan.discard, random);
}

/// Changes one field of a request.
void ChangeField(Request& request, Random& random) {
  std::visit(
      [&](auto& body) {
        using Body = std::remove_reference_t<decltype(body)>;
        if constexpr (kFieldCount < Body >> 0) {
          size_t left = Below(random, kFieldCount<Body>);
          ForEachField(body, [&](auto& field) {
            if (left-- == 0) Change(field, random);
          });
        }
      },
      request.body);
}

ScriptMessage NewMessage(Random& random) {
  Request request{.id = random(), .body = EmptyRequest(static_cast<Op>(Below(random, kOpCount)))};
  for (size_t i = Below(random, 6); i > 0; --i) ChangeField(request, random);
  return MessageOf(Encode(request));
}

void ChangeMessage(ScriptMessage& message, Random& random) {
  Result<Request> request = DecodeRequest(FramesOf(message));
  if (!request.ok() || Below(random, 4) == 0) {
    if (message.frames.empty()) message.frames.emplace_back();
    std::string& frame = message.frames[Below(random, message.frames.size())];
    frame = MutateBytes(frame, 64);
    return;
  }
  ChangeField(*request, random);
  const uint8_t control = message.control;
  message = MessageOf(Encode(*request), control);
}

void ChangeScript(Script& script, Random& random) {
  std::vector<ScriptMessage>& messages = script.messages;
  if (messages.empty()) messages.push_back(NewMessage(random));
  const auto at = [&] {
    return messages.begin() + static_cast<ptrdiff_t>(Below(random, messages.size()));
  };
  switch (Below(random, 12)) {
    case 0:
      messages.erase(at());
      break;
    case 1: {
      const ScriptMessage copy = *at();
      messages.insert(at(), copy);
      break;
    }
    case 2:
      std::iter_swap(at(), at());
      break;
    case 3:
    case 4:
      messages.insert(at(), NewMessage(random));
      break;
    case 5:
      at()->control ^= static_cast<uint8_t>(1 << Below(random, 8));
      break;
    case 6:
      script.setting ^= static_cast<uint8_t>(1 << Below(random, 5));
      break;
    case 7: {
      std::vector<std::string>& frames = at()->frames;
      if (frames.size() > 1 && Below(random, 2) == 0) {
        frames.pop_back();
      } else {
        frames.emplace_back(Below(random, 200), '\0');
      }
      break;
    }
    default:
      ChangeMessage(*at(), random);
  }
}

/// The script's bytes in `data`; 0, so that the input is thrown away, if they are too many.
size_t Store(const Script& script, uint8_t* data, size_t max_size) {
  const std::string text = ScriptText(script);
  if (text.size() > max_size) return 0;
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

std::string_view View(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace
}  // namespace mf::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using namespace mf::fuzz;
  Random random(seed);
  if (Below(random, 20) == 0) return LLVMFuzzerMutate(data, size, max_size);
  Script script = ParseScript(View(data, size));
  ChangeScript(script, random);
  while (Below(random, 3) == 0) ChangeScript(script, random);
  return Store(script, data, max_size);
}

/// The beginning of one script, then the end of another.
extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* first, size_t first_size,
                                            const uint8_t* second, size_t second_size, uint8_t* out,
                                            size_t max_size, unsigned seed) {
  using namespace mf::fuzz;
  Random random(seed);
  Script script = ParseScript(View(first, first_size));
  const Script other = ParseScript(View(second, second_size));
  script.messages.resize(Below(random, script.messages.size() + 1));
  const size_t from = Below(random, other.messages.size() + 1);
  script.messages.insert(script.messages.end(),
                         other.messages.begin() + static_cast<ptrdiff_t>(from),
                         other.messages.end());
  return Store(script, out, max_size);
}
