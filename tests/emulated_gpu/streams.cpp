#include "tests/emulated_gpu/streams.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "emulated_gpu/warp_functions.h"
#include "tests/emulated_gpu/device.h"
#include "tests/emulated_gpu/random.h"

namespace mf::emulated_gpu {
namespace {

struct Operation {
  std::shared_ptr<const Point> after;  // not before this is reached; null: at any time
  std::function<void()> work;          // may be empty
  std::shared_ptr<Point> then;         // is reached by it; may be null
};

}  // namespace
}  // namespace mf::emulated_gpu

struct CUstream_st {
  std::deque<mf::emulated_gpu::Operation> queue;
  bool running = false;    // an operation left the queue and has not ended
  bool blocking = false;   // in order with the default stream
  bool destroyed = false;  // goes when its work has run
};

struct CUevent_st {
  std::shared_ptr<mf::emulated_gpu::Point> last;  // null: never recorded
  bool timed = true;
};

namespace mf::emulated_gpu {
namespace {

struct State {
  Mutex execution MF_ACQUIRED_BEFORE(queues);  // held while an operation runs: there is one GPU
  // Guards what streams and events hold, too.
  Mutex queues;
  std::vector<std::unique_ptr<CUstream_st>> streams MF_GUARDED_BY(queues);
  CUstream_st default_stream MF_GUARDED_BY(queues);

  State() { default_stream.blocking = true; }
};

State& TheState() {
  static State* const state = new State;  // outlives all static objects that use the GPU
  return *state;
}

/// Calls visit(stream) for all streams.
template <class Visitor>
void ForEachStream(State& state, const Visitor& visit) MF_REQUIRES(state.queues) {
  visit(state.default_stream);
  for (const auto& stream : state.streams) visit(*stream);
}

bool Idle(const CUstream_st& stream) { return stream.queue.empty() && !stream.running; }

/// The stream of a handle, or null if there is none such. The null handle is the default stream.
CUstream_st* Find(State& state, cudaStream_t handle) MF_REQUIRES(state.queues) {
  if (handle == nullptr) return &state.default_stream;
  for (const auto& stream : state.streams) {
    if (stream.get() == handle && !stream->destroyed) return handle;
  }
  return nullptr;
}

std::shared_ptr<Point> PointNow(CUstream_st& stream) {
  auto point = std::make_shared<Point>();
  stream.queue.push_back({nullptr, nullptr, point});
  return point;
}

/// Before an operation is queued on `stream`: the default stream's work follows what blocking
/// streams have queued, and theirs follows the default stream's.
void OrderWithDefaultStream(State& state, CUstream_st& stream) MF_REQUIRES(state.queues) {
  if (!stream.blocking) return;
  if (&stream != &state.default_stream) {
    if (Idle(state.default_stream)) return;
    stream.queue.push_back({PointNow(state.default_stream), nullptr, nullptr});
    return;
  }
  for (const auto& other : state.streams) {
    if (!other->blocking || Idle(*other)) continue;
    stream.queue.push_back({PointNow(*other), nullptr, nullptr});
  }
}

bool Ready(const CUstream_st& stream) {
  return !stream.queue.empty() && !stream.running &&
         (stream.queue.front().after == nullptr || stream.queue.front().after->reached);
}

/// Runs one operation of a random stream; false if there is none that can run. `queues` is let go
/// while the operation runs.
bool RunOne(State& state) MF_REQUIRES(state.execution, state.queues) {
  std::vector<CUstream_st*> ready;
  ForEachStream(state, [&](CUstream_st& stream) {
    if (Ready(stream)) ready.push_back(&stream);
  });
  if (ready.empty()) return false;
  CUstream_st& stream = ready.size() == 1 ? *ready[0] : *ready[NextDice().Below(ready.size())];
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  stream.running = true;
  state.queues.Unlock();
  if (operation.work) operation.work();
  state.queues.Lock();
  stream.running = false;
  if (operation.then != nullptr) {
    operation.then->reached = true;
    operation.then->at = std::chrono::steady_clock::now();
  }
  if (stream.destroyed && stream.queue.empty()) {
    std::erase_if(state.streams, [&](const auto& one) { return one.get() == &stream; });
  }
  return true;
}

void RunUntil(State& state, const std::vector<std::shared_ptr<Point>>& points) {
  for (const std::shared_ptr<Point>& point : points) {
    for (;;) {
      MutexLock execution(state.execution);
      MutexLock queues(state.queues);
      if (point->reached) break;
      if (!RunOne(state)) Fault("no stream can go on");
    }
  }
}

}  // namespace

cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work) {
  State& state = TheState();
  MutexLock queues(state.queues);
  CUstream_st* const found = Find(state, stream);
  if (found == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  OrderWithDefaultStream(state, *found);
  found->queue.push_back({nullptr, std::move(work), nullptr});
  return cudaSuccess;
}

cudaError_t Synchronize(cudaStream_t stream) {
  State& state = TheState();
  std::shared_ptr<Point> point;
  {
    MutexLock queues(state.queues);
    CUstream_st* const found = Find(state, stream);
    if (found == nullptr) return Failed(cudaErrorInvalidResourceHandle);
    OrderWithDefaultStream(state, *found);
    if (Idle(*found)) return cudaSuccess;
    point = PointNow(*found);
  }
  RunUntil(state, {point});
  return cudaSuccess;
}

void SynchronizeAll() {
  State& state = TheState();
  std::vector<std::shared_ptr<Point>> points;
  {
    MutexLock queues(state.queues);
    ForEachStream(state, [&](CUstream_st& stream) {
      if (!Idle(stream)) points.push_back(PointNow(stream));
    });
  }
  RunUntil(state, points);
}

namespace {

cudaError_t Query(const std::function<bool(State&)>& done) {
  State& state = TheState();
  // Whoever asks again and again sees the work go on.
  if (state.execution.TryLock()) {
    {
      MutexLock queues(state.queues);
      if (!done(state)) RunOne(state);
    }
    state.execution.Unlock();
  }
  MutexLock queues(state.queues);
  return done(state) ? cudaSuccess : cudaErrorNotReady;
}

}  // namespace
}  // namespace mf::emulated_gpu

