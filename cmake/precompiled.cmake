# Headers that most files include, compiled once for all files of one kind: parsing them again for each took half
# of the time to build. A file still names what it uses. The compiler warns where a file's options are not
# those that its headers were compiled with.
set(MF_STANDARD_HEADERS <algorithm> <array> <atomic> <bit> <chrono> <cmath> <condition_variable> <cstdint>
  <cstdio> <cstring> <deque> <filesystem> <fstream> <functional> <limits> <map> <memory> <mutex> <numeric>
  <optional> <random> <set> <span> <sstream> <string> <string_view> <thread> <utility> <vector>)

# mf_precompiled_headers(NAME HEADER...): what targets of one kind name in REUSE_FROM.
function(mf_precompiled_headers name)
  add_library(${name} OBJECT ${CMAKE_SOURCE_DIR}/cmake/precompiled.cpp)
  target_precompile_headers(${name} PRIVATE ${MF_STANDARD_HEADERS} ${ARGN})
endfunction()

# The libraries. Programs are compiled as -fPIE, so that theirs are others.
mf_precompiled_headers(mf_library_headers)
mf_precompiled_headers(mf_command_headers <CLI/CLI.hpp>)
target_compile_options(mf_command_headers PRIVATE -fPIE ${MF_QUICK_OPTIONS})
