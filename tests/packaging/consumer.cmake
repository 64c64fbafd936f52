# cmake -DWAY=installed|subproject -DBUILD=... -DWORK=... -DGENERATOR=... -DCXX=... -DCXX_FLAGS=...
#       [-DWERROR=ON] -P consumer.cmake
# Installs to one folder, moves the installation to another, and builds tests/consumer against it;
# or builds tests/consumer with the library as a part of it. Then runs it.
get_filename_component(tests ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
get_filename_component(source ${tests}/.. ABSOLUTE)

function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed (${result}): ${command}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
set(build ${WORK})
if(WAY STREQUAL "installed")
  set(build ${WORK}/build)
endif()
set(configure ${CMAKE_COMMAND} -S ${tests}/consumer -B ${build} -G ${GENERATOR}
    -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_FLAGS=${CXX_FLAGS} -DCMAKE_BUILD_TYPE=Release)

if(WAY STREQUAL "installed")
  step(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first)
  file(RENAME ${WORK}/first ${WORK}/moved)
  # Nothing of the build or source tree may be baked in.
  file(GLOB_RECURSE texts ${WORK}/moved/*.cmake ${WORK}/moved/*.pc)
  foreach(file IN LISTS texts)
    file(READ ${file} text)
    foreach(path IN ITEMS ${source}/ ${WORK}/first)
      string(FIND "${text}" "${path}" at)
      if(NOT at EQUAL -1)
        message(FATAL_ERROR "${file} holds the path ${path}")
      endif()
    endforeach()
  endforeach()
  step(${configure} -DCMAKE_PREFIX_PATH=${WORK}/moved)
else()
  step(${configure} -DATTN_SOURCE=${source} -DATTN_CUDA=OFF -DATTN_WERROR=${WERROR})
endif()
step(${CMAKE_COMMAND} --build ${build})
step(${build}/consumer)

find_program(pkg_config NAMES pkg-config pkgconf)
if(WAY STREQUAL "installed" AND pkg_config)
  file(GLOB_RECURSE pc ${WORK}/moved/attention_ladder.pc)
  get_filename_component(folder ${pc} DIRECTORY)
  set(ENV{PKG_CONFIG_PATH} ${folder})
  execute_process(COMMAND ${pkg_config} --cflags --libs attention_ladder
                  OUTPUT_VARIABLE flags COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${CXX_FLAGS} ${flags}")
  step(${CXX} -std=c++20 ${tests}/consumer/consumer.cpp -o ${WORK}/by_pkg_config ${flags})
  step(${WORK}/by_pkg_config)
endif()
