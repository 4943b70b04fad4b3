/* Launchers of the CUDA kernels (cuda/), in plain C: each enqueues its job, copied, in a
 * stream, and returns a cudaError_t. Every pointer of a job is memory that the device sees, but
 * sources.contributions and layout, which the kernels leave alone. */
#ifndef ZERO1__KERNELS_CUDA_H
#define ZERO1__KERNELS_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include "jobs.h"
#include "step_jobs.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A block, by which a warp finds its parameter. */
typedef struct zero1__cuda_block {
  int32_t slot;
  int32_t numel; /* true elements, 1 to ZERO1__BLOCK; 0: padding */
} zero1__cuda_block;

/** The layout in memory of the device: the kernels' block table. */
typedef struct zero1__cuda_layout {
  const zero1__cuda_block *blocks; /* [trainable_blocks] */
  const zero1__slot *slots;        /* [slot_count] */
} zero1__cuda_layout;

/** cudaStream_t, for those who do not include CUDA's headers. */
typedef struct CUstream_st *zero1__cuda_stream;

/** Loads every kernel on the current device: a kernel that is loaded while another one waits for a
 *  flag can wait for ever (lazy loading synchronises). */
int zero1__cuda_load(void);

int zero1__cuda_reduce(const zero1__cuda_layout *layout, const zero1__reduce_job *job,
                       zero1__cuda_stream stream);
int zero1__cuda_update(const zero1__cuda_layout *layout, const zero1__update_job *job,
                       zero1__cuda_stream stream);
int zero1__cuda_master(const zero1__cuda_layout *layout, const zero1__master_job *job,
                       zero1__cuda_stream stream);
int zero1__cuda_round_params(const zero1__cuda_layout *layout, const zero1__round_job *job,
                             zero1__cuda_stream stream);
int zero1__cuda_hash(const zero1__hash_job *job, zero1__cuda_stream stream);

int zero1__cuda_open(const zero1__open_job *job, zero1__cuda_stream stream);
int zero1__cuda_record(const zero1__record_job *job, zero1__cuda_stream stream);
int zero1__cuda_check(const zero1__check_job *job, zero1__cuda_stream stream);
int zero1__cuda_decide(const zero1__decide_job *job, zero1__cuda_stream stream);
int zero1__cuda_tell(const zero1__tell_job *job, zero1__cuda_stream stream);

/* `give_up`: memory that host and device see; not 0: whoever waits, now or later, gives up. */
int zero1__cuda_post(const zero1__post_job *job, zero1__cuda_stream stream);
int zero1__cuda_await(const zero1__await_job *job, const uint32_t *give_up,
                      zero1__cuda_stream stream);
int zero1__cuda_mail(const zero1__mail_job *job, const uint32_t *give_up,
                     zero1__cuda_stream stream);
int zero1__cuda_pull(const zero1__pull_job *job, zero1__cuda_stream stream);

/** Between a stream of the device and a thread of the host: sets *flag, in memory that both see,
 *  after all that the stream did before; or holds the stream back until *flag has come to `value`
 *  (epochs wrap around) or *give_up is not 0. After timeout_ns it makes *give_up
 *  ZERO1__CUDA_GAVE_UP, so that nobody waits any more. */
#define ZERO1__CUDA_GAVE_UP 2
int zero1__cuda_post_host(uint32_t *flag, uint32_t value, zero1__cuda_stream stream);
int zero1__cuda_await_host(const uint32_t *flag, uint32_t value, uint32_t *give_up,
                           int64_t timeout_ns, zero1__cuda_stream stream);

/** Writes `bytes` (at most ZERO1__CUDA_WRITE_BYTES) to `to`; `from` is read during the call. */
#define ZERO1__CUDA_WRITE_BYTES 2048
int zero1__cuda_write(void *to, const void *from, size_t bytes, zero1__cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
