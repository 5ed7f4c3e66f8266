#include "worker/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "worker/tokenizer/byte_alphabet.h"
#include "worker/tokenizer/utf8.h"

namespace mf {
namespace {

using nlohmann::json;

constexpr int64_t kIdsMax = int64_t{1} << 24;  // more than any tokenizer has
// What ends a document, in the order in which they are looked for among the special tokens.
constexpr const char* kEndsOfText[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"};

/// One tokenizer.json. Functions throw Refusal, or json::exception where the form is wrong.
class Reader {
 public:
  struct Refusal {
    std::string why;
  };

  ByteBpe::Parts Read(const json& file) {
    ReadNormalizer(Field(file, "normalizer"));
    ReadPreTokenizer(Field(file, "pre_tokenizer"));
    CheckStep(Field(file, "post_processor"), "post_processor");
    CheckStep(Field(file, "decoder"), "decoder");
    ReadModel(file.at("model"));
    ReadAddedTokens(Field(file, "added_tokens"));
    return std::move(parts_);
  }

 private:
  static const json& Field(const json& object, const char* name) {
    static const json kNull;
    const auto found = object.find(name);
    return found == object.end() ? kNull : *found;
  }
  static std::string TypeOf(const json& step) { return step.at("type").get<std::string>(); }
  [[noreturn]] static void Refuse(std::string why) { throw Refusal{std::move(why)}; }
  [[noreturn]] static void RefuseType(const std::string& what, const std::string& type) {
    Refuse("its " + what + " " + type +
           " is not known here; byte-level BPE as of GPT-2, GPT-NeoX and Pythia is");
  }

  /// The steps of a Sequence, or the one that there is.
  static std::vector<json> StepsOf(const json& step, const char* list) {
    if (step.is_null()) return {};
    if (TypeOf(step) != "Sequence") return {step};
    std::vector<json> steps;
    for (const json& part : step.at(list)) {
      for (json& inner : StepsOf(part, list)) steps.push_back(std::move(inner));
    }
    return steps;
  }

  void ReadNormalizer(const json& normalizer) {
    for (const json& step : StepsOf(normalizer, "normalizers")) {
      if (TypeOf(step) != "NFC") RefuseType("normalizer", TypeOf(step));
      parts_.nfc = true;
    }
  }

  void ReadPreTokenizer(const json& pre_tokenizer) {
    const std::vector<json> steps = StepsOf(pre_tokenizer, "pretokenizers");
    for (const json& step : steps) {
      if (TypeOf(step) != "ByteLevel") RefuseType("pre_tokenizer", TypeOf(step));
    }
    if (steps.size() != 1) Refuse("its pre_tokenizer is not one ByteLevel");
    parts_.add_prefix_space = steps[0].value("add_prefix_space", true);
    if (!steps[0].value("use_regex", true)) RefuseType("pre_tokenizer", "ByteLevel without regex");
  }

  /// Steps that change no ids of a text and put nothing around it.
  static void CheckStep(const json& step, const char* what) {
    for (const json& part : StepsOf(step, what[0] == 'd' ? "decoders" : "processors")) {
      if (TypeOf(part) != "ByteLevel") RefuseType(what, TypeOf(part));
    }
  }

  void ReadModel(const json& model) {
    const std::string type = model.value("type", "BPE");  // early files do not name it
    if (type != "BPE") RefuseType("model", type);
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix", "dropout"}) {
      const json& field = Field(model, name);
      const bool text = field.is_string();
      const bool none =
          field.is_null() || field == 0 || (text && field.get_ref<const std::string&>().empty());
      if (!none) Refuse(std::string("its model has a ") + name + ", which is not known here");
    }
    if (Field(model, "ignore_merges") == true) Refuse("its model has ignore_merges");
    for (const auto& [text, id] : model.at("vocab").get_ref<const json::object_t&>()) {
      AddText(text, IdOf(id));
    }
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = ids_.find(alphabet_.TextOf(static_cast<uint8_t>(byte)));
      if (found == ids_.end()) {
        Refuse("it has no token for byte " + std::to_string(byte) + ", so it is not byte-level");
      }
      parts_.of_byte[static_cast<size_t>(byte)] = found->second;
    }
    for (const json& merge : model.at("merges")) AddMerge(merge);
  }

