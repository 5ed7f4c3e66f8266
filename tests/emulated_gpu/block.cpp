#include "tests/emulated_gpu/block.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "emulated_gpu/control.h"
#include "tests/emulated_gpu/fiber.h"
#include "tests/emulated_gpu/shared_memory.h"
#include "tests/emulated_gpu/symbols.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace mf::emulated_gpu {
namespace {

struct Thread {
  uint3 index = {};
  unsigned number = 0;
  // Of a meeting of lanes that the thread waits for.
  unsigned mask = 0;
  void* argument = nullptr;
  Completion complete = nullptr;
  Fiber* fiber = nullptr;
};

struct Warp {
  uint32_t runnable = 0;
  uint32_t at_lanes = 0;    // wait for other lanes
  uint32_t at_threads = 0;  // wait for the whole block
  uint32_t exited = 0;
  const char* at = nullptr;  // what the last to wait called
};

/// The block that runs; there is one at a time.
struct Block {
  const Grid* grid = nullptr;
  Dice dice{0};
  unsigned threads = 0;
  unsigned warps = 0;
  unsigned exited = 0;
  // The meeting of all threads.
  unsigned met = 0;
  unsigned met_true = 0;
  unsigned result = 0;
  const char* meeting = nullptr;
  // Which warp goes on: any, or the first of `order` that can.
  bool in_turns = true;
  uint32_t ready = 0;  // places in `order` of warps with lanes that can run
  std::array<unsigned, kWarpLanes> order = {};
  std::array<unsigned, kWarpLanes> place = {};
  std::array<Warp, kWarpLanes> warp;
  std::array<Thread, kMaxThreads> thread;
  Thread* current = nullptr;
};

Block& TheBlock() {
  static Block* const block = new Block;
  return *block;
}

void RunThread(void* /*argument*/) {
  Block& block = TheBlock();
  block.grid->thread();
  const unsigned number = block.current->number;
  Warp& warp = block.warp[number / kWarpLanes];
  warp.exited |= 1u << number % kWarpLanes;
  warp.runnable &= ~(1u << number % kWarpLanes);
  ++block.exited;
}

uint32_t LanesOf(const Block& block, unsigned warp) {
  const unsigned lanes = std::min(kWarpLanes, block.threads - warp * kWarpLanes);
  return lanes == kWarpLanes ? ~0u : (1u << lanes) - 1u;
}

/// Makes lanes runnable, and their warp ready.
void Release(Block& block, unsigned warp, uint32_t lanes) {
  block.warp[warp].runnable |= lanes;
  block.ready |= 1u << block.place[warp];
}

/// A new order of the warps, and a new way to choose among them. No warp may be ready.
void Shuffle(Block& block) {
  block.in_turns = (block.dice.Next() & 1u) != 0;
  for (unsigned i = block.warps; i > 1; --i) {
    std::swap(block.order[i - 1], block.order[block.dice.Below(i)]);
  }
  for (unsigned i = 0; i < block.warps; ++i) block.place[block.order[i]] = i;
}

void StartBlock(Block& block) {
  block.exited = 0;
  block.met = 0;
  block.met_true = 0;
  block.ready = 0;
  std::iota(block.order.begin(), block.order.begin() + block.warps, 0u);
  Shuffle(block);
  for (unsigned warp = 0; warp < block.warps; ++warp) {
    block.warp[warp] = {};
    Release(block, warp, LanesOf(block, warp));
  }
}

/// All threads are at the barrier: they go on.
void FinishMeeting(Block& block) {
  block.result = block.met_true;
  block.met = 0;
  block.met_true = 0;
  block.meeting = nullptr;
  Shuffle(block);
  for (unsigned warp = 0; warp < block.warps; ++warp) {
    block.warp[warp].at_threads = 0;
    Release(block, warp, LanesOf(block, warp));
  }
}

/// No thread can run and not all have ended.
[[noreturn]] void FaultOfStuckBlock(Block& block) {
  for (unsigned number = 0; number < block.threads; ++number) {
    const Warp& warp = block.warp[number / kWarpLanes];
    if ((warp.at_lanes >> number % kWarpLanes & 1u) == 0) continue;
    block.current = &block.thread[number];
    Fault(
        "%s with lanes 0x%08x: the lanes that came are 0x%08x, at the block's barrier 0x%08x, "
        "ended 0x%08x",
        warp.at, block.current->mask, warp.at_lanes, warp.at_threads, warp.exited);
  }
  for (unsigned number = 0; number < block.threads; ++number) {
    if ((block.warp[number / kWarpLanes].at_threads >> number % kWarpLanes & 1u) == 0) continue;
    block.current = &block.thread[number];
    break;
  }
  Fault("%s is reached by %u of %u threads, %u have ended", block.meeting, block.met, block.threads,
        block.exited);
}

void RunBlock(Block& block) {
  StartBlock(block);
  for (;;) {
    if (block.ready == 0) {
      if (block.exited == block.threads) break;
      if (block.met != block.threads) FaultOfStuckBlock(block);
      FinishMeeting(block);
    }
    const unsigned place = block.in_turns ? block.dice.Bit(block.ready)
                                          : static_cast<unsigned>(std::countr_zero(block.ready));
    const unsigned number = block.order[place];
    Warp& warp = block.warp[number];
    Thread& thread = block.thread[number * kWarpLanes + block.dice.Bit(warp.runnable)];
    block.current = &thread;
    threadIdx = thread.index;
    thread.fiber->Resume();
    if (warp.runnable == 0) block.ready &= ~(1u << place);
  }
  block.current = nullptr;
}

/// The thread that runs; a fault if none does.
Thread& Current(const char* what) {
  Block& block = TheBlock();
  if (block.current == nullptr) Fault("%s outside of a kernel", what);
  return *block.current;
}

}  // namespace

