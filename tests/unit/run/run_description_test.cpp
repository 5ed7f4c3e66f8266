// Goal: a run's description survives its JSON whole, whatever else arrives is refused with one line
// that names the place, and what decides the result is what makes its id.
#include "common/run/run_description.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "common/run/schedule.h"

namespace mf {
namespace {

using nlohmann::json;

class Random {
 public:
  explicit Random(uint64_t seed) : random_(seed) {}
  int64_t In(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  double Real(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }
  template <class T>
  T Of(size_t count) {
    return static_cast<T>(random_() % count);
  }
  std::string Text() {
    std::string text;
    for (int64_t i = In(0, 20); i > 0; --i) text += static_cast<char>(In(1, 127));
    return text + "\xc3\xa4";
  }

 private:
  std::mt19937_64 random_;
};

TensorSpec RandomTensor(Random& random, uint32_t id) {
  TensorSpec t;
  t.id = id;
  t.name = "t" + std::to_string(id) + ".x";
  t.kind = random.Of<TensorKind>(kTensorKindNames.size());
  t.rows = t.kind == TensorKind::kMemory ? int64_t{1} << random.In(0, 20) : random.In(1, 5000);
  t.columns = random.In(1, 1000);
  if (t.kind == TensorKind::kMemory) {
    t.tables = random.In(1, 100);
    t.probes = random.In(1, std::max(1, t.index_bits()));
    t.mode = random.Of<ExchangeMode>(2);
  }
  t.init = random.Of<Init>(2);
  t.init_value = random.Real(0, 3);
  t.optimizer = {random.Of<OptimizerKind>(kOptimizerNames.size()), random.Real(0, 0.999),
                 random.Real(0, 0.999), random.Real(1e-12, 1), random.Of<SparseUpdate>(2)};
  t.rate_scale = random.Real(0, 2);
  t.weight_decay = random.Real(0, 0.5);
  t.row_type = random.Of<RowType>(2);
  t.on_device = random.Of<int>(2) == 1;
  t.shape = {t.tables, t.rows, t.columns};
  if (random.Of<int>(2) == 1) t.shape = {1, t.tables * t.rows, 1, t.columns};
  if (t.kind == TensorKind::kKeyed) {
    t.tables = kKeyRanges;
    t.rows = kRowsPerKeyRange;
    t.shape = {t.columns};
  }
  return t;
}

RunDescription RandomRun(uint64_t seed) {
  Random random(seed);
  RunDescription run;
  RunRules& r = run.rules;
  r.steps = random.In(1, 1'000'000'000);
  r.micro_batches = random.In(1, 65536);
  r.tokens_per_micro_batch = random.In(1, 1 << 24);
  r.window = random.In(1, 1024);
  r.lease_seconds = random.Real(0.01, 86400);
  r.schedule = {random.Real(0, 0.9), random.Real(0, 1), random.Real(0, 1)};
  r.clip = random.Real(0, 1e9);
  r.eval_every = random.In(0, 1'000'000'000);
  r.snapshots = {random.In(0, 1'000'000'000), random.Real(0, 1e6), random.In(1, 1'000'000)};
  r.wire = random.Of<Wire>(2);
  r.column_blocks = random.In(0, 4096);
  r.seed = static_cast<uint64_t>(random.In(0, int64_t{1} << 53));
  run.about = random.Text();
  run.data = random.Text();
  for (int64_t i = random.In(1, 12); i > 0; --i) {
    run.tensors.push_back(RandomTensor(random, static_cast<uint32_t>(run.tensors.size())));
  }
  return run;
}

/// A memory tensor of 4 tables of 16 rows of 40 columns and a vector.
RunDescription SmallRun() {
  RunDescription run;
  TensorSpec tables;
  tables.name = "layer.tables";
  tables.kind = TensorKind::kMemory;
  tables.tables = 4;
  tables.rows = 16;
  tables.columns = 40;
  tables.shape = {4, 16, 40};
  TensorSpec bias;
  bias.id = 1;
  bias.name = "layer.bias";
  bias.columns = 40;
  bias.shape = {40};
  run.tensors = {tables, bias};
  run.about = R"({"train":{"lr":0.003,"optimizer":"adam"}})";
  run.data = "a digest";
  return run;
}

TEST(RunDescription, ComesBackWholeFromItsJson) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const RunDescription run = RandomRun(seed);
    auto back = RunDescription::FromJson(run.Json());
    ASSERT_TRUE(back.ok()) << back.status().message();
    ASSERT_TRUE(*back == run) << run.Json();
    ASSERT_EQ(back->Json(), run.Json());
    ASSERT_EQ(back->RunId(), run.RunId());
  }
}

// Goal: no field is forgotten: changing any value in the JSON changes what is read, and another
// type or no value at all is refused.
TEST(RunDescription, EveryFieldIsReadAndNeeded) {
  const RunDescription run = SmallRun();
  const json whole = json::parse(run.Json());
  size_t fields = 0;
  const json leaves = whole.flatten();
  for (const auto& [path, value] : leaves.items()) {
    const json::json_pointer at(path);
    if (path.find("/shape/") == std::string::npos) {
      json without = whole;
      without[at.parent_pointer()].erase(at.back());
      const auto missing = RunDescription::FromJson(without.dump());
      EXPECT_EQ(missing.status().code(), Code::kInvalid) << path;
      EXPECT_NE(missing.status().message().find(at.back() + " is missing"), std::string::npos)
          << missing.status().message();
      json more = whole;
      more[at.parent_pointer()]["more"] = 1;
      EXPECT_EQ(RunDescription::FromJson(more.dump()).status().code(), Code::kInvalid) << path;
    }
    for (const json& other : {json(nullptr), json("word"), json(json::object()), json({{1}})}) {
      if (other.type() == value.type()) continue;
      json wrong = whole;
      wrong[at] = other;
      EXPECT_EQ(RunDescription::FromJson(wrong.dump()).status().code(), Code::kInvalid) << path;
    }
    ++fields;
  }
  EXPECT_EQ(fields, 2u /*texts*/ + 16 /*rules*/ + 2 * 18 /*of a tensor*/ + 3 + 1 /*dimensions*/);
}

struct Wrong {
  const char* path;
  json value;
  const char* named;
};

TEST(RunDescription, RefusesWhatServersCouldNotHold) {
  const double inf = 1e300;
  const std::vector<Wrong> cases = {
      {"/rules/steps", 0, "rules: steps"},
      {"/rules/steps", 1.5, "rules: steps"},
      {"/rules/steps", uint64_t{1} << 63, "rules: steps"},
      {"/rules/micro_batches", 0, "micro_batches"},
      {"/rules/micro_batches", 65537, "micro_batches"},
      {"/rules/tokens_per_micro_batch", 0, "tokens_per_micro_batch"},
      {"/rules/tokens_per_micro_batch", (1 << 24) + 1, "tokens_per_micro_batch"},
      {"/rules/window", 0, "window"},
      {"/rules/lease_seconds", 0, "lease_seconds"},
      {"/rules/schedule/peak", -1, "schedule.peak"},
      {"/rules/schedule/peak", inf, "schedule.peak"},
      {"/rules/schedule/warmup_ratio", 1.01, "warmup_ratio"},
      {"/rules/schedule/min_ratio", -0.1, "min_ratio"},
      {"/rules/clip", -1, "clip"},
      {"/rules/eval_every", -1, "eval_every"},
      {"/rules/snapshots/every_steps", -1, "every_steps"},
      {"/rules/snapshots/every_minutes", -1, "every_minutes"},
      {"/rules/snapshots/keep", 0, "keep"},
      {"/rules/wire", "f64", "wire"},
      {"/rules/column_blocks", 4097, "column_blocks"},
      {"/rules/seed", -1, "seed"},
      {"/rules/seed", (uint64_t{1} << 53) + 1, "seed"},
      {"/tensors", json::array(), "tensors: list"},
      {"/tensors", 3, "tensors is not an array"},
      {"/tensors/0", 3, "tensor 0: not an object"},
      {"/tensors/0/name", "", "names"},
      {"/tensors/0/name", "a b", "names"},
      {"/tensors/0/name", std::string(257, 'x'), "names"},
      {"/tensors/0/name", "layer.bias", "different"},
      {"/tensors/0/kind", "sparse", "kind"},
      {"/tensors/0/tables", 0, "tables"},
      {"/tensors/0/tables", (1 << 20) + 1, "tables"},
      {"/tensors/1/tables", 2, "tables"},
      {"/tensors/0/rows", 24, "power of two"},
      {"/tensors/0/rows", int64_t{1} << 29, "rows"},
      {"/tensors/0/rows", INT64_MAX, "rows"},
      {"/tensors/1/rows", 1 << 23, "size"},
      {"/tensors/0/columns", 0, "columns"},
      {"/tensors/0/columns", (1 << 20) + 1, "columns"},
      {"/tensors/0/columns", INT64_MIN, "columns"},
      {"/tensors/0/probes", 0, "probes"},
      {"/tensors/0/probes", 5, "probes"},
      {"/tensors/1/probes", 2, "probes"},
      {"/tensors/1/mode", "pushdown", "mode"},
      {"/tensors/0/mode", "auto", "mode"},
      {"/tensors/0/init", "uniform", "init"},
      {"/tensors/0/init_value", inf, "init_value"},
      {"/tensors/0/optimizer/kind", "lion", "optimizer: kind"},
      {"/tensors/0/optimizer/beta1", 1, "beta1"},
      {"/tensors/0/optimizer/beta2", -0.5, "beta2"},
      {"/tensors/0/optimizer/eps", 0, "eps"},
      {"/tensors/0/optimizer/eps", 1e-39, "eps"},
      {"/tensors/0/optimizer/sparse_update", "never", "sparse_update"},
      {"/tensors/0/rate_scale", -1, "rate_scale"},
      {"/tensors/0/weight_decay", 11, "weight_decay"},
      {"/tensors/0/row_type", "f16", "row_type"},
      {"/tensors/0/on_device", 1, "on_device"},
      {"/tensors/0/shape", json::array(), "shape"},
      {"/tensors/0/shape", {4, 16}, "shape"},
      {"/tensors/0/shape", {4, 16, 0}, "shape"},
      {"/tensors/0/shape", {-4, -16, 40}, "shape"},
      {"/tensors/0/shape", {4, 16, 1, 1, 1, 1, 1, 1, 40}, "shape"},
  };
  for (const Wrong& wrong : cases) {
    json text = json::parse(SmallRun().Json());
    text[json::json_pointer(wrong.path)] = wrong.value;
    const auto run = RunDescription::FromJson(text.dump());
    EXPECT_EQ(run.status().code(), Code::kInvalid) << wrong.path << " " << wrong.value;
    EXPECT_NE(run.status().message().find(wrong.named), std::string::npos)
        << wrong.path << ": " << run.status().message();
    EXPECT_EQ(run.status().message().find('\n'), std::string::npos);
  }
  for (const char* text : {"", "[]", "null", "{", "{}", "[[[[", "\"x\"", "1e999"}) {
    EXPECT_EQ(RunDescription::FromJson(text).status().code(), Code::kInvalid) << text;
  }
  EXPECT_EQ(RunDescription::FromJson(std::string(1 << 20, '[')).status().code(), Code::kInvalid);
}

TEST(RunDescription, RefusesWhatIsTooMuchTogether) {
  RunDescription run = SmallRun();
  run.rules.schedule.peak = 1;
  run.tensors[1].rate_scale = 20;
  run.tensors[1].weight_decay = 0.05;
  EXPECT_NE(run.Check().message().find("must be below 1"), std::string::npos);
  run = SmallRun();
  run.tensors[0].tables = 1 << 20;  // one more table there is: the bias
  run.tensors[0].shape = {1 << 20, 16, 40};
  EXPECT_NE(run.Check().message().find("tables are more than"), std::string::npos)
      << run.Check().message();
  run = SmallRun();
  run.tensors[0].tables = 1 << 12;
  run.tensors[0].rows = 1 << 28;
  run.tensors[0].columns = (1 << 16) - 16;  // 2^56 and a row less
  run.tensors[0].shape = {1 << 12, 1 << 28, (1 << 16) - 16};
  EXPECT_TRUE(run.Check().ok()) << run.Check().message();
  run.tensors[0].columns = (1 << 16) + 1;
  run.tensors[0].shape[2] = (1 << 16) + 1;
  EXPECT_NE(run.Check().message().find("size"), std::string::npos) << run.Check().message();
  run.tensors[0].columns = (1 << 16) - 16;
  run.tensors[0].shape[2] = (1 << 16) - 16;
  run.tensors.push_back(run.tensors[0]);
  run.tensors.back().id = 2;
  run.tensors.back().name = "another";
  EXPECT_NE(run.Check().message().find("numbers together"), std::string::npos)
      << run.Check().message();
  run = SmallRun();
  run.tensors[1].id = 0;
  EXPECT_FALSE(run.Check().ok());
}

// Goal: no text ends the program; what is taken holds what Check() promises. Bytes are changed,
// cut out, doubled and moved, and values are put in each other's places.
TEST(RunDescription, SurvivesMutatedText) {
  Random random(7);
  uint64_t taken = 0;
  for (uint64_t seed = 0; seed < 8000; ++seed) {
    std::string text = RandomRun(seed % 50).Json();
    if (seed % 3 == 0) {
      json root = json::parse(text);
      const json flat = root.flatten();
      const auto any = [&] {
        auto at = flat.items().begin();
        for (int64_t i = random.In(0, static_cast<int64_t>(flat.size()) - 1); i > 0; --i) ++at;
        return at;
      };
      for (int64_t i = random.In(1, 3); i > 0; --i) {
        root[json::json_pointer(any().key())] = any().value();
      }
      text = root.dump();
    } else {
      for (int64_t i = random.In(1, 4); i > 0 && !text.empty(); --i) {
        const size_t at = static_cast<size_t>(random.In(0, static_cast<int64_t>(text.size()) - 1));
        const size_t count = static_cast<size_t>(random.In(1, 30));
        switch (random.In(0, 3)) {
          case 0:
            text[at] = static_cast<char>(random.In(0, 255));
            break;
          case 1:
            text.erase(at, count);
            break;
          case 2:
            text.insert(at, text.substr(at, count));
            break;
          default:
            text[at] = "0123456789-.eE\"{}[],:"[random.In(0, 20)];
        }
      }
    }
    auto run = RunDescription::FromJson(text);
    if (!run.ok()) {
      EXPECT_EQ(run.status().code(), Code::kInvalid);
      EXPECT_EQ(run.status().message().find('\n'), std::string::npos);
      continue;
    }
    ++taken;
    ASSERT_TRUE(run->Check().ok());
    ASSERT_TRUE(RunDescription::FromJson(run->Json()).ok());
    (void)DescribeDifference(*run, RandomRun(seed % 50));
  }
  EXPECT_GT(taken, 300u);  // values in other places, digits of numbers
}

TEST(RunDescription, TheIdIsOfWhatDecidesTheResult) {
  const RunDescription run = SmallRun();
  EXPECT_EQ(run.RunId().size(), 64u);
  const std::vector<std::function<void(RunDescription&)>> how = {
      [](auto& r) { r.rules.window = 3; },
      [](auto& r) { r.rules.lease_seconds = 3; },
      [](auto& r) { r.rules.snapshots.every_steps = 3; },
      [](auto& r) { r.rules.snapshots.every_minutes = 3; },
      [](auto& r) { r.rules.snapshots.keep = 3; },
  };
  for (const auto& change : how) {
    RunDescription other = run;
    change(other);
    EXPECT_EQ(other.RunId(), run.RunId());
    EXPECT_NE(other.Json(), run.Json());
    EXPECT_EQ(DescribeDifference(run, other), "");
  }
  // Everything else: every leaf of the JSON that is not one of these.
  const std::set<std::string> only_how = {
      "/rules/window", "/rules/lease_seconds", "/rules/snapshots/every_steps",
      "/rules/snapshots/every_minutes", "/rules/snapshots/keep"};
  const json identity = json::parse(run.Identity()).flatten();
  const json leaves = json::parse(run.Json()).flatten();
  for (const auto& [path, value] : leaves.items()) {
    EXPECT_EQ(identity.contains(path), !only_how.contains(path)) << path;
  }
}

TEST(RunDescription, DifferencesNameKeysWithBothValues) {
  const RunDescription run = SmallRun();
  EXPECT_EQ(DescribeDifference(run, run), "");
  RunDescription other = run;
  other.data = "another";
  EXPECT_EQ(DescribeDifference(run, other), "the same configuration on other data");
  // What is made of the tensors says it all.
  other.about = R"({"train":{"lr":0.5,"optimizer":"adam","new":[1]}})";
  other.rules.schedule.peak = 0.5;
  EXPECT_EQ(DescribeDifference(run, other),
            "train.lr: 0.003 here, 0.5 there; train.new: nothing here, [1] there");
  EXPECT_EQ(DescribeDifference(other, run),
            "train.lr: 0.5 here, 0.003 there; train.new: [1] here, nothing there");
  other.about = run.about;
  other.tensors[1].weight_decay = 0.25;
  other.tensors.push_back(other.tensors[0]);
  EXPECT_EQ(DescribeDifference(run, other),
            "rules.schedule.peak: 0.003 here, 0.5 there; tensor layer.bias.weight_decay: 0.0 here, "
            "0.25 there; number of tensors: 2 here, 3 there");
  // Ids are of the texts: a refused run is never told that nothing differs.
  other = run;
  other.about = " " + run.about;
  EXPECT_EQ(DescribeDifference(run, other), "the same values, written in another way");
  other = run;
  other.about = "not JSON\n";
  EXPECT_EQ(
      DescribeDifference(run, other),
      R"(about: "{\"train\":{\"lr\":0.003,\"optimizer\":\"adam\"}}" here, "not JSON\n" there)");
}

// Goal: texts from two strangers can be compared whatever they are, and the answer stays short.
TEST(RunDescription, DifferencesOfHostileTextsAreShortLines) {
  RunDescription a = SmallRun(), b = SmallRun();
  json many;
  for (int i = 0; i < 500; ++i) many["key\n" + std::to_string(i)] = std::string(1000, '\n');
  a.about = many.dump();
  b.about = "{}";
  const std::string text = DescribeDifference(a, b);
  EXPECT_LT(text.size(), 4000u);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_NE(text.find("; and 488 more"), std::string::npos) << text;
  const std::string deep = std::string(400'000, '[') + "1" + std::string(400'000, ']');
  a.about = "{\"x\":" + deep + "}";
  b.about = "{\"x\":[" + deep + "]}";
  EXPECT_LT(DescribeDifference(a, b).size(), 4000u);
  a.about = R"({"x":"[[\"[["})";  // brackets in texts are none
  b.about = R"({"x":1})";
  EXPECT_EQ(DescribeDifference(a, b), R"(x: "[[\"[[" here, 1 there)");
}

TEST(RunDescription, RefusesMoreServersThanBlocks) {
  RunDescription run = SmallRun();  // 40 columns: two blocks
  EXPECT_EQ(MaxShards(run), 2);
  run.tensors[0].columns = run.tensors[1].columns = 128;
  EXPECT_EQ(MaxShards(run), 4);
  EXPECT_TRUE(CheckShards(run, 4).ok());
  for (const int64_t shards : {int64_t{0}, int64_t{-1}, int64_t{5}, int64_t{99}}) {
    const Status status = CheckShards(run, shards);
    EXPECT_EQ(status.code(), Code::kInvalid);
    EXPECT_NE(status.message().find(std::to_string(shards)), std::string::npos);
  }
  EXPECT_NE(CheckShards(run, 99).message().find("at most 4"), std::string::npos);
  run.rules.column_blocks = 8;
  EXPECT_EQ(MaxShards(run), 8);
}

TEST(Schedule, RisesToThePeakAndFallsToItsShare) {
  const RunRules rules{.steps = 100, .schedule = {0.5, 0.1, 0.01}};
  for (uint64_t step = 1; step <= 10; ++step) {
    EXPECT_EQ(LearningRate(rules, step),
              double{static_cast<float>(0.5 * static_cast<double>(step) / 10)});
  }
  for (uint64_t step = 11; step <= 100; ++step) {
    EXPECT_LT(LearningRate(rules, step), LearningRate(rules, step - 1));
  }
  EXPECT_EQ(LearningRate(rules, 100), double{0.005f});
}

// Goal: a run in two parts has the rates of one; a schedule that ends before its run stays low.
TEST(Schedule, GoesOnAfterEarlierTraining) {
  const RunRules whole{.steps = 100, .schedule = {0.5, 0.1, 0.01}};
  const RunRules first{.steps = 40, .schedule = {0.5, 0.1, 0.01, 100}};
  const RunRules second{.steps = 60, .steps_before = 40, .schedule = {0.5, 0.1, 0.01, 100}};
  const RunRules same{.steps = 60, .steps_before = 40, .schedule = {0.5, 0.1, 0.01}};
  for (uint64_t step = 1; step <= 100; ++step) {
    const double rate = LearningRate(whole, step);
    EXPECT_EQ(rate, step <= 40 ? LearningRate(first, step) : LearningRate(second, step - 40));
    if (step <= 40) continue;
    EXPECT_EQ(rate, LearningRate(same, step - 40));
  }
  const RunRules longer{.steps = 150, .schedule = {0.5, 0.1, 0.01, 100}};
  EXPECT_EQ(LearningRate(longer, 150), double{0.005f});
}

// Goal: what came later is in the text only where it says something, so that older runs are the
// same ones; there it comes back, and makes another run of it.
TEST(RunDescription, WhatCameLaterIsLeftOut) {
  const RunDescription before = SmallRun();
  RunDescription after = before;
  after.initial = "weights of digest 12";
  after.rules.steps_before = 3;
  after.rules.schedule.steps = 9;
  for (const char* name : {"initial", "steps_before", "schedule\":{\"steps"}) {
    EXPECT_EQ(before.Json().find(name), std::string::npos) << name;
  }
  const auto back = RunDescription::FromJson(after.Json());
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_TRUE(back.value() == after);
  EXPECT_NE(after.RunId(), before.RunId());
  EXPECT_EQ(json::parse(before.Json())["rules"]["schedule"].size(), 3u);
  json zero = json::parse(before.Json());
  zero["rules"]["steps_before"] = 0;
  EXPECT_EQ(RunDescription::FromJson(zero.dump()).status().code(), Code::kInvalid);
  zero["rules"]["steps_before"] = -1;
  EXPECT_EQ(RunDescription::FromJson(zero.dump()).status().code(), Code::kInvalid);
  RunDescription other = before;
  other.initial = "weights of digest 34";
  EXPECT_EQ(DescribeDifference(other, before), "--init: \"weights of digest 34\" here, \"\" there");
}

// Goal: a description has had no number so far, which is version 1; one of a newer version is told
// as such, whatever else is in it, and no number changes what a run is.
TEST(RunDescription, VersionsAreTold) {
  const std::string text = SmallRun().Json();
  EXPECT_EQ(text.find("\"format\""), std::string::npos);
  const auto with = [&text](const std::string& format) {
    return RunDescription::FromJson("{\"format\":" + format + ",\"rooms\":[1]," + text.substr(1));
  };
  EXPECT_EQ(
      with("2").status().message(),
      "run description format 2: written by a newer version, update this program (it reads 1)");
  EXPECT_EQ(with("2").status().code(), Code::kInvalid);
  for (const char* bad : {"-1", "\"2\"", "1.5", "null"}) {
    EXPECT_NE(with(bad).status().message().find("format is of the wrong type"), std::string::npos);
  }
  EXPECT_NE(with("1").status().message().find("not known"), std::string::npos);
  const auto first = RunDescription::FromJson("{\"format\":1," + text.substr(1));
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_EQ(first.value(), SmallRun());
}

}  // namespace
}  // namespace mf