  static uint32_t IdOf(const json& id) {
    const int64_t value = id.is_number_integer() ? id.get<int64_t>() : -1;
    if (value < 0 || value >= kIdsMax) Refuse("the id " + id.dump() + " of a token is none");
    return static_cast<uint32_t>(value);
  }

  void AddText(const std::string& text, uint32_t id) {
    if (!ids_.emplace(text, id).second) Refuse("it has the token " + json(text).dump() + " twice");
    Claim(id, alphabet_.BytesOf(text).value_or(text), text);
  }
  void Claim(uint32_t id, std::string bytes, const std::string& text) {
    if (id >= parts_.texts.size()) parts_.texts.resize(id + 1);
    if (!parts_.texts[id].empty()) {
      Refuse("id " + std::to_string(id) + " has two tokens, of which " + json(text).dump() +
             " is one");
    }
    parts_.texts[id] = std::move(bytes);
  }

  uint32_t TokenOf(const std::string& text) const {
    const auto found = ids_.find(text);
    if (found == ids_.end()) {
      Refuse("a merge is of " + json(text).dump() + ", which is no token");
    }
    return found->second;
  }
  void AddMerge(const json& merge) {
    std::string left, right;
    if (merge.is_string()) {
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      if (space == std::string::npos) Refuse("a merge is " + merge.dump() + ", not two tokens");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      left = merge.at(0).get<std::string>();
      right = merge.at(1).get<std::string>();
    }
    parts_.pairs.AddMerge(TokenOf(left), TokenOf(right), TokenOf(left + right));
  }

  void ReadAddedTokens(const json& tokens) {
    if (tokens.is_null()) return;
    for (const json& entry : tokens) {
      AddedToken token{.id = IdOf(entry.at("id")),
                       .content = entry.at("content").get<std::string>(),
                       .single_word = entry.value("single_word", false),
                       .lstrip = entry.value("lstrip", false),
                       .rstrip = entry.value("rstrip", false),
                       .normalized = entry.value("normalized", false),
                       .special = entry.value("special", false)};
      if (token.content.empty()) Refuse("an added token is empty");
      const auto known = ids_.find(token.content);
      if (known == ids_.end()) {
        ids_.emplace(token.content, token.id);
        Claim(token.id, token.content, token.content);
      } else if (known->second != token.id) {
        Refuse("the added token " + json(token.content).dump() + " has another id in its model");
      } else {
        parts_.texts[token.id] = token.content;
      }
      if (token.normalized && parts_.nfc) token.content = ToNfc(token.content);
      FindEnd(token);
      (token.normalized ? parts_.added_normalized : parts_.added).Add(std::move(token));
    }
  }
  /// The first of kEndsOfText wins.
  void FindEnd(const AddedToken& token) {
    const auto end = std::find(std::begin(kEndsOfText), std::end(kEndsOfText), token.content);
    if (!token.special || end >= end_) return;
    end_ = end;
    parts_.end_of_text = token.id;
  }

  const ByteAlphabet alphabet_;
  ByteBpe::Parts parts_;
  std::unordered_map<std::string, uint32_t> ids_;
  const char* const* end_ = std::end(kEndsOfText);
};

}  // namespace

Result<ByteBpe::Parts> ReadTokenizerJson(const std::string& content, const std::string& name) {
  try {
    return Reader().Read(json::parse(content));
  } catch (const Reader::Refusal& refusal) {
    return Status::Invalid(name + ": " + refusal.why);
  } catch (const json::exception& error) {
    return Status::Invalid(name + ": no tokenizer.json: " + error.what());
  }
}

}  // namespace mf
