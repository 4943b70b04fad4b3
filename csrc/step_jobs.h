/* The step's numbers in memory of the device, and the jobs of devices that decide by themselves:
 * no thread of the host waits within a step, so the norm, the verdict, the count and the epoch live
 * where the kernels are, and what the caller asks for is written to memory that both see.
 *
 * The order of a step, all of it in streams:
 *
 *   open                   ++epoch, stats cleared
 *   post grads_ready, await, reduce                      bucket by bucket, while backward goes on
 *   record, gather         this rank's record to all ranks (a device lane)
 *   decide                 verdict, count, scalars, absent
 *   update, post updated, await, pull                    bucket by bucket
 *   tell                   decision and count to the host
 *
 * Nothing here names a step by a value from the host: a captured graph runs again as it is. */
#ifndef ZERO1__STEP_JOBS_H
#define ZERO1__STEP_JOBS_H

#include "decide.h"
#include "jobs.h"

/** Numbers of an optimizer's step; one, in memory of the device. */
typedef struct zero1__step {
  zero1__stats stats; /* on devices whose kernels add limbs one by one: not carried (exact_sum.h) */
  zero1__verdict verdict;
  uint64_t hash; /* check_replicas */
  /* the rest: where it is decided; lost and tickets: of devices that decide by themselves alone */
  uint32_t epoch;
  int32_t lost;      /* 1: a wait was given up: nothing is reduced or updated any more */
  int32_t lost_peer; /* whom it was for, in the order of the wait's flags; -1: told by the host */
  int32_t reserved;
  int64_t count;        /* updates */
  int64_t tickets;      /* tells so far */
  zero1__limits limits; /* as the host has set them; one_pass is the record's */
  uint64_t groups_hash;
  zero1__decision decision;
} zero1__step;

/** What the host is told; one, in memory that both see. Read when `ended` is what it waits for, or
 *  between two equal readings of began and ended. */
typedef struct zero1__told {
  int64_t began, ended; /* tickets: set before and after the rest is written */
  int64_t count;
  zero1__decision decision;
  int64_t failed_ticket; /* of the last decision that had a status; 0: none so far */
  zero1__decision failed;
} zero1__told;

/** Hyper-parameters of a group with the row of the bias table that its betas have. */
typedef struct zero1__device_group {
  zero1_group hyper;
  int64_t row;
} zero1__device_group;

/** Counts that a row of the bias table holds: count c is at c % ZERO1__BIAS_COUNTS. */
#define ZERO1__BIAS_COUNTS 1024

/** ++epoch; stats cleared; verdict.skip = 1. */
typedef struct zero1__open_job {
  zero1__step *step;
} zero1__open_job;

/** Writes this rank's record: `record` with the step's epoch, limits (but one_pass), groups_hash
 * and stats. */
typedef struct zero1__record_job {
  zero1__step *step;
  zero1__record *to;
  zero1__record record;
} zero1__record_job;

/** After a gather over the comm, where agree_comm follows: checks, and puts a failure of the comm
 *  into the record for agree_comm. */
typedef struct zero1__check_job {
  zero1__step *step;
  zero1__records records;
  int32_t came_to;
  int32_t reserved;
  zero1__record *wider; /* this rank's record for agree_comm */
} zero1__check_job;

/** After the last gather: the verdict, and what update needs. */
typedef struct zero1__decide_job {
  zero1__step *step;
  zero1__records records; /* of the comm, or of agree_comm */
  zero1__records absent;  /* of the comm: each rank's absent bits, as bytes; slot s is bit s % 8 of
                             byte s / 8 */
  int32_t came_to;        /* ZERO1__CAME_; AFTER: the norm alone */
  int32_t wider;          /* 1: records are of agree_comm, a check job has come before */
  const zero1__device_group *groups; /* [group_count] */
  int64_t group_count;
  const zero1__bias *bias;      /* [rows * ZERO1__BIAS_COUNTS] */
  zero1__adam_scalars *scalars; /* [group_count] */
  uint8_t *absent_slots;        /* [slot_count] 1: absent on every rank */
  int64_t slot_count;
} zero1__decide_job;

/** ++tickets; tells the host. `told` is memory that both see. */
typedef struct zero1__tell_job {
  zero1__step *step;
  zero1__told *told;
} zero1__tell_job;

/* ---- between ranks whose devices see each other's memory ---- */

/** Posts a flag to every peer: *(flags[i] + offset) = epoch, after all that the stream did before
 * is visible to them. */
typedef struct zero1__post_job {
  zero1__step *step;
  uint32_t *const *flags; /* [count] table in memory of the device */
  int64_t offset;
  int32_t count;
  int32_t skippable; /* 1: nothing where verdict.skip */
} zero1__post_job;

/** Waits until flags[i * stride] has come to the epoch, for each i. Gives up, and notes it in the
 *  step, when the host says so (zero1__device_ops.lose) or after the timeout. */
typedef struct zero1__await_job {
  zero1__step *step;
  const uint32_t *flags;
  int64_t stride;
  int32_t count;
  int32_t skippable; /* as zero1__post_job */
  int64_t timeout_ns;
} zero1__await_job;

/** All-gather of `bytes` through mailboxes, one per rank, that all peers can write:
 *    data [2][count][bytes]   by the parity of `sequence`, then by sender
 *    flags [count]            uint32_t: the sequence that the sender has come to
 *  bytes: a multiple of 16. Gives up as await does; `all` is then undefined. */
typedef struct zero1__mail_job {
  zero1__step *step;
  char *const *mailboxes; /* [count] table in memory of the device; [rank] is one's own */
  const void *mine;       /* [bytes] */
  void *all;              /* [count * bytes] */
  size_t bytes;
  uint32_t *sequence; /* of this lane; the job adds 1 */
  int32_t rank, count;
  int64_t timeout_ns;
} zero1__mail_job;

static inline size_t zero1__mailbox_bytes(size_t bytes, int32_t count) {
  return 2 * bytes * (size_t)count + (size_t)count * sizeof(uint32_t);
}

/** Copies the peers' shards of one bucket: bytes [begin + p * shard_bytes, + shard_bytes) from
 *  params[p] to params[rank] for each p but rank. All are multiples of 16. Nothing where
 *  verdict.skip, or a peer was lost. */
typedef struct zero1__pull_job {
  zero1__step *step;
  void *const *params; /* [count] table in memory of the device */
  size_t begin, shard_bytes;
  int32_t rank, count;
} zero1__pull_job;

#endif
