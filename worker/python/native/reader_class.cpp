// Reader (common/client/reader.h) as a Python class.
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/base/address.h"
#include "common/base/logging.h"
#include "common/client/reader.h"
#include "worker/python/native/module.h"
#include "worker/python/native/tables_class.h"

namespace mf {
namespace {

namespace py = pybind11;

class PythonReader final : public TableAccess {
 public:
  explicit PythonReader(std::unique_ptr<Reader> reader) : reader_(std::move(reader)) {}
  const RunDescription& run() const override { return reader_->run(); }
  TableClient& tables() override { return reader_->tables(); }
  void Stop() override { reader_->Stop(); }
  Reader& reader() { return *reader_; }

 private:
  const std::unique_ptr<Reader> reader_;
};

using Holder = std::unique_ptr<PythonReader, CloseWithoutGil>;

Result<std::unique_ptr<Reader>> OpenReader(const std::vector<std::string>& servers,
                                           const std::string& keys, double deadline_seconds,
                                           const std::string& log) {
  MF_RETURN_IF_ERROR(SetUpLogging(log));
  MF_ASSIGN_OR_RETURN(std::vector<std::string> addresses, ParseServers("servers", servers));
  return Reader::Open(
      {.servers = std::move(addresses), .keys = keys, .deadline_seconds = deadline_seconds});
}

Holder Open(const std::vector<std::string>& servers, const std::string& keys,
            double deadline_seconds, const std::string& log) {
  py::gil_scoped_release others_run;
  Result<std::unique_ptr<Reader>> opened = OpenReader(servers, keys, deadline_seconds, log);
  py::gil_scoped_acquire with_gil;
  return Holder(new PythonReader(ValueOf(std::move(opened))));
}

}  // namespace

void AddReader(py::module_& module) {
  py::class_<PythonReader, TableAccess, Holder>(module, "Reader")
      .def(py::init(&Open), py::kw_only(), py::arg("servers"), py::arg("keys"),
           py::arg("deadline_seconds"), py::arg("log"))
      .def_property_readonly("run", &PythonReader::run, py::return_value_policy::reference_internal)
      .def_property_readonly("at",
                             [](PythonReader& self) {
                               const FinishedStep at = self.reader().at();
                               return std::tuple(at.epoch, at.step);
                             })
      .def("refresh", [](PythonReader& self) {
        return ValueOf(Wait(self, [&self] { return self.reader().Refresh(); }));
      });
}

}  // namespace mf
