/* A small stand-in for NCCL, for tests over the stand-in CUDA runtime. IT IS NO NCCL: it copies and
 * adds on the host's processors, for 1 to 8 ranks as threads or processes of one machine.
 *
 * Environment, read when a communicator is made:
 *   ZERO1_STANDIN_NCCL_FAIL=reduce-scatter:N   the N-th of a communicator fails on every rank while
 *                                              it runs; so all-gather:N and send:N. Those of bytes
 *                                              do not count.
 *                          =duplicate-gpu      two ranks on one device are refused, as by NCCL
 *                                              before 2.30 */
#ifndef ZERO1_TESTS_STANDIN_NCCL_H
#define ZERO1_TESTS_STANDIN_NCCL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Communicators that this process has not destroyed or aborted. */
int64_t standin_nccl_live_comms(void);

#ifdef __cplusplus
}
#endif
#endif
