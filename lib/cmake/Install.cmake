# cmake --install build/release --prefix /somewhere
# The result may be moved; find_package(attention_ladder) and pkg-config find it there.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(ATTN_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/attention_ladder)

install(TARGETS attention_ladder EXPORT attention_ladder)
install(DIRECTORY lib/include/attn DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(EXPORT attention_ladder NAMESPACE attention_ladder:: DESTINATION ${ATTN_CONFIG_DIR}
        FILE attention_ladderTargets.cmake)
configure_package_config_file(lib/cmake/attention_ladderConfig.cmake.in
  ${PROJECT_BINARY_DIR}/attention_ladderConfig.cmake INSTALL_DESTINATION ${ATTN_CONFIG_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/attention_ladderConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/attention_ladderConfig.cmake
  ${PROJECT_BINARY_DIR}/attention_ladderConfigVersion.cmake DESTINATION ${ATTN_CONFIG_DIR})

set(ATTN_PC_CUDA "")
if(ATTN_HAVE_CUDA)
  set(ATTN_PC_CUDA "-L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -lpthread")
endif()
file(RELATIVE_PATH ATTN_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(lib/cmake/attention_ladder.pc.in ${PROJECT_BINARY_DIR}/attention_ladder.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/attention_ladder.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
