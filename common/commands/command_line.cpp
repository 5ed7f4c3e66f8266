#include "common/commands/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <string_view>

#include "common/base/address.h"
#include "common/base/logging.h"
#include "common/run/versions.h"

namespace mf {
namespace {

/// Not a ValidationError: CLI11 would put the flag's name in front once more.
[[noreturn]] void Refuse(const std::string& what) { throw CLI::ConversionError(what); }

[[noreturn]] void RefuseEmpty(const std::string& flag) {
  Refuse(flag + " is empty; give it a value (was a variable of the shell not set?)");
}

void RequireValues(CLI::App& command, CLI::Option& option) {
  const std::string flag = option.get_name();
  const auto check = [&command, flag](const std::string& value) -> std::string {
    if (value.empty()) RefuseEmpty(flag);
    if (!value.starts_with("--")) return {};
    const std::string name = value.substr(0, value.find('='));
    if (command.get_option_no_throw(name) == nullptr) return {};
    Refuse(flag + " has no value: " + value + " follows it");
  };
  // A transformation comes before all checks.
  option.transform(CLI::Validator([check](std::string& value) { return check(value); }, ""));
}

void AddRules(CLI::App& command, const std::vector<std::string>& may_be_empty) {
  for (CLI::Option* option : command.get_options()) {
    const int values = option->get_items_expected_max();
    if (values <= 1 && !option->get_positional())
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    const std::string name = option->get_name();
    if (values == 0 || std::count(may_be_empty.begin(), may_be_empty.end(), name) > 0) continue;
    RequireValues(command, *option);
  }
  for (CLI::App* below : command.get_subcommands([](CLI::App*) { return true; }))
    AddRules(*below, may_be_empty);
}

/// How many values each flag of all commands takes at most; those without are left out.
void CollectFlags(const CLI::App& command, std::map<std::string, int>* flags) {
  for (const CLI::Option* option : command.get_options()) {
    const int values = option->get_items_expected_max();
    if (!option->get_positional() && values > 0) (*flags)[option->get_name()] = values;
  }
  for (const CLI::App* below : command.get_subcommands({})) CollectFlags(*below, flags);
}

/// The arguments with "--flag", "-name" as "--flag=-name": CLI11 takes a dash for a short flag, of
/// which there is -h alone.
std::vector<std::string> JoinDashedValues(const CLI::App& app, int argc, char** argv) {
  std::map<std::string, int> flags;
  CollectFlags(app, &flags);
  std::vector<std::string> arguments;
  auto flag = flags.end();  // whose values may follow
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool dashed = argument.size() > 1 && argument[0] == '-' && argument[1] != '-';
    if (argument.starts_with("--")) flag = flags.find(argument);
    if (!dashed || flag == flags.end()) {
      arguments.push_back(argument);
    } else if (arguments.back() == flag->first) {
      arguments.back() += "=" + argument;
    } else if (flag->second > 1) {
      arguments.push_back(flag->first + "=" + argument);
    } else {
      arguments.push_back(argument);
    }
  }
  return arguments;
}

}  // namespace

void ParseCommandLine(CLI::App& app, int argc, char** argv,
                      const std::vector<std::string>& may_be_empty) {
  AddRules(app, may_be_empty);
  app.set_version_flag("--version", app.get_name() + " " + ThisProgram().Text(),
                       "Version, commit and compiler");
  // Of "--flag=" CLI11 would take the next argument as the value.
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with("--") || argument.find('=') != argument.size() - 1) continue;
    const std::string flag(argument.substr(0, argument.size() - 1));
    if (std::count(may_be_empty.begin(), may_be_empty.end(), flag) == 0) RefuseEmpty(flag);
  }
  std::vector<std::string> arguments = JoinDashedValues(app, argc, argv);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  app.parse(std::move(arguments));
}

int ReportParseError(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);
  // CLI11 would only say that a command is missing.
  const bool unknown = app.get_subcommands().empty() && !app.remaining().empty();
  PrintError((unknown ? "unknown command or flag " + app.remaining().front() : error.what()) +
             std::string("; see --help"));
  return 2;
}

int Report(const Status& status) {
  if (!status.ok()) PrintError(status.message());
  return status.exit_code();
}

CLI::Option* AddServersOption(CLI::App& command, std::vector<std::string>* servers,
                              const std::string& meaning) {
  const auto take = [servers](const std::vector<std::string>& lists) {
    auto parsed = ParseServers("--pservers", lists);
    if (!parsed.ok()) Refuse(parsed.status().message());
    *servers = std::move(parsed).value();
  };
  return command
      .add_option_function<std::vector<std::string>>("--pservers", take,
                                                     "tcp://HOST:PORT,... " + meaning)
      ->allow_extra_args(false);
}

}  // namespace mf
