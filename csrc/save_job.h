/* One save: what is written, by whom, and what came of it. Begun by the caller's thread, run on that
 * of a stream. */
#ifndef ZERO1__SAVE_JOB_H
#define ZERO1__SAVE_JOB_H

#include "save_source.h"
#include "save_work.h"
#include "save_writer.h"

typedef struct zero1__save_job {
  zero1_optimizer *optimizer;
  zero1__save_work work;
  zero1__manifest manifest; /* of the call: without params and index, which are made in the end */
  zero1__pairs rank_metadata;
  int64_t keep_last, keep_every;
  const zero1__snapshot *snapshot; /* what is written, borrowed; NULL: the optimizer's own memory */
  void *staging;                   /* as in zero1__save_writer */
  /* of the stream's thread, until `ended` */
  zero1__save_writer writer;
  int64_t begin_ns, written_ns;
  zero1__error error;
  int32_t unheard; /* 1: the folder takes no words any more: nobody is waited for */
  zero1_save_report report;
  _Atomic int32_t ended;
} zero1__save_job;

/** Takes what the call gives: options, counts, hyper-parameters, metadata. ZERO1_ERR_INVALID,
 *  ZERO1_ERR_MEMORY. Ended after a failure too. */
zero1_status zero1__save_job_begin(zero1__save_job *job, zero1_optimizer *optimizer,
                                   const zero1_save_options *options, zero1__error *error);
void zero1__save_job_end(zero1__save_job *job);

/** Writes the buckets from `bucket` on, as zero1__save_writer_run; after a failure nothing. */
void zero1__save_job_write(zero1__save_job *job, int64_t bucket);

/** Writes the rest, and waits with the other ranks until it is a checkpoint, or is none. */
void zero1__save_job_commit(zero1__save_job *job);

#endif
