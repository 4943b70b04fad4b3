/* The status of a call. Part of the public face: C99, safe for C++ and for ctypes. */
#ifndef ZERO1_STATUS_H
#define ZERO1_STATUS_H

#include <stdint.h>

#if defined(_WIN32)
  #define ZERO1_API
#else
  #define ZERO1_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* name, value, text. The one list that makes both the constants and the texts. */
#define ZERO1_STATUS_LIST(X)                                                   \
  X(ZERO1_OK, 0, "success")                                                    \
  X(ZERO1_ERR_INVALID, -1, "invalid argument")                                 \
  X(ZERO1_ERR_MEMORY, -2, "out of memory")                                     \
  X(ZERO1_ERR_MISMATCH, -3, "the ranks disagree")                              \
  X(ZERO1_ERR_STATE, -4, "the call does not fit the state of the handle")      \
  X(ZERO1_ERR_UNSUPPORTED, -5, "not supported by this build or configuration") \
  X(ZERO1_ERR_VERSION, -6, "header and library are of different versions")     \
  X(ZERO1_ERR_TIMEOUT, -7, "a peer made no progress within the timeout")       \
  X(ZERO1_ERR_PEER, -8, "a peer died or closed its end")                       \
  X(ZERO1_ERR_ABORTED, -9, "a peer aborted")                                   \
  X(ZERO1_ERR_COMM, -10, "the communication backend failed")                   \
  X(ZERO1_ERR_DEVICE, -11, "the device failed")                                \
  X(ZERO1_ERR_NO_DEVICE, -12, "no such device")                                \
  X(ZERO1_ERR_IO, -13, "input or output failed")                               \
  X(ZERO1_ERR_DIVERGED, -14, "the replicas of the parameters differ")          \
  X(ZERO1_ERR_SPENT, -15, "an earlier failure left this handle unusable")      \
  X(ZERO1_ERR_NOT_FOUND, -16, "there is no such checkpoint")                   \
  X(ZERO1_ERR_CORRUPT, -17, "a checkpoint is damaged")                         \
  X(ZERO1_ERR_LOCKED, -18, "another job writes there")

/** Result of every call that can fail: ZERO1_OK (0) or a negative ZERO1_ERR_ constant. */
typedef int32_t zero1_status;

enum {
#define ZERO1__STATUS_ENUM(name, value, text) name = value,
  ZERO1_STATUS_LIST(ZERO1__STATUS_ENUM)
#undef ZERO1__STATUS_ENUM
      ZERO1__STATUS_END = 1
};

/** Text of a status, in English, without a line end. Not collective.
 *  Never NULL: a number that is no status gives "unknown status". The string is static. */
ZERO1_API const char *zero1_status_string(zero1_status status);

#ifdef __cplusplus
}
#endif

#endif
