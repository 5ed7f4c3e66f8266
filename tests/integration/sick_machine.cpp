// Preloaded, makes calls of the C library fail as they do on machines and file systems that are not
// all alike: MF_SICK="link=EPERM,flock=ENOLCK" (edges_machine_test.py). fsync_folder is fsync() of
// a folder, rename_over is rename() to a name that is there, fcntl_lock is fcntl() that would lock.
// While the file MF_HANG is there, a call that changes a disk, or asks how full it is, does not
// return; every read at a place takes MF_READ_MS longer (busy_test.py).
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <initializer_list>

namespace {

int NumberOf(const char* name) {
  struct Error {
    const char* name;
    int number;
  };
  for (const Error& error :
       {Error{"EPERM", EPERM}, Error{"ENOTSUP", ENOTSUP}, Error{"EINVAL", EINVAL},
        Error{"ENOLCK", ENOLCK}, Error{"ENOSYS", ENOSYS}, Error{"EEXIST", EEXIST},
        Error{"EMLINK", EMLINK}, Error{"EDQUOT", EDQUOT}, Error{"EAGAIN", EAGAIN}}) {
    if (std::strncmp(name, error.name, std::strlen(error.name)) == 0) return error.number;
  }
  return EIO;
}

/// The error that the call is to fail with; 0: none.
int Sick(const char* call) {
  const char* list = std::getenv("MF_SICK");
  const size_t size = std::strlen(call);
  for (; list != nullptr && *list != 0; list = std::strchr(list, ',')) {
    if (*list == ',') ++list;
    if (std::strncmp(list, call, size) == 0 && list[size] == '=') return NumberOf(list + size + 1);
  }
  return 0;
}

void Sleep(int milliseconds) {
  const timespec time = {milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
  nanosleep(&time, nullptr);
}

/// Returns when the disk does.
void AwaitDisk() {
  const char* hang = std::getenv("MF_HANG");
  while (hang != nullptr && access(hang, F_OK) == 0) Sleep(10);
}

void AwaitRead() {
  if (const char* wait = std::getenv("MF_READ_MS"); wait != nullptr) Sleep(std::atoi(wait));
}

bool Fails(const char* call) {
  const int error = Sick(call);
  if (error != 0) errno = error;
  return error != 0;
}

template <class Function>
Function* Real(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

// struct flock has a constructor of the same name, which nobody calls.
#pragma GCC diagnostic ignored "-Wshadow"
extern "C" {

ssize_t pread(int file, void* data, size_t bytes, off_t at) {
  AwaitRead();
  return Real(&pread, "pread")(file, data, bytes, at);
}
ssize_t pread64(int file, void* data, size_t bytes, off64_t at) {
  AwaitRead();
  return Real(&pread64, "pread64")(file, data, bytes, at);
}
int fdatasync(int file) {
  AwaitDisk();
  return Real(&fdatasync, "fdatasync")(file);
}
int statvfs(const char* path, struct statvfs* info) noexcept {
  AwaitDisk();
  return Real(&statvfs, "statvfs")(path, info);
}
int link(const char* from, const char* to) noexcept {
  AwaitDisk();
  return Fails("link") ? -1 : Real(&link, "link")(from, to);
}
int flock(int file, int operation) noexcept {
  return Fails("flock") ? -1 : Real(&flock, "flock")(file, operation);
}
int fcntl(int file, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if ((command == F_SETLK || command == F_SETLKW) && Fails("fcntl_lock")) return -1;
  return Real(&fcntl, "fcntl")(file, command, argument);
}
int fcntl64(int file, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  return fcntl(file, command, argument);
}
int fsync(int file) {
  AwaitDisk();
  struct stat info;
  if (fstat(file, &info) == 0 && S_ISDIR(info.st_mode) && Fails("fsync_folder")) return -1;
  return Real(&fsync, "fsync")(file);
}
int rename(const char* from, const char* to) noexcept {
  AwaitDisk();
  struct stat info;
  if (lstat(to, &info) == 0 && Fails("rename_over")) return -1;
  return Real(&rename, "rename")(from, to);
}
ssize_t write(int file, const void* data, size_t bytes) {
  struct stat info;
  if (fstat(file, &info) == 0 && S_ISREG(info.st_mode) && Fails("write")) return -1;
  return Real(&write, "write")(file, data, bytes);
}
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                   void* argument) {
  const int error = Sick("pthread_create");
  return error != 0 ? error
                    : Real(&pthread_create, "pthread_create")(thread, attributes, run, argument);
}

}  // extern "C"