using namespace mf::emulated_gpu;  // NOLINT: the functions below are the emulator's, but global

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (stream == nullptr || flags > cudaStreamNonBlocking) return Failed(cudaErrorInvalidValue);
  auto made = std::make_unique<CUstream_st>();
  made->blocking = flags != cudaStreamNonBlocking;
  *stream = made.get();
  State& state = TheState();
  mf::MutexLock queues(state.queues);
  state.streams.push_back(std::move(made));
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  State& state = TheState();
  mf::MutexLock queues(state.queues);
  CUstream_st* const found = Find(state, stream);
  if (found == nullptr || found == &state.default_stream) {
    return Failed(cudaErrorInvalidResourceHandle);
  }
  found->destroyed = true;
  if (Idle(*found)) {
    std::erase_if(state.streams, [&](const auto& one) { return one.get() == found; });
  }
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return Synchronize(stream); }

cudaError_t cudaDeviceSynchronize() {
  SynchronizeAll();
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  {
    State& state = TheState();
    mf::MutexLock queues(state.queues);
    if (Find(state, stream) == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  }
  return Query([stream](State& state) MF_REQUIRES(state.queues) {
    const CUstream_st* const found = Find(state, stream);
    return found == nullptr || Idle(*found);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (event == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  if (flags != 0) return Failed(cudaErrorInvalidValue);
  State& state = TheState();
  mf::MutexLock queues(state.queues);
  CUstream_st* const found = Find(state, stream);
  if (found == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  OrderWithDefaultStream(state, *found);
  if (event->last != nullptr) found->queue.push_back({event->last, nullptr, nullptr});
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  if (function == nullptr) return Failed(cudaErrorInvalidValue);
  return Enqueue(stream, [function, data] { function(data); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (event == nullptr) return Failed(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  State& state = TheState();
  mf::MutexLock queues(state.queues);
  CUstream_st* const found = Find(state, stream);
  if (found == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  OrderWithDefaultStream(state, *found);
  event->last = PointNow(*found);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  State& state = TheState();
  std::shared_ptr<Point> point;
  {
    mf::MutexLock queues(state.queues);
    point = event->last;
  }
  if (point != nullptr) RunUntil(state, {point});
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  return Query([event](State&) { return event->last == nullptr || event->last->reached; });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (milliseconds == nullptr) return Failed(cudaErrorInvalidValue);
  if (start == nullptr || end == nullptr || !start->timed || !end->timed) {
    return Failed(cudaErrorInvalidResourceHandle);
  }
  State& state = TheState();
  mf::MutexLock queues(state.queues);
  if (start->last == nullptr || end->last == nullptr) {
    return Failed(cudaErrorInvalidResourceHandle);
  }
  if (!start->last->reached || !end->last->reached) return Failed(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->last->at - start->last->at).count();
  return cudaSuccess;
}
