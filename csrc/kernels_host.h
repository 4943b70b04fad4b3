/* Kernels of the host device: one source, built once per instruction set, picked at run time. */
#ifndef ZERO1__KERNELS_HOST_H
#define ZERO1__KERNELS_HOST_H

#include "error.h"
#include "jobs.h"

/** Each does the part `blocks` of its job (sub-range of job->blocks; the job's pointers stay those
 *  of job->blocks.begin), on the calling thread, with subnormals kept and rounding to nearest
 *  whatever the caller's floating-point mode is (restored on return). `stats` replaces job->stats,
 *  so that several threads can share a job; it may be NULL only where job->stats is. */
typedef struct zero1__kernels {
  const char *isa; /* "baseline", "avx2", "avx512" */
  void (*reduce)(const zero1__reduce_job *job, zero1__range blocks, zero1__stats *stats);
  void (*update)(const zero1__update_job *job, zero1__range blocks, zero1__stats *stats);
  void (*master)(const zero1__master_job *job, zero1__range blocks);
  void (*round_params)(const zero1__round_job *job, zero1__range blocks);
  void (*encode)(const zero1__int8_job *job, zero1__range blocks);
  void (*settle)(const zero1__int8_job *job, zero1__range blocks);
  uint64_t (*hash)(const zero1__hash_job *job, zero1__range elements);
} zero1__kernels;

/** The widest instruction set of this processor, or the one that the environment variable ZERO1_ISA
 *  names (baseline, avx2, avx512). ZERO1_ERR_INVALID: it names none. ZERO1_ERR_UNSUPPORTED: this
 *  processor or build has it not. */
zero1_status zero1__kernels_pick(const zero1__kernels **kernels, zero1__error *error);

#endif
