# What train_lm takes for --device cuda: libzero1's CUDA device, and cuBLAS from the CUDA folder,
# from ZERO1_CUBLAS_ROOT, or from a Python environment. Makes lm_cublas, and sets lm_gpu_missing:
# empty, or what is not there.
set(ZERO1_CUBLAS_ROOT "" CACHE PATH
                               "Folder of cuBLAS (include/, lib/), where it is not in that of CUDA")

# Sets `result` to the folders of NVIDIA's packages in the Python environments at hand.
function(find_python_nvidia result)
  set(folders)
  foreach(python IN ITEMS $ENV{VIRTUAL_ENV}/bin/python ${PROJECT_SOURCE_DIR}/.venv/bin/python
                          python3)
    execute_process(COMMAND ${python} -c "import nvidia; print(';'.join(nvidia.__path__))"
                    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
                    RESULT_VARIABLE failed)
    if(NOT failed)
      list(APPEND folders ${found})
    endif()
  endforeach()
  set(${result} ${folders} PARENT_SCOPE)
endfunction()

# Sets ZERO1_CUBLAS_INCLUDE and ZERO1_CUBLAS_LIBRARY, of the compiler's own major version.
function(find_loose_cublas)
  set(major ${CUDAToolkit_VERSION_MAJOR})
  find_python_nvidia(nvidia)
  list(TRANSFORM nvidia APPEND /cu${major} OUTPUT_VARIABLE by_version)
  list(TRANSFORM nvidia APPEND /cublas OUTPUT_VARIABLE by_name)
  set(folders ${ZERO1_CUBLAS_ROOT} ${ZERO1_CUBLAS_ROOT}/nvidia/cu${major} ${by_version} ${by_name})
  find_path(ZERO1_CUBLAS_INCLUDE cublas_v2.h HINTS ${folders} PATH_SUFFIXES include)
  find_library(ZERO1_CUBLAS_LIBRARY NAMES libcublas.so.${major} cublas HINTS ${folders}
               PATH_SUFFIXES lib64 lib)
  mark_as_advanced(ZERO1_CUBLAS_INCLUDE ZERO1_CUBLAS_LIBRARY)
endfunction()

if(NOT zero1_cuda)
  set(lm_gpu_missing "libzero1 is built without CUDA${cuda_why_not}")
  return()
endif()

set(lm_gpu_missing "")
add_library(lm_cublas INTERFACE)
if(TARGET CUDA::cublas AND NOT ZERO1_CUBLAS_ROOT)
  target_link_libraries(lm_cublas INTERFACE CUDA::cublas)
  return()
endif()
find_loose_cublas()
if(NOT ZERO1_CUBLAS_INCLUDE OR NOT ZERO1_CUBLAS_LIBRARY)
  set(lm_gpu_missing "cuBLAS was not found (set ZERO1_CUBLAS_ROOT)")
  return()
endif()
file(STRINGS ${ZERO1_CUBLAS_INCLUDE}/cublas_api.h version REGEX "define CUBLAS_VER_MAJOR [0-9]+")
string(REGEX MATCH "[0-9]+$" version "${version}")
if(NOT version EQUAL CUDAToolkit_VERSION_MAJOR)
  set(lm_gpu_missing "${ZERO1_CUBLAS_LIBRARY} is cuBLAS ${version}, \
the compiler that of CUDA ${CUDAToolkit_VERSION_MAJOR}")
  return()
endif()
target_include_directories(lm_cublas SYSTEM INTERFACE ${ZERO1_CUBLAS_INCLUDE})
target_link_libraries(lm_cublas INTERFACE ${ZERO1_CUBLAS_LIBRARY})
