# cmake --install: both programs, and for programs of others the client library with the headers that are
# meant for them, a CMake package (find_package(MemoryFormer)) and a pkg-config file.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# One shared library, so that who links it needs none of the libraries inside.
add_library(memoryformer SHARED $<TARGET_OBJECTS:mf_common> $<TARGET_OBJECTS:mf_schema>)
set_target_properties(memoryformer PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
target_compile_features(memoryformer PUBLIC cxx_std_20)
target_link_libraries(memoryformer PRIVATE mf_common mf_schema)
target_include_directories(memoryformer INTERFACE
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/memoryformer>)

# What memoryformer.h includes, and nothing else.
set(MF_PUBLIC_HEADERS
  common/base/buffer.h common/base/buffer_pool.h common/base/check.h common/base/status.h
  common/client/answer.h common/client/reader.h common/client/session.h common/client/table_client.h
  common/net/step.h
  common/run/column_blocks.h common/run/keyed_rows.h common/run/optimizer_settings.h
  common/run/run_description.h common/run/tensor_share.h common/run/tensor_spec.h)
foreach(header ${MF_PUBLIC_HEADERS})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/memoryformer/${folder})
endforeach()
install(FILES common/memoryformer.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/memoryformer)

# The same search path before and after: that of the OpenBLAS which was linked.
set_target_properties(worker PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "${OPENBLAS_LIBRARY_DIRS}")
install(TARGETS worker pserver RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS memoryformer EXPORT MemoryFormerTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
set(MF_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/MemoryFormer)
install(EXPORT MemoryFormerTargets NAMESPACE MemoryFormer:: DESTINATION ${MF_PACKAGE_DIR})
configure_package_config_file(cmake/MemoryFormerConfig.cmake.in ${CMAKE_BINARY_DIR}/MemoryFormerConfig.cmake
  INSTALL_DESTINATION ${MF_PACKAGE_DIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/MemoryFormerConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/MemoryFormerConfig.cmake ${CMAKE_BINARY_DIR}/MemoryFormerConfigVersion.cmake
  DESTINATION ${MF_PACKAGE_DIR})
# Relative, so that an installed tree may be moved.
file(RELATIVE_PATH MF_PC_PREFIX /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
configure_file(cmake/memoryformer.pc.in ${CMAKE_BINARY_DIR}/memoryformer.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/memoryformer.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
