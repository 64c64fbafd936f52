# Reads lib/tiers.def and compiles each tier's files: cpu/<name>.cpp, cpu/<name>_*.cpp,
# gpu/<name>.cu, gpu/<name>_*.cu. A file cpu/<name>*.isa.cpp is compiled once per instruction set,
# each copy with its own flags and ATTN_ISA set to the name of its namespace. A file
# cpu/<name>*.dot.cpp also has copies for the instruction sets with 8-bit dot products.

file(STRINGS ${PROJECT_SOURCE_DIR}/lib/tiers.def ATTN_TIER_LINES REGEX "^ATTN_(CPU|GPU)_TIER")
set(ATTN_CPU_TIERS)
set(ATTN_GPU_TIERS)
foreach(line IN LISTS ATTN_TIER_LINES)
  string(REGEX MATCH "^ATTN_(CPU|GPU)_TIER\\(([a-z0-9_]+)," _ "${line}")
  list(APPEND ATTN_${CMAKE_MATCH_1}_TIERS ${CMAKE_MATCH_2})
endforeach()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/lib/tiers.def)

# Instruction sets, the baseline first. The baseline copy always exists.
set(ATTN_ISAS baseline)
set(ATTN_DOT_ISAS baseline)
set(ATTN_ISA_FLAGS_baseline "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND ATTN_ISAS avx2 avx512)
  set(ATTN_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi2)
  set(ATTN_ISA_FLAGS_avx512 -mavx512f -mavx512cd -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c -mbmi2)
  list(APPEND ATTN_DOT_ISAS avx2 avxvnni avx512 avx512vnni)
  set(ATTN_ISA_FLAGS_avxvnni ${ATTN_ISA_FLAGS_avx2} -mavxvnni)
  set(ATTN_ISA_FLAGS_avx512vnni ${ATTN_ISA_FLAGS_avx512} -mavx512vnni)
  # The matrix tiles of AMX: a copy of .dot.cpp files, and files of their own that end in .amx.cpp.
  list(APPEND ATTN_DOT_ISAS amx)
  set(ATTN_ISA_FLAGS_amx ${ATTN_ISA_FLAGS_avx512} -mavx512bf16 -mavx512vnni -mamx-tile -mamx-bf16 -mamx-int8)
endif()

set(ATTN_UNCHECKED_ISAS "" CACHE STRING
    "Instruction sets whose copies are compiled without sanitizers: those that nobody is to run")

# Compiles `file` once for each of the instruction sets given after it.
function(attn_add_isa_file target file)
  set(isas ${ARGN})
  set(extra)
  if(file MATCHES "\\.dot\\.cpp$")
    # GCC 12 copies the accumulators of a loop of vpdpbusd through other registers: 2.4 times slower.
    set(extra $<$<CXX_COMPILER_ID:GNU>:-fno-tree-pre>)
  endif()
  if(NOT isas)
    set(isas ${ATTN_ISAS})
  endif()
  foreach(isa IN LISTS isas)
    get_filename_component(stem ${file} NAME_WE)
    set(object ${target}_${stem}_${isa})
    add_library(${object} OBJECT ${file})
    get_target_property(excluded ${target} EXCLUDE_FROM_ALL)
    if(excluded)
      set_target_properties(${object} PROPERTIES EXCLUDE_FROM_ALL ON)
    endif()
    # GCC 12 calls the "undefined" registers of its own AVX-512 headers uninitialized.
    # Own options instead of the target's: an -O0 copy would leak std:: functions compiled for a
    # large instruction set into the whole program, where an older machine would execute them.
    # Under UBSan, clang 14 takes four times as long for them with these three checks, of which the
    # address sanitizer sees what matters.
    target_compile_options(${object} PRIVATE ${ATTN_ISA_FLAGS_${isa}} -Wall -Wextra -fno-math-errno
      $<$<CXX_COMPILER_ID:Clang>:-fno-sanitize=pointer-overflow,null,object-size>
      $<$<IN_LIST:${isa},${ATTN_UNCHECKED_ISAS}>:-fno-sanitize=all>
      "$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-uninitialized>"
      ${extra} -ffp-contract=fast $<$<CONFIG:Debug>:-O2> $<$<BOOL:${ATTN_WERROR}>:-Werror>)
    target_compile_definitions(${object} PRIVATE ATTN_ISA=${isa} ATTN_ISA_${isa}=1 Eigen=Eigen_${isa})
    target_include_directories(${object} PRIVATE ${PROJECT_SOURCE_DIR}/lib/include
      ${PROJECT_SOURCE_DIR}/lib/src ${PROJECT_SOURCE_DIR}/cpu)
    target_link_libraries(${object} PRIVATE Eigen3::Eigen xsimd OpenMP::OpenMP_CXX)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
    set_property(GLOBAL APPEND PROPERTY ATTN_ISA_OBJECTS $<TARGET_OBJECTS:${object}>)
  endforeach()
endfunction()

function(attn_add_tiers target)
  foreach(name IN LISTS ATTN_CPU_TIERS)
    file(GLOB files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cpu/${name}.cpp
         ${PROJECT_SOURCE_DIR}/cpu/${name}.isa.cpp ${PROJECT_SOURCE_DIR}/cpu/${name}.dot.cpp
         ${PROJECT_SOURCE_DIR}/cpu/${name}_*.cpp)
    if(NOT files)
      message(FATAL_ERROR "lib/tiers.def names the tier '${name}', but there is no cpu/${name}.cpp")
    endif()
    foreach(file IN LISTS files)
      if(file MATCHES "\\.isa\\.cpp$")
        attn_add_isa_file(${target} ${file})
      elseif(file MATCHES "\\.dot\\.cpp$")
        attn_add_isa_file(${target} ${file} ${ATTN_DOT_ISAS})
      elseif(file MATCHES "\\.amx\\.cpp$")
        if(DEFINED ATTN_ISA_FLAGS_amx)
          attn_add_isa_file(${target} ${file} amx)
        endif()
      else()
        target_sources(${target} PRIVATE ${file})
      endif()
    endforeach()
  endforeach()
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:Eigen3::Eigen> $<BUILD_INTERFACE:xsimd>
                                          OpenMP::OpenMP_CXX)
endfunction()