void MeetLanes(const char* what, unsigned mask, void* argument, Completion complete) {
  Block& block = TheBlock();
  Thread& self = Current(what);
  const unsigned lane = self.number % kWarpLanes;
  const unsigned first = self.number - lane;
  if ((mask >> lane & 1u) == 0) Fault("%s: the lane is not in the lanes 0x%08x", what, mask);
  self.mask = mask;
  self.argument = argument;
  self.complete = complete;
  Warp& warp = block.warp[self.number / kWarpLanes];
  warp.at = what;
  warp.runnable &= ~(1u << lane);
  warp.at_lanes |= 1u << lane;
  bool met = (warp.at_lanes & mask) == mask;
  std::array<void*, kWarpLanes> arguments;  // of lanes in `mask`
  for (unsigned other = 0; other < kWarpLanes && met; ++other) {
    if ((mask >> other & 1u) == 0) continue;
    const Thread& thread = block.thread[first + other];
    met = thread.mask == mask && thread.complete == complete;
    arguments[other] = thread.argument;
  }
  if (met) {
    complete(mask, arguments.data());
    warp.at_lanes &= ~mask;
    Release(block, self.number / kWarpLanes, mask);
    return;  // the last to come goes on at once
  }
  self.fiber->Wait();
}

unsigned MeetThreads(const char* what, bool predicate) {
  Block& block = TheBlock();
  Thread& self = Current(what);
  if (block.met > 0 && what != block.meeting && std::strcmp(what, block.meeting) != 0) {
    Fault("%s while other threads are at %s", what, block.meeting);
  }
  block.meeting = what;
  ++block.met;
  block.met_true += predicate ? 1u : 0u;
  Warp& warp = block.warp[self.number / kWarpLanes];
  warp.runnable &= ~(1u << self.number % kWarpLanes);
  warp.at_threads |= 1u << self.number % kWarpLanes;
  self.fiber->Wait();
  return block.result;
}

unsigned Ballot(const char* what, unsigned mask, bool predicate) {
  struct Argument {
    bool predicate;
    unsigned result;
  };
  Argument argument{predicate, 0};
  MeetLanes(what, mask, &argument, [](unsigned lanes, void* const* arguments) {
    unsigned result = 0;
    for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
      if ((lanes >> lane & 1u) == 0) continue;
      if (static_cast<const Argument*>(arguments[lane])->predicate) result |= 1u << lane;
    }
    for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
      if ((lanes >> lane & 1u) != 0) static_cast<Argument*>(arguments[lane])->result = result;
    }
  });
  return argument.result;
}

unsigned CurrentLane() { return Current("a lane").number % kWarpLanes; }
unsigned ThreadsOfBlock() { return TheBlock().threads; }

void Fault(const char* format, ...) {
  const Block& block = TheBlock();
  std::fflush(stdout);
  std::fprintf(stderr, "emulated GPU: fault: ");
  if (block.grid != nullptr) {
    std::fprintf(stderr, "kernel %s, block (%u,%u,%u)", SymbolName(block.grid->kernel).c_str(),
                 blockIdx.x, blockIdx.y, blockIdx.z);
    if (block.current != nullptr) {
      const uint3& at = block.current->index;
      std::fprintf(stderr, ", thread (%u,%u,%u)", at.x, at.y, at.z);
    }
    std::fprintf(stderr, ": ");
  }
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, " [MF_EMULATED_GPU_SEED=%llu]\n", static_cast<unsigned long long>(Seed()));
  std::abort();
}

void RunGrid(const Grid& grid, Dice dice) {
  Block& block = TheBlock();
  block.grid = &grid;
  block.dice = dice;
  block.threads = grid.threads.x * grid.threads.y * grid.threads.z;
  block.warps = (block.threads + kWarpLanes - 1) / kWarpLanes;
  for (unsigned i = 0; i < block.threads; ++i) {
    Thread& thread = block.thread[i];
    thread.index = {i % grid.threads.x, i / grid.threads.x % grid.threads.y,
                    i / grid.threads.x / grid.threads.y};
    thread.number = i;
    if (thread.fiber == nullptr) thread.fiber = new Fiber(RunThread, nullptr);
  }
  blockDim = grid.threads;
  gridDim = grid.blocks;
  const size_t blocks = static_cast<size_t>(grid.blocks.x) * grid.blocks.y * grid.blocks.z;
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = blocks; i > 0; --i) {
    std::swap(order[i - 1], order[block.dice.Below(i)]);
    const unsigned number = order[i - 1];
    blockIdx = {number % grid.blocks.x, number / grid.blocks.x % grid.blocks.y,
                number / grid.blocks.x / grid.blocks.y};
    PrepareSharedMemory(grid.shared_bytes);
    RunBlock(block);
    CheckSharedMemory(grid.shared_bytes, 4096);
  }
  CheckSharedMemory(grid.shared_bytes, ~size_t{0});  // all: slow, so not after each block
  block.grid = nullptr;
}

}  // namespace mf::emulated_gpu

void __syncwarp(unsigned mask) {
  mf::emulated_gpu::MeetLanes("__syncwarp", mask, nullptr, [](unsigned, void* const*) {});
}
