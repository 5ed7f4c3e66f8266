// A task of JSON lines: what is read of it is what an example has to be.
#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"
#include "worker/tasks/task_file.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const auto examples = ReadTask(fuzz::ScratchFile("task.jsonl", fuzz::TextOf(data, size)));
  if (!examples.ok()) {
    MF_CHECK(examples.status().code() == Code::kInvalid);
    return 0;
  }
  MF_CHECK(!examples.value().empty());
  for (const TaskExample& example : examples.value()) {
    MF_CHECK(example.answer < example.choices.size() && example.line > 0);
    MF_CHECK(example.contexts.size() == example.choices.size());
    for (const std::string& choice : example.choices) MF_CHECK(!choice.empty());
  }
  return 0;
}
