# The GPU tiers: found, not demanded. Sets ATTN_HAVE_CUDA; attn_add_cuda_tiers() adds their files.
# Without nvcc the tiers stay in the ladder, unavailable with the reason "built without CUDA".
set(ATTN_HAVE_CUDA OFF)
if(ATTN_CUDA AND NOT (ATTN_CUDA STREQUAL "AUTO" AND NOT ATTN_GPU_TIERS))
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    # Machine code for A100 and Hopper, and portable code for newer chips: that of A100 is there
    # anyway, a third one would be a third of the compilers' work. Must be set before the language
    # is enabled, or CMake takes nvcc's default.
    set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    # CMake 3.25.1 does not know that nvcc takes C++20, and refuses every target that asks for it.
    if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
      list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
      set(CMAKE_CUDA20_COMPILE_FEATURES cuda_std_20)
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(ATTN_HAVE_CUDA ON)
  elseif(NOT ATTN_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "ATTN_CUDA is ${ATTN_CUDA}, but no working nvcc was found "
                        "(set CUDACXX or CMAKE_CUDA_COMPILER)")
  endif()
endif()
message(STATUS "GPU tiers: ${ATTN_HAVE_CUDA}")

function(attn_add_cuda_tiers target)
  if(NOT ATTN_HAVE_CUDA)
    return()
  endif()
  set(gpu ${PROJECT_SOURCE_DIR}/gpu)
  target_sources(${target} PRIVATE ${gpu}/device.cpp ${gpu}/staging.cpp ${gpu}/tensor_map.cpp)
  foreach(name IN LISTS ATTN_GPU_TIERS)
    if(NOT EXISTS ${gpu}/${name}.cu)
      message(FATAL_ERROR "lib/tiers.def names the tier '${name}', but there is no gpu/${name}.cu")
    endif()
    file(GLOB files CONFIGURE_DEPENDS ${gpu}/${name}.cu ${gpu}/${name}_*.cu)
    # cuda_int8_hopper.cu is a tier of its own, not a part of cuda_int8.
    foreach(other IN LISTS ATTN_GPU_TIERS)
      if(other MATCHES "^${name}_")
        list(FILTER files EXCLUDE REGEX "/${other}(_[a-z0-9_]+)?\\.cu$")
      endif()
    endforeach()
    target_sources(${target} PRIVATE ${files})
  endforeach()
  target_compile_definitions(${target} PRIVATE ATTN_HAVE_CUDA=1)
  if(CMAKE_CUDA_ARCHITECTURES MATCHES "90a")
    target_compile_definitions(${target} PRIVATE ATTN_SM90A=1)
  endif()
  target_include_directories(${target} PRIVATE ${gpu})
  # cudart goes inside the program: nothing of CUDA is needed to load it on a machine without it.
  # To link one, the toolkit is: attention_ladderConfig.cmake and attention_ladder.pc ask for it.
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  # Without the relaxed rules device code could not call std::bit_cast and numeric_limits. -lineinfo,
  # which doubles the library: the sanitizers and profilers name source lines.
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-Wall
      $<$<BOOL:${ATTN_PTXAS}>:-Xptxas=-v> $<$<BOOL:${ATTN_PTXAS}>:-lineinfo>
      $<$<BOOL:${ATTN_WERROR}>:-Werror=all-warnings>>)
endfunction()
