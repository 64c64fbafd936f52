# cmake -DNM=nm -DOBJECTS=a.o;b.o -P isa_symbols.cmake
# The copies of a file that are compiled for larger instruction sets may not define a function that
# the linker could take for the whole program: an older machine would die of it. Such functions are
# the weak ones without the name of the instruction set in their own names.
set(found)
set(count 0)
foreach(object IN LISTS OBJECTS)
  if(NOT object MATCHES "_(avx2|avx512)\\.dir/")
    continue()
  endif()
  math(EXPR count "${count} + 1")
  set(isa ${CMAKE_MATCH_1})
  execute_process(COMMAND ${NM} --demangle --defined-only ${object} OUTPUT_VARIABLE symbols
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [Wu] [^\n]*" weak "${symbols}")
  list(FILTER weak EXCLUDE REGEX "${isa}")
  foreach(symbol IN LISTS weak)
    string(APPEND found "\n${object}: ${symbol}")
  endforeach()
endforeach()
if(found)
  message(FATAL_ERROR "functions that could leak to other machines:${found}")
endif()
message(STATUS "${count} objects of larger instruction sets share no function")
