// Memory of Python objects (NumPy arrays, and what torch tensors are on the CPU) as frames and
// outputs of requests, without a copy.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>

#include "common/base/buffer.h"

namespace mf {

/// A view of an object's memory: contiguous, C order. Any thread may let it go, as it is given back
/// to Python later, by GiveBackArrays().
using Array = std::shared_ptr<Py_buffer>;

/// Throws a Python error for an object that has no such memory, or not of `bytes` bytes; `what`
/// names it. `writable`: it will be written to.
Array ArrayOf(const pybind11::object& object, size_t bytes, const char* what,
              bool writable = false);
/// The same for any size.
Array ArrayOf(const pybind11::object& object, const char* what, bool writable = false);
Frame FrameOf(const Array& array);
template <class T>
T* DataOf(const Array& array) {
  return static_cast<T*>(array->buf);
}

/// With the GIL: gives Python back the views that were let go.
void GiveBackArrays();

}  // namespace mf
