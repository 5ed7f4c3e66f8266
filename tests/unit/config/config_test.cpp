// Goal: every way a configuration can be wrong is refused with one line that names key and remedy,
// and the forms that are made from the table of keys agree with each other.
#include "worker/config/config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "worker/config/config_keys.h"

namespace mf {
namespace {

Status Load(const std::vector<std::string>& overrides) {
  const auto config = LoadConfig("", overrides);
  return config.ok() ? Status::Ok() : config.status();
}

/// Every key with its value.
std::string AllKeys(const Config& config) {
  std::string text;
  for (const ConfigKey& key : ConfigKeys()) {
    text += key.full_name() + " = " + FormatKeyValue(key.get(config)) + "\n";
  }
  return text;
}

std::string WriteToml(const std::string& text) {
  const std::string path = testing::TempDir() + "config_test.toml";
  std::ofstream(path) << text;
  return path;
}

TEST(Config, DefaultsAreNano) {
  const auto config = LoadConfig("", {});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(AllKeys(config.value()), AllKeys(Config{}));
  EXPECT_EQ(config.value().model.K, 16);
}

TEST(Config, ReadsAFileAndOverridesIt) {
  const std::string path = WriteToml(
      "[model]\nd = 64\ntau = 4\nscore = 'softmax'\n[train]\nbetas = [0.8, 0.9]\nlr = 1\n");
  const auto loaded = LoadConfig(path, {"model.probes=2", "train.optimizer=sgd",
                                        "exchange.mode=\"pull\"", "train.betas=[0.5, 0.25]"});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  const Config& config = loaded.value();
  EXPECT_EQ(config.model.K, 16);
  EXPECT_EQ(config.model.score, Score::kSoftmax);
  EXPECT_EQ(config.model.probes, 2);
  EXPECT_EQ(config.train.optimizer, OptimizerKind::kSgd);
  EXPECT_EQ(config.exchange.mode, ExchangeMode::kPull);
  EXPECT_FALSE(LoadConfig(path, {"exchange.mode=auto"}).value().exchange.mode.has_value());
  EXPECT_EQ(config.train.lr, 1.0);
  EXPECT_EQ(config.train.beta1, 0.5);
  EXPECT_EQ(config.train.beta2, 0.25);
}

struct BadCase {
  const char* override_text;
  const char* named;    // must stand in the message
  const char* allowed;  // so must this
};

TEST(Config, RefusesBadValuesByName) {
  const BadCase cases[] = {
      {"model.tau=0", "model.tau: 0", "1 to 24"},
      {"model.tau=40", "model.tau: 40", "1 to 24"},
      {"model.tau=2.5", "model.tau: 2.5", "whole number"},
      {"model.tau=eight", "model.tau: \"eight\"", "whole number"},
      {"model.K=15", "model.d: 128 is not K * tau", "15 * 8"},
      {"model.d=100", "model.d: 100", "multiple of model.tau"},
      {"model.heads=5", "model.heads: 5", "does not divide"},
      {"model.expand_bits=21", "tau + expand_bits is 29", "at most 28"},
      {"model.probes=9", "model.probes: 9", "1 to tau"},
      {"model.table_dtype=f16", "model.table_dtype: \"f16\"", "f32, bf16"},
      {"exchange.mode=push", "exchange.mode: \"push\"", "auto, pushdown, pull"},
      {"train.optimizer=lion", "train.optimizer: \"lion\"", "sgd, adam, adagrad"},
      {"data.tokens=bytes", "unknown key data.tokens", "validation_ratio"},
      {"data.tokenizer=3", "data.tokenizer: 3", "a path in quotes"},
      {"exchange.placement=gpu", "exchange.placement: \"gpu\"", "auto, server, device"},
      {"exchange.wire=f64", "exchange.wire: \"f64\"", "f32, bf16"},
      {"train.betas=0.9", "train.betas", "two numbers"},
      {"train.betas=[0.9]", "train.betas", "two numbers"},
      {"train.betas=[0.9, 1]", "train.betas: [0.9, 1]", "less than 1"},
      {"train.lr=nan", "train.lr: nan", "0 to 100"},
      {"train.steps=99999999999999999999", "train.steps", "whole number"},
      {"model.taux=3", "unknown key model.taux", "tau"},
      {"modle.tau=3", "unknown section [modle]", "model, train"},
      {"model.tau", "section.key=value", "--set model.tau"},
      {"model.tau={a=1}", "model.tau: wrong type", "whole number"},
      {"model.seed=-1", "model.seed: -1", "0 to"},
      {"model.seed=9007199254740993", "model.seed: 9007199254740993", "0 to 9007199254740992"},
      {"train.seed=9007199254740993", "train.seed: 9007199254740993", "0 to 9007199254740992"},
      {"train.eps=0", "train.eps: 0", "more than 0"},
      {"train.eps=1e-46", "train.eps: 1e-46", "float32"},
      {"train.eps=1e-39", "train.eps: 1e-39", "at least 1.2e-38"},
      {"model.temperature=1e-60", "model.temperature: 1e-60", "float32"},
      {"model.temperature=1e-40", "model.temperature: 1e-40", "at least 1.2e-38"},
  };
  for (const BadCase& c : cases) {
    const Status status = Load({c.override_text});
    EXPECT_EQ(status.code(), Code::kInvalid) << c.override_text;
    EXPECT_NE(status.message().find(c.named), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(c.allowed), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  }
}

TEST(Config, TakesTheEndsOfItsRanges) {
  const Status status = Load({"model.seed=9007199254740992", "train.seed=0", "train.eps=1.2e-38",
                              "model.temperature=1.2e-38", "train.steps=1000000000"});
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(Config, RefusesWhatIsNestedDeeperThanAnyConfiguration) {
  // Each of them once ended the program: a level of the file was some frames on the stack.
  std::string keys = "b", lines = "[model]\nd = [\n";
  for (int i = 0; i < 35000; ++i) keys.insert(0, "a.");
  for (int i = 0; i < 200; ++i) lines += "{ " + keys.substr(0, 1001) + " = [\n";
  for (const std::string& text :
       {keys + " = 1\n", "[" + keys + "]\n", "[model]\nd = { " + keys + " = 1 }\n",
        "[model]\nd = { a = \"\"\"\n\"\"\"\", " + keys + " = 1 }\n", lines}) {
    const auto bad = LoadConfig(WriteToml("# a comment\n" + text), {});
    ASSERT_FALSE(bad.ok());
    EXPECT_NE(bad.status().message().find("nested deeper"), std::string::npos)
        << bad.status().message();
  }
  EXPECT_EQ(Load({"model.d={" + keys + "=1}"}).code(), Code::kInvalid);
  // Dots of sentences and brackets of texts are none.
  std::string dots(500, '.'), brackets(500, '[');
  const auto good = LoadConfig(
      WriteToml("# " + dots + "\n[model]\nd = 64 # \"" + dots + brackets + "\n[train]\nlr = 0.1\n"),
      {});
  EXPECT_TRUE(good.ok()) << good.status().message();
  const auto text = LoadConfig(WriteToml("[model]\nscore = '" + dots + brackets + "'\n"), {});
  ASSERT_FALSE(text.ok());
  EXPECT_NE(text.status().message().find("not one of its values"), std::string::npos);
}

TEST(Config, NamesFileAndLine) {
  const std::string path = WriteToml("[model]\nd = 128\ntau = 40\n");
  const auto config = LoadConfig(path, {});
  ASSERT_FALSE(config.ok());
  EXPECT_NE(config.status().message().find(path + ":3: model.tau: 40"), std::string::npos)
      << config.status().message();
  for (const char* text : {"d = 3\n", "[modle]\n", "[model\n", "[model]\nd = \n"}) {
    const auto bad = LoadConfig(WriteToml(text), {});
    ASSERT_FALSE(bad.ok()) << text;
    EXPECT_NE(bad.status().message().find(path), std::string::npos) << bad.status().message();
    EXPECT_EQ(bad.status().message().find('\n'), std::string::npos);
  }
  EXPECT_FALSE(LoadConfig("/nonexistent/x.toml", {}).ok());
  EXPECT_FALSE(LoadConfig(testing::TempDir(), {}).ok());
}

TEST(Config, JsonRoundTrip) {
  const auto config = LoadConfig("", {"train.lr=0.1", "model.seed=7", "snapshot.keep=5",
                                      "exchange.wire=bf16", "train.betas=[0.1, 0.2]"});
  ASSERT_TRUE(config.ok());
  const auto back = ConfigFromJson(IdentityJson(config.value()));
  ASSERT_TRUE(back.ok()) << back.status().message();
  Config expected = config.value();
  expected.snapshot = {};  // decides nothing
  EXPECT_EQ(AllKeys(back.value()), AllKeys(expected));
  const auto whole = ConfigFromJson(ConfigJson(config.value()));
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  EXPECT_EQ(ConfigJson(whole.value()), ConfigJson(config.value()));
  const auto model_only = ConfigFromJson(ModelJson(config.value()));
  ASSERT_TRUE(model_only.ok());
  EXPECT_EQ(model_only.value().model.seed, 7u);
  EXPECT_EQ(model_only.value().train.lr, TrainConfig{}.lr);
  for (const char* bad : {"", "[]", "{\"model\":1}", "{\"model\":{\"x\":1}}", "{\"x\":{}}",
                          "{\"model\":{\"tau\":40}}", "{\"model\":{\"d\":18446744073709551615}}"}) {
    EXPECT_FALSE(ConfigFromJson(bad).ok()) << bad;
  }
}

TEST(Config, IdentityLeavesOutHowARunIsCarriedOut) {
  Config a, b;
  b.snapshot.every_steps = 10;
  b.exchange.in_flight = 4;
  EXPECT_EQ(IdentityJson(a), IdentityJson(b));
  b.train.steps = 10;
  EXPECT_NE(IdentityJson(a), IdentityJson(b));
  // What came later is there only where it says something.
  EXPECT_EQ(IdentityJson(a).find("steps_before"), std::string::npos);
  Config later = a;
  later.train.steps_before = 5;
  later.train.schedule_steps = 7;
  EXPECT_NE(IdentityJson(later), IdentityJson(a));
  auto read = ConfigFromJson(IdentityJson(later));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->train.steps_before, 5);
  EXPECT_EQ(read->train.schedule_steps, 7);
}

TEST(Config, TableHasARowForEveryKey) {
  const std::string table = ConfigTableMarkdown();
  for (const ConfigKey& key : ConfigKeys()) {
    EXPECT_NE(table.find("| `" + key.full_name() + "` |"), std::string::npos);
  }
  EXPECT_NE(table.find("| `model.tau` | `8` | 1 to 24 |"), std::string::npos);
}

TEST(Config, ChecksAConfigFilledInByCode) {
  Config config;
  EXPECT_TRUE(CheckConfig(config).ok());
  config.model.tau = 0;
  EXPECT_FALSE(CheckConfig(config).ok());
}

}  // namespace
}  // namespace mf
