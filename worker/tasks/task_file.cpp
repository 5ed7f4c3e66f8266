#include "worker/tasks/task_file.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "worker/prepare/text_pieces.h"

namespace mf {
namespace {

constexpr const char* kForm =
    R"(an example is {"context": "text", "choices": ["text", ...], "answer": 0})";

bool IsTexts(const nlohmann::json& value) {
  if (!value.is_array() || value.empty()) return false;
  for (const auto& text : value) {
    if (!text.is_string()) return false;
  }
  return true;
}

/// What is wrong with the line, or empty.
std::string ReadExample(const std::string& text, TaskExample* example) {
  const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (line.is_discarded()) return "is no JSON (" + WhyNoJson(text) + "); " + kForm;
  if (!line.is_object()) return std::string("is no JSON object; ") + kForm;
  const auto get = [&](const char* key) {
    const auto found = line.find(key);
    return found == line.end() ? nlohmann::json() : *found;
  };
  const nlohmann::json context = get("context"), choices = get("choices"), answer = get("answer");
  if (!IsTexts(choices)) return std::string("\"choices\" is no list of texts; ") + kForm;
  example->choices = choices.get<std::vector<std::string>>();
  if (context.is_string()) {
    example->contexts.assign(example->choices.size(), context.get<std::string>());
  } else if (IsTexts(context) && context.size() == example->choices.size()) {
    example->contexts = context.get<std::vector<std::string>>();
  } else {
    return std::string("\"context\" is neither a text nor a list of one for each choice; ") + kForm;
  }
  if (!answer.is_number_unsigned() || answer.get<uint64_t>() >= example->choices.size()) {
    return "\"answer\" is not the number of a choice, from 0 to " +
           std::to_string(example->choices.size() - 1);
  }
  example->answer = answer.get<size_t>();
  for (const std::string& choice : example->choices) {
    if (choice.empty()) return "a choice is empty";
  }
  return "";
}

}  // namespace

Result<std::vector<TaskExample>> ReadTask(const std::string& path) {
  if (!IsJsonLines(path)) {
    return Status::Invalid(path + ": a task is a file of JSON lines, and its name ends in .jsonl");
  }
  TextPieces pieces({path}, /*binary=*/false);
  std::vector<TaskExample> examples;
  for (;;) {
    MF_ASSIGN_OR_RETURN(const std::optional<TextPiece> piece, pieces.Next());
    if (!piece.has_value()) break;
    TaskExample example;
    example.line = piece->line;
    if (const std::string fault = ReadExample(piece->bytes, &example); !fault.empty()) {
      return Status::Invalid(path + ": line " + std::to_string(piece->line) + ": " + fault);
    }
    examples.push_back(std::move(example));
  }
  if (examples.empty()) return Status::Invalid(path + ": no example is in it; " + kForm);
  return examples;
}

}  // namespace mf
