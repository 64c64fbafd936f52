# What is installed is used; what the system lacks is fetched, at a pinned version and hash.
# FETCHCONTENT_SOURCE_DIR_<NAME>=folder uses a source tree of your own.
include(FetchContent)
find_package(OpenMP REQUIRED COMPONENTS CXX)

# attn_headers(name target include url sha256 [find_package arguments])
# A library of headers. Its own CMake files are not run: they build tests nobody asked for, or ask
# for a CMake that no longer exists. `target` is made here from the folder `include`.
function(attn_headers name target include url sha256)
  FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${sha256} DOWNLOAD_EXTRACT_TIMESTAMP OFF
                       SOURCE_SUBDIR no-cmake-please FIND_PACKAGE_ARGS GLOBAL ${ARGN})
  FetchContent_MakeAvailable(${name})
  if(NOT TARGET ${target})
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    string(TOLOWER ${name} lower)
    target_include_directories(${target} INTERFACE ${${lower}_SOURCE_DIR}/${include})
    message(STATUS "${name}: not installed, taken from ${url}")
  endif()
endfunction()

attn_headers(Eigen3 Eigen3::Eigen .
  https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.bz2
  b4c198460eba6f28d34894e3a5710998818515104d6e74e5cc331ce31e46e626 3.4 NO_MODULE)
attn_headers(xsimd xsimd include
  https://github.com/xtensor-stack/xsimd/archive/refs/tags/14.3.0.tar.gz
  b3d50e7a73fbf4642ceef30131c93414901d69eee41c2a5302db650b03e2c792)
# Debian's xsimd 8.1 asks for xtl, which it neither needs nor brings.
get_target_property(_xsimd_links xsimd INTERFACE_LINK_LIBRARIES)
if(_xsimd_links AND "xtl" IN_LIST _xsimd_links AND NOT TARGET xtl)
  list(REMOVE_ITEM _xsimd_links xtl)
  set_property(TARGET xsimd PROPERTY INTERFACE_LINK_LIBRARIES "${_xsimd_links}")
endif()

if(ATTN_TESTS)
  attn_headers(doctest doctest::doctest .
    https://github.com/doctest/doctest/archive/refs/tags/v2.4.12.tar.gz
    73381c7aa4dee704bd935609668cf41880ea7f19fa0504a200e13b74999c2d70)
  # include(doctest) is beside the installed package, or in the source tree.
  FetchContent_GetProperties(doctest)
  list(APPEND CMAKE_MODULE_PATH ${doctest_DIR} ${doctest_SOURCE_DIR}/scripts/cmake)
endif()

if(ATTN_CLI)
  attn_headers(CLI11 CLI11::CLI11 include
    https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.6.2.tar.gz
    c6ea6b2e5608b3ea8617999bd5f47420c71b2ebdb8dc4767c1034d1da5785711)
  attn_headers(nlohmann_json nlohmann_json::nlohmann_json include
    https://github.com/nlohmann/json/releases/download/v3.12.0/json.tar.xz
    42f6e95cad6ec532fd372391373363b62a14af6d771056dbfc86160e6dfff7aa)
  FetchContent_Declare(fmt
    URL https://github.com/fmtlib/fmt/archive/refs/tags/11.1.4.tar.gz
    URL_HASH SHA256=ac366b7b4c2e9f0dde63a59b3feb5ee59b67974b14ee5dc9ea8ad78aa2c1ee1e
    DOWNLOAD_EXTRACT_TIMESTAMP OFF FIND_PACKAGE_ARGS GLOBAL)
  FetchContent_MakeAvailable(fmt)
endif()

if(ATTN_BENCH)
  set(BENCHMARK_ENABLE_TESTING OFF CACHE INTERNAL "")
  set(BENCHMARK_ENABLE_INSTALL OFF CACHE INTERNAL "")
  FetchContent_Declare(benchmark
    URL https://github.com/google/benchmark/archive/refs/tags/v1.9.5.tar.gz
    URL_HASH SHA256=9631341c82bac4a288bef951f8b26b41f69021794184ece969f8473977eaa340
    DOWNLOAD_EXTRACT_TIMESTAMP OFF FIND_PACKAGE_ARGS GLOBAL)
  FetchContent_MakeAvailable(benchmark)
endif()
