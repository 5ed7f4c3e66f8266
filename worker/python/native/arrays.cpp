#include "worker/python/native/arrays.h"

#include <string>
#include <utility>
#include <vector>

#include "common/base/mutex.h"

namespace mf {
namespace {

namespace py = pybind11;

/// Views whose last owner has gone. The client's thread may be that owner; waiting there for the
/// GIL could wait for ever while Python ends.
struct LetGo {
  Mutex mutex;
  std::vector<Py_buffer*> views MF_GUARDED_BY(mutex);
};

LetGo& AllLetGo() {
  static LetGo* const all = new LetGo;  // never destroyed: threads may outlive static objects
  return *all;
}

void Release(Py_buffer* view) {
  LetGo& all = AllLetGo();
  MutexLock lock(all.mutex);
  all.views.push_back(view);
}

Array ViewOf(const py::object& object, const char* what, int flags) {
  auto view = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(object.ptr(), view.get(), flags) != 0) {
    PyErr_Clear();
    throw py::value_error(std::string(what) + ": is no contiguous array" +
                          ((flags & PyBUF_WRITABLE) != 0 ? " that can be written to" : ""));
  }
  return {view.release(), Release};
}

}  // namespace

Array ArrayOf(const py::object& object, size_t bytes, const char* what, bool writable) {
  Array view = ArrayOf(object, what, writable);
  if (static_cast<size_t>(view->len) == bytes) return view;
  throw py::value_error(std::string(what) + ": has " + std::to_string(view->len) + " bytes where " +
                        std::to_string(bytes) + " are needed");
}

Array ArrayOf(const py::object& object, const char* what, bool writable) {
  return ViewOf(object, what, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0));
}

Frame FrameOf(const Array& array) { return {array, array->buf, static_cast<size_t>(array->len)}; }

void GiveBackArrays() {
  std::vector<Py_buffer*> views;
  {
    LetGo& all = AllLetGo();
    MutexLock lock(all.mutex);
    views.swap(all.views);
  }
  for (Py_buffer* view : views) {
    PyBuffer_Release(view);
    delete view;
  }
}

}  // namespace mf
