// Changes fields that several operations have, whatever the operation: for tests that send requests
// that are late or wrong.
#pragma once

#include <cstdint>
#include <utility>
#include <variant>

#include "common/base/check.h"
#include "common/net/messages.h"

namespace mf {

/// A request of any operation with nothing in it.
inline RequestBody EmptyRequest(Op op) {
  RequestBody body;
  [&]<size_t... i>(std::index_sequence<i...>) {
    ((static_cast<size_t>(op) == i ? (void)body.emplace<i>() : (void)0), ...);
  }
  (std::make_index_sequence<kOpCount>());
  return body;
}

/// Calls change(epoch, step) with what the request says of where it belongs.
template <class Change>
void EditStep(Request& request, Change change) {
  const auto edit = [&](auto& at) { change(at.epoch, at.step); };
  std::visit(
      [&](auto& body) {
        if constexpr (requires { std::get<OpenStep>(body.at); }) {
          std::visit(edit, body.at);
        } else if constexpr (requires { body.at; }) {
          edit(body.at);
        } else if constexpr (requires { body.to; }) {
          edit(body.to);
        } else {
          MF_CHECK(false);
        }
      },
      request.body);
}

/// Calls change(body) if the request's body is one of Bodies; else the test is wrong.
template <class... Bodies, class Change>
void EditBody(Request& request, Change change) {
  bool found = false;
  const auto edit = [&]<class Body>(Body* body) {
    if (body == nullptr) return;
    change(*body);
    found = true;
  };
  (edit(std::get_if<Bodies>(&request.body)), ...);
  MF_CHECK(found);
}

}  // namespace mf
