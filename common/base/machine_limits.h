// How much of the machine this process may use: all of it, or what limits leave. Asked are the
// cgroups that the process is in, v1 and v2, from its own up to the outermost that can be seen (a
// container's, a Slurm job's, a systemd unit's: the smallest counts), its CPU affinity and its own
// limits (ulimit).
//
// `root` is put in front of /proc and /sys: tests have folders of their own.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"

namespace mf {

uint64_t MemoryLimitBytes(const std::string& root = "");
/// What tables may take of it where nobody says how much: 70%, the rest is for messages, gradients
/// and the disk's cache.
uint64_t DefaultTableBytes();
/// Threads that can run at once, at least 1; a quota of 1.5 processors is 2. More threads than that
/// would only wait for each other's time.
int CpuLimit(const std::string& root = "");
/// Both for people, with what sets them: "1 processor (/sys/fs/cgroup/job/cpu.max), 2.00 GiB of
/// memory (/sys/fs/cgroup/job/memory.max)".
std::string DescribeLimits(const std::string& root = "");

/// At the start of a program: as many open files as it may have (a connection is one, and so is a
/// table of a snapshot), a file that grows above its limit is an error, not a signal, and all
/// threads take memory from one arena. Before there are other threads.
void PrepareProcess();

/// Tries whether `count` more threads can be started now. kFailed, saying which limits there are:
/// libraries that find out by themselves abort.
Status CheckThreads(int count);
/// The same of open files.
Status CheckOpenFiles(int count);

/// Freed memory goes back to the system. malloc and the pool of buffers keep it for the messages to
/// come (common/net/zmq_transport.cpp, common/base/buffer_pool.h); after a rollback or a snapshot
/// it lies scattered, and more of it each time. Takes milliseconds.
void GiveBackMemory();

}  // namespace mf
