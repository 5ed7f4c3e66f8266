#include "common/base/run_program.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <utility>

#include "common/base/logging.h"

namespace mf {
namespace {

constexpr int kUnknown = -1;
constexpr int kEndedByPipe = 128 + SIGPIPE;  // as a shell reports it

// What a signal handler may look at: atomics without constructors, filled one field after the
// other, `bytes` last.
struct Mapping {
  std::atomic<uintptr_t> begin{0};
  std::atomic<size_t> bytes{0};
  std::atomic<const char*> path{nullptr};
};
std::array<Mapping, 4096> g_mappings;  // a model may be in many files

/// One line, put together without memory; of several threads only the first one speaks. Also what
/// messages quote stays on one line.
void SayAndEnd(std::string_view what, std::string_view detail) {
  static std::atomic_flag said;
  if (said.test_and_set()) {
    for (;;) pause();
  }
  char line[1024];
  size_t length = 0;
  for (const std::string_view part : {std::string_view("error: "), what, detail}) {
    for (const char c : part) {
      if (length + 1 < sizeof(line)) line[length++] = (c >= 0 && c < 0x20) || c == 0x7F ? ' ' : c;
    }
  }
  line[length++] = '\n';
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, length);
  _exit(1);
}

[[noreturn]] void SayWhatWasThrown(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
    SayAndEnd("ended by a library that gave no reason",
              "; perhaps it got no thread or no memory: see ulimit -u and -v, and the machine's");
  } catch (const std::bad_alloc&) {
    SayAndEnd("out of memory; give this process more, or let it hold less",
              " (a smaller model or micro-batch, --memory, fewer threads)");
  } catch (const std::system_error& error) {
    const bool no_thread = error.code() == std::errc::resource_unavailable_try_again;
    SayAndEnd(no_thread
                  ? "cannot start a thread: raise ulimit -u (and -v, where it is set), or the "
                    "limit of processes of this container or job: "
                  : "",
              error.what());
  } catch (const std::exception& error) {
    SayAndEnd("", error.what());
  } catch (...) {
    SayAndEnd("ended by an exception without a description", "");
  }
  _exit(1);
}

void OnBusError(int signal, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping& mapping : g_mappings) {
    const uintptr_t begin = mapping.begin.load();
    if (address < begin || address - begin >= mapping.bytes.load()) continue;
    if (const char* const path = mapping.path.load(); path != nullptr) {
      SayAndEnd(path, ": cut short, or its disk failed, while it was in use");
    }
  }
  // Not ours: the same once more, as without a handler.
  std::signal(signal, SIG_DFL);
}

/// Takes the places of standard streams that are closed. Writing to standard output still fails.
void OpenStandardStreams() {
  for (const auto& [stream, flags] :
       {std::pair{STDIN_FILENO, O_RDONLY}, {STDOUT_FILENO, O_RDONLY}, {STDERR_FILENO, O_WRONLY}}) {
    if (fcntl(stream, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest descriptor that is free: this one, as those below it are open.
    if (open("/dev/null", flags) < 0) return;
  }
}

/// Room for all that most commands say: what does not fit it is written without it, and why that
/// failed is then not known any more.
void EnlargeOutputBuffer() {
  static char buffer[1 << 16];
  if (isatty(STDOUT_FILENO) == 0) std::setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
}

/// Why standard output could not be written, as errno; 0: it could, kUnknown: errno is lost.
int OutputError() {
  if (std::fflush(stdout) != 0) return errno;
  if (std::ferror(stdout) == 0) return 0;
  if (write(STDOUT_FILENO, "", 0) != 0) return errno;
  struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  const bool nobody_reads = poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
  return nobody_reads ? EPIPE : kUnknown;
}

Status OutputFailed(int error) {
  return Status::Failed(std::string("standard output cannot be written: ") +
                        (error == kUnknown ? "not all of it was taken" : std::strerror(error)));
}

/// Of a program that ends by itself.
int ExitCode(int code) {
  const int error = OutputError();
  if (error == 0 || code != 0) return code;
  if (error == EPIPE) return kEndedByPipe;
  PrintError(OutputFailed(error).message());
  return 1;
}

}  // namespace

Status FlushOutput() {
  const int error = OutputError();
  if (error == EPIPE) _exit(kEndedByPipe);
  return error == 0 ? Status::Ok() : OutputFailed(error);
}

Status FlushOutputOrDrop() {
  const int error = OutputError();
  if (error == 0) return Status::Ok();
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere >= 0) {
    dup2(nowhere, STDOUT_FILENO);
    close(nowhere);
  }
  std::clearerr(stdout);
  std::fflush(stdout);
  return OutputFailed(error);
}

int RunProgram(const std::function<int()>& body) {
  OpenStandardStreams();
  std::signal(SIGPIPE, SIG_IGN);
  EnlargeOutputBuffer();
  std::set_terminate([] { SayWhatWasThrown(std::current_exception()); });
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  try {
    return ExitCode(body());
  } catch (...) {
    SayWhatWasThrown(std::current_exception());
  }
}

void NameMapping(const void* begin, size_t bytes, const char* path) {
  for (Mapping& mapping : g_mappings) {
    uintptr_t none = 0;
    if (!mapping.begin.compare_exchange_strong(none, reinterpret_cast<uintptr_t>(begin))) continue;
    mapping.path.store(path);
    mapping.bytes.store(bytes);
    return;
  }
}

void ForgetMapping(const void* begin) {
  for (Mapping& mapping : g_mappings) {
    if (mapping.begin.load() != reinterpret_cast<uintptr_t>(begin)) continue;
    mapping.bytes.store(0);
    mapping.path.store(nullptr);
    mapping.begin.store(0);
    return;
  }
}

}  // namespace mf
