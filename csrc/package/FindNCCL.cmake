# Finds NCCL: NCCL_FOUND, NCCL_VERSION, NCCL_LIBRARY, NCCL_INCLUDE_DIR.
#
# Looks, in this order, below ZERO1_NCCL_ROOT (a folder with include/ and lib/, given to CMake or in
# the environment), in the CUDA folder, where the system keeps libraries, and in the Python
# environment: the active one, that in .venv of the source tree, and what python3 imports. Python's
# packages have libnccl.so.2 alone, without the link that -lnccl needs: so the library is linked
# by its full path.
set(nccl_roots)
foreach(root IN ITEMS "${ZERO1_NCCL_ROOT}" "$ENV{ZERO1_NCCL_ROOT}" "${CUDAToolkit_TARGET_DIR}"
                      "$ENV{CUDA_HOME}" /usr/local/cuda)
  if(root)
    list(APPEND nccl_roots "${root}")
  endif()
endforeach()
set(nccl_python_roots)
foreach(environment IN ITEMS "$ENV{VIRTUAL_ENV}" "$ENV{CONDA_PREFIX}" "${PROJECT_SOURCE_DIR}/.venv")
  if(environment)
    file(GLOB found "${environment}/lib/python3*/site-packages/nvidia/nccl")
    list(APPEND nccl_python_roots ${found})
  endif()
endforeach()
find_program(nccl_python python3)
mark_as_advanced(nccl_python)
if(nccl_python)
  execute_process(
    COMMAND ${nccl_python} -c "import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])"
    OUTPUT_VARIABLE found ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  list(APPEND nccl_python_roots ${found})
endif()

# Header and library of one place, never of two.
set(NCCL_INCLUDE_DIR NCCL_INCLUDE_DIR-NOTFOUND CACHE PATH "Folder of nccl.h" FORCE)
set(NCCL_LIBRARY NCCL_LIBRARY-NOTFOUND CACHE FILEPATH "NCCL's library" FORCE)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
foreach(root IN LISTS nccl_roots ITEMS system LISTS nccl_python_roots)
  if(root STREQUAL "system")
    find_path(NCCL_INCLUDE_DIR nccl.h)
    find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2)
  else()
    find_path(NCCL_INCLUDE_DIR nccl.h PATHS ${root} PATH_SUFFIXES include NO_DEFAULT_PATH)
    find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 PATHS ${root} PATH_SUFFIXES lib64 lib
                 NO_DEFAULT_PATH)
  endif()
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    break()
  endif()
  set(NCCL_INCLUDE_DIR NCCL_INCLUDE_DIR-NOTFOUND CACHE PATH "Folder of nccl.h" FORCE)
  set(NCCL_LIBRARY NCCL_LIBRARY-NOTFOUND CACHE FILEPATH "NCCL's library" FORCE)
endforeach()

set(NCCL_VERSION)
if(NCCL_INCLUDE_DIR)
  foreach(part IN ITEMS MAJOR MINOR PATCH)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h line REGEX "^#define NCCL_${part} +[0-9]+$")
    string(REGEX MATCH "[0-9]+$" number "${line}")
    list(APPEND NCCL_VERSION ${number})
  endforeach()
  list(JOIN NCCL_VERSION "." NCCL_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR
                                  VERSION_VAR NCCL_VERSION)
