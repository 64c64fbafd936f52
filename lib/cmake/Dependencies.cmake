# find_package first; what the system lacks is fetched at a pinned version.
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(xsimd REQUIRED)
# Debian's xsimd 8.1 asks for xtl, which it neither needs nor brings.
get_target_property(_xsimd_links xsimd INTERFACE_LINK_LIBRARIES)
if(_xsimd_links AND "xtl" IN_LIST _xsimd_links AND NOT TARGET xtl)
  list(REMOVE_ITEM _xsimd_links xtl)
  set_property(TARGET xsimd PROPERTY INTERFACE_LINK_LIBRARIES "${_xsimd_links}")
endif()
