// What threads of a block and lanes of a warp do together. These are the points where the running
// thread changes.
#pragma once

#include <cstring>

namespace mf::emulated_gpu {

/// The lanes of `mask` meet. Each brings an argument of its own; when the last of them is there, it
/// runs complete(mask, the arguments by lane) before any goes on. Lanes that come with different
/// functions or masks do not meet. Ends the program if the calling lane is not in `mask`, or
/// if not all of its lanes come.
using Completion = void (*)(unsigned mask, void* const* arguments);
void MeetLanes(const char* what, unsigned mask, void* argument, Completion complete);

/// All threads of the block meet; the number of them that brought true. Ends the program if they do
/// not all come.
unsigned MeetThreads(const char* what, bool predicate);

/// The running thread's lane, and the number of threads of the running block.
unsigned CurrentLane();
unsigned ThreadsOfBlock();

/// Ends the program with one line: kernel, block and thread that run, the message (printf style),
/// the seed.
[[noreturn]] void Fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// The value of lane `source`; NaN bits if that lane does not take part.
template <class T>
T Shuffle(const char* what, unsigned mask, T value, unsigned source) {
  struct Argument {
    T value;
    T result;
    unsigned source;
  };
  Argument argument{value, value, source};
  MeetLanes(what, mask, &argument, [](unsigned lanes, void* const* arguments) {
    for (unsigned lane = 0; lane < 32; ++lane) {
      if ((lanes >> lane & 1u) == 0) continue;
      Argument& own = *static_cast<Argument*>(arguments[lane]);
      if ((lanes >> own.source & 1u) != 0) {
        own.result = static_cast<const Argument*>(arguments[own.source])->value;
      } else {
        std::memset(&own.result, 0xFF, sizeof(T));
      }
    }
  });
  return argument.result;
}

/// The lanes of `mask` that brought true.
unsigned Ballot(const char* what, unsigned mask, bool predicate);

}  // namespace mf::emulated_gpu

inline void __syncthreads() { mf::emulated_gpu::MeetThreads("__syncthreads", false); }
inline int __syncthreads_count(int predicate) {
  return static_cast<int>(mf::emulated_gpu::MeetThreads("__syncthreads_count", predicate != 0));
}
inline int __syncthreads_or(int predicate) {
  return mf::emulated_gpu::MeetThreads("__syncthreads_or", predicate != 0) > 0;
}
inline int __syncthreads_and(int predicate) {
  return mf::emulated_gpu::MeetThreads("__syncthreads_and", predicate != 0) ==
         mf::emulated_gpu::ThreadsOfBlock();
}

void __syncwarp(unsigned mask = 0xFFFFFFFFu);

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return mf::emulated_gpu::Ballot("__ballot_sync", mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return mf::emulated_gpu::Ballot("__any_sync", mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return mf::emulated_gpu::Ballot("__all_sync", mask, predicate != 0) == mask;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned segment = mf::emulated_gpu::CurrentLane() & ~static_cast<unsigned>(width - 1);
  return mf::emulated_gpu::Shuffle("__shfl_sync", mask, value,
                                   segment | (static_cast<unsigned>(source) & (width - 1u)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const unsigned lane = mf::emulated_gpu::CurrentLane();
  const unsigned end = (lane & ~static_cast<unsigned>(width - 1)) + static_cast<unsigned>(width);
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return mf::emulated_gpu::Shuffle("__shfl_xor_sync", mask, value, source < end ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = mf::emulated_gpu::CurrentLane();
  const unsigned segment = lane & ~static_cast<unsigned>(width - 1);
  return mf::emulated_gpu::Shuffle("__shfl_up_sync", mask, value,
                                   lane >= segment + delta ? lane - delta : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = mf::emulated_gpu::CurrentLane();
  const unsigned end = (lane & ~static_cast<unsigned>(width - 1)) + static_cast<unsigned>(width);
  return mf::emulated_gpu::Shuffle("__shfl_down_sync", mask, value,
                                   lane + delta < end ? lane + delta : lane);
}
