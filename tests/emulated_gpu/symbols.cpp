#include "tests/emulated_gpu/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

namespace mf::emulated_gpu {
namespace {

/// How far the program is from where its file says that it is.
size_t LoadOffset() {
  size_t offset = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* to) {
        *static_cast<size_t*>(to) = info->dlpi_addr;
        return 1;  // the first is the program itself
      },
      &offset);
  return offset;
}

std::string Demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> readable(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return status == 0 ? readable.get() : name;
}

}  // namespace

// dladdr() knows exported symbols only; kernels are not.
std::string SymbolName(const void* address) {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::vector<char> image((std::istreambuf_iterator<char>(file)),
                                std::istreambuf_iterator<char>());
  const auto read = [&](size_t at, auto* to) {
    if (at + sizeof(*to) > image.size()) return false;
    std::memcpy(to, image.data() + at, sizeof(*to));
    return true;
  };
  const size_t wanted = reinterpret_cast<size_t>(address) - LoadOffset();
  Elf64_Ehdr header = {};
  if (read(0, &header)) {
    for (size_t i = 0; i < header.e_shnum; ++i) {
      Elf64_Shdr section = {};
      Elf64_Shdr strings = {};
      if (!read(header.e_shoff + i * sizeof(section), &section)) break;
      if (section.sh_type != SHT_SYMTAB) continue;
      if (!read(header.e_shoff + section.sh_link * sizeof(strings), &strings)) break;
      for (size_t at = 0; at < section.sh_size; at += sizeof(Elf64_Sym)) {
        Elf64_Sym symbol = {};
        if (!read(section.sh_offset + at, &symbol)) break;
        const size_t name = strings.sh_offset + symbol.st_name;
        if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_value == wanted &&
            name < image.size()) {
          return Demangled(image.data() + name);
        }
      }
    }
  }
  char text[32];
  std::snprintf(text, sizeof(text), "%p", address);
  return text;
}

}  // namespace mf::emulated_gpu
