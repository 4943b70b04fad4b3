/* zero1: an optimizer whose state is sharded over data-parallel ranks (ZeRO stage 1,
 * Rajbhandari et al., arXiv 1910.02054).
 *
 * The model's parameters and gradients live in buffers of the library; each rank holds the master
 * parameters and moments of its own shard alone.
 *
 * Before the first step: write the initial values to zero1_optimizer_param(i) and call
 * zero1_optimizer_sync_params, also with one rank. Masters start at zero: bf16 values that were
 * written without it are lost in the first step. Then, in each step:
 *
 *   zero1_optimizer_wait_param(opt, i, stream)    forward, just before it reads parameter i
 *   zero1_optimizer_wait_grad(opt, i, stream)     backward, before its first write to gradient i
 *   zero1_optimizer_grad_ready(opt, i, stream)    last microbatch: gradient i is complete
 *   zero1_optimizer_step(opt)                     asynchronous
 *   zero1_optimizer_info(opt, &info, sizeof info) waits: grad_norm, skipped or not, times
 *
 * Given the same reduced gradients, no result depends on the world size, the bucket size, the
 * number of threads, the instruction set or the communicator: parameters, masters, moments and
 * grad_norm are the same bits. (One mode is outside of this: ZERO1_WIRE_INT8 says why.)
 *
 * step is asynchronous: an error that it had is returned, once, by the first of wait_param,
 * wait_params, wait_grad and zero_grad that waits for it, and by info until the next step. A step
 * with an error is skipped by every rank; training can go on after it, unless a peer was lost, or
 * ranks made different collective calls: then the handle is spent (ZERO1_ERR_SPENT).
 *
 * Collective calls are made by every rank in the same order. One thread at a time may use a handle;
 * distinct handles are independent.
 *
 * `stream`: on the host, calls act on the calling thread, and stream must be ZERO1_STREAM_DEFAULT
 * or NULL. On CUDA, parameters and gradients are memory of the device, a call acts in the
 * cudaStream_t that it is given (of the optimizer's device; several streams may be used in a step),
 * and no call of a step waits on the host: norm, verdict and count stay on the device until info
 * asks for them. So an error of a step is returned by the first call that finds out, by info at the
 * latest. Where ranks communicate through the host (zero1_comm_backend "exchange" or
 * "hierarchical", or zero1_comm_note says that GPUs exchange messages), the first gradient of a
 * step waits for the step before, step waits for its verdict where there are more than 64 buckets
 * (more than the GPU's queues should hold back), and steps cannot be captured into graphs. A GPU
 * and a thread of the library that wait for each other longer than twice the timeout, a long
 * backward pass included, give up with ZERO1_ERR_TIMEOUT. Streams outlive the optimizer.
 *
 * Kernels of a step wait for the peers' kernels. Where ranks are threads of one process, or two
 * optimizers share a GPU, what waits for the whole device (cudaFree and cudaFreeHost, which also
 * hold up the calls of other threads meanwhile; the first launch of a kernel unless
 * CUDA_MODULE_LOADING is EAGER) must not be needed on the way to the call that a peer waits for.
 * Where ranks communicate through the host that holds for one rank, too: kernels wait for copies
 * that a thread of the library makes, so nobody frees memory of CUDA between the first gradient of
 * a step and its end. Streams of a process that share one of its queues wait for each other, too:
 * of 8, or of CUDA_DEVICE_MAX_CONNECTIONS, which such programs set to 32; an optimizer has up to 5.
 *
 * Part of the public face: C99, safe for C++ and for ctypes; includes no MPI or CUDA header. */
#ifndef ZERO1_ZERO1_H
#define ZERO1_ZERO1_H

#include <stddef.h>
#include <stdint.h>

#include "zero1/comm.h"
#include "zero1/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Version of these headers: major * 10000 + minor * 100 + patch. */
#define ZERO1_VERSION 100

/** Version of the library that is linked. Not collective. */
ZERO1_API uint32_t zero1_version(void);

/** The stream of the config. (NULL is CUDA's own default stream.) */
#define ZERO1_STREAM_DEFAULT ((void *)(intptr_t)-1)

/** Opaque. */
typedef struct zero1_optimizer zero1_optimizer;

/** What an optimizer runs on. */
enum { ZERO1_DEVICE_HOST = 0, ZERO1_DEVICE_CUDA = 1 };

/** Data types of parameters and gradients. Arithmetic is in fp32 whatever they are. */
enum { ZERO1_DTYPE_FP32 = 0, ZERO1_DTYPE_BF16 = 1 };

/** In what gradients and parameters travel from rank to rank, whatever they are in memory. Sums are
 *  fp32 all the same.
 *
 *  NCCL sends what is in memory: with several of its ranks, fp32 over a bf16 wire is
 *  ZERO1_ERR_UNSUPPORTED.
 *
 *  What is rounded is rounded (to nearest, of two the even one) wherever it is summed or published,
 *  one's own too, whether it crosses a wire there or stays where it is: a result depends on what is
 *  asked for, and not on which ranks share memory. */
enum {
  ZERO1_WIRE_AS_IN_MEMORY = 0, /* nothing is rounded; sums of a group of ranks cross in fp32 */
  ZERO1_WIRE_FP32 = 1,         /* the same */
  ZERO1_WIRE_BF16 = 2,
  ZERO1_WIRE_INT8 = 3 /* of gradients alone */
};

/** Hyper-parameters of one parameter group. AdamW (Loshchilov and Hutter, arXiv 1711.05101), or
 *  Adam (Kingma and Ba, arXiv 1412.6980) with an L2 penalty where decoupled_weight_decay is 0. With
 *  gradient g, step count t:
 *
 *    AdamW: param <- param * (1 - lr * weight_decay)         Adam: g <- g + weight_decay * param
 *    exp_avg    <- exp_avg + (1 - beta1) * (g - exp_avg)
 *    exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g * g
 *    param <- param - lr / (1 - beta1^t) * exp_avg / (sqrt(exp_avg_sq / (1 - beta2^t)) + eps) */
typedef struct zero1_group {
  size_t size;                    /* sizeof(zero1_group), set by init */
  double lr;                      /* >= 0; default 1e-3 */
  double beta1, beta2;            /* in [0, 1); default 0.9, 0.999 */
  double eps;                     /* >= 0; default 1e-8 */
  double weight_decay;            /* >= 0; default 0.01 */
  int32_t decoupled_weight_decay; /* 1 (default): AdamW; 0: Adam with L2 */
  int32_t reserved;
} zero1_group;

/** Configuration of an optimizer. Fill with zero1_config_init, then change what you need. Every
 *  rank gives the same one, except for `threads`, `timeout_seconds`, `stream` and the handles. */
typedef struct zero1_config {
  size_t size;      /* sizeof(zero1_config), set by init */
  uint32_t version; /* ZERO1_VERSION of the caller's headers, set by init */

  int32_t param_dtype; /* ZERO1_DTYPE_; fp32 (default) parameters are their own master */
  int32_t grad_dtype;  /* ZERO1_DTYPE_; default fp32 */

  /** Shared: the ranks of a node have their parameters in one memory; a rank writes them only
   *  before zero1_optimizer_sync_params and only as its root, and every rank reads the same bytes.
   *  1 (default): shared. 0: each rank has its own copy. Ignored where ranks share no memory. */
  int32_t share_params;

  int64_t bucket_numel; /* hard maximum of elements per bucket; less than one block of 256 elements
                           for each rank counts as that much. 0 (default): 2 Mi on the host, 16 Mi
                           on a GPU */

  int32_t reduce_group; /* gradients are summed in rank order inside groups of this many ranks, then
                           across groups; must divide world_size. 0 (default): all ranks, or a
                           node's ranks where communication is hierarchical */
  int32_t threads;      /* threads that compute, per rank; 0 (default): the node's cores divided by
                           its ranks */
  int32_t overlap;      /* 1 (default): buckets are reduced while backward goes on; 0: in step */
  int32_t guard; /* 1 (default): a step with a non-finite gradient is skipped by every rank */

  double grad_scale;     /* the sum over ranks is multiplied by it; 0 (default): 1 / world_size */
  double max_grad_norm;  /* clip: gradients are scaled by max_grad_norm / (grad_norm + 1e-6) where
                            that is below 1; 0 (default): off */
  double skip_grad_norm; /* a step whose grad_norm is above is skipped; 0 (default): off */

  double timeout_seconds; /* as zero1_comm_options; 0 (default): the communicator's */

  const zero1_group *groups; /* [group_count], group_bytes apart; copied. NULL: one default group */
  size_t group_bytes;        /* sizeof(zero1_group) */
  int64_t group_count;       /* 0 with groups NULL */

  /** The ranks over which grad_norm and the verdict to skip are taken, where that is more than the
   *  communicator's: model-parallel groups, several optimizers. Its ranks all reduce and step in
   *  the same order, and give the same grad_scale (its default differs with the world size).
   *  bad_param and bad_rank of zero1_info are then of the optimizer that found the element. NULL
   *  (default): the communicator. Borrowed until destroy. Where only some ranks of the communicator
   *  give one, create fails and what they gave is of no use any more. */
  zero1_comm *agree_comm;

  /** What ZERO1_STREAM_DEFAULT stands for in the calls. CUDA: a cudaStream_t, and
   *  ZERO1_STREAM_DEFAULT (default) CUDA's own default stream. The host has no other. */
  void *stream;

  int32_t device;       /* ZERO1_DEVICE_; host (default) or CUDA, the same on every rank */
  int32_t device_index; /* which GPU; -1 (default): the calling thread's current one */

  /** CUDA: this part of the buckets has its master parameters and moments in memory of the host and
   *  is updated by the host's cores, in [0, 1]; 0 (default): none. */
  double offload;

  int32_t find_culprit; /* 1: where a sum hides whose gradient was not finite (NCCL's own sums),
                           gradients are looked at before they are sent, which reads them once
                           more; 0 (default): bad_rank and bad_param may stay -1 there */

  /** ZERO1_WIRE_: in what gradients travel; default as in memory. bf16: every rank's gradient is
   *  rounded to bf16 before it is summed, and so is the sum of every group of ranks (reduce_group)
   *  before it is summed across groups; a gradient beyond the largest bf16 is not finite. fp32 for
   *  gradients that are bf16 in memory changes no bit, and sends 16 of them.
   *
   *  int8, for slow links: 8 bits and a scale for each block of 256 elements of a parameter, 8.5
   *  bits an element. What a rank's codes leave of its gradient is kept, its residual
   *  (zero1_optimizer_residual), and added to its next gradient, so that nothing is lost but time
   *  (error feedback). What is coded is the gradient as backward has left it, all microbatches
   *  together; a block of it that is not finite, residual included, is not finite as a whole
   *  (nonfinite_numel counts all of it). A step that is skipped or dropped leaves the residual as
   *  it was, bit for bit; a parameter that is absent on a rank sends zeros there, and its residual
   *  stays. Sums are fp32; those of groups of ranks are rounded to bf16 before they are summed
   *  across groups, and are not coded again. Takes 4 bytes a gradient for the residual, 1.0625 for
   *  the codes, 4 / world_size for sums, and always two passes. With it alone results do depend on
   *  the world size, as every rank codes by itself; they do not on the communicator (with the same
   *  reduce_group), the bucket size, threads or instruction set. On CUDA: ZERO1_ERR_UNSUPPORTED. */
  int32_t grad_wire_dtype;

  /** ZERO1_WIRE_: in what parameters travel; default as in memory. bf16 for fp32 parameters: these
   *  are fp32 in memory with bf16 values, and have a separate fp32 master of full precision, as
   *  bf16 parameters have. What the caller wrote before sync_params, or params_changed, goes into
   *  the master with all of its bits, and the parameter is rounded by that call, on every rank.
   *  Frozen parameters travel once, as they are. fp32 for bf16 parameters changes nothing. */
  int32_t param_wire_dtype;
  int32_t reserved;
} zero1_config;

/** Fills `config` with the defaults that its fields name. Not collective.
 *  [in] config_bytes  sizeof(zero1_config) as the caller was compiled
 *  ZERO1_ERR_INVALID: NULL. ZERO1_ERR_VERSION: a size that this library does not know. */
ZERO1_API zero1_status zero1_config_init(zero1_config *config, size_t config_bytes);

/** Fills `group` with the defaults that its fields name. Not collective. Errors as config_init. */
ZERO1_API zero1_status zero1_group_init(zero1_group *group, size_t group_bytes);

enum {
  ZERO1_PARAM_FROZEN = 1,     /* has a value and no gradient, no state: never updated */
  ZERO1_PARAM_NOT_IN_NORM = 2 /* its gradient is left out of grad_norm (a duplicate, for example) */
};

/** One parameter. Parameters are registered in the order in which forward uses them: buckets are
 *  filled from the last one, as backward finishes them. A tied parameter is one parameter. */
typedef struct zero1_param_spec {
  const char *name;     /* unique, not empty; copied */
  const int64_t *shape; /* [ndim] each >= 0; copied. NULL with ndim 0: a scalar */
  int32_t ndim;         /* >= 0 */
  int32_t group;        /* index of its group */
  uint32_t flags;       /* ZERO1_PARAM_ */
  uint32_t reserved;
} zero1_param_spec;

/** Makes an optimizer, with zeroed parameters, gradients and moments. Collective: ranks first
 *  compare parameters, configuration and version, and either all succeed or all return one error,
 *  whose text is zero1_comm_last_error(comm).
 *
 *  [in]  comm        borrowed until destroy; with several optimizers, created in the same order
 *  [in]  config      copied
 *  [in]  specs       [param_count], spec_bytes apart; copied
 *  [in]  spec_bytes  sizeof(zero1_param_spec)
 *  [out] optimizer   owned by the caller: zero1_optimizer_destroy; NULL on failure
 *  ZERO1_ERR_INVALID: names the field or parameter. ZERO1_ERR_VERSION. ZERO1_ERR_MISMATCH: names
 *  the first difference. ZERO1_ERR_MEMORY: says how much was asked for. ZERO1_ERR_NO_DEVICE: no
 *  GPU, or a driver that is too old, in CUDA's own words. ZERO1_ERR_DEVICE: a thread cannot be
 *  started, or the GPU failed. ZERO1_ERR_UNSUPPORTED: this build has no CUDA, or none for this
 *  GPU; or comm, agree_comm and device do not go together: the text says which. ZERO1_ERR_PEER,
 *  _TIMEOUT, _COMM, _ABORTED. */
ZERO1_API zero1_status zero1_optimizer_create(zero1_comm *comm, const zero1_config *config,
                                              const zero1_param_spec *specs, size_t spec_bytes,
                                              int64_t param_count, zero1_optimizer **optimizer);

/** Frees *optimizer and clears it; NULL and a pointer to NULL are fine. Every rank destroys, in any
 *  order (on CUDA, where ranks map each other's memory, together: each waits for the others, for
 *  the timeout at most): a peer that still waits for this rank gets ZERO1_ERR_PEER, or
 *  ZERO1_ERR_ABORTED where this rank was in the middle of a step; between nodes it may take the
 *  timeout. Pointers into the buffers end. CUDA graphs that hold its steps are destroyed before:
 *  NCCL waits for that without end. Not collective. */
ZERO1_API void zero1_optimizer_destroy(zero1_optimizer **optimizer);

/** Text of the last failure on this handle. Never NULL; valid until the next call. Not
 *  collective. */
ZERO1_API const char *zero1_optimizer_last_error(const zero1_optimizer *optimizer);

/* ---- the tensors ---- */

/** Number of parameters; 0 for NULL. Not collective. */
ZERO1_API int64_t zero1_optimizer_param_count(const zero1_optimizer *optimizer);

/** Index of the parameter of that name. Not collective.
 *  [out] index  -1 on failure
 *  ZERO1_ERR_INVALID: there is none, or NULL. */
ZERO1_API zero1_status zero1_optimizer_find(zero1_optimizer *optimizer, const char *name,
                                            int64_t *index);

/** Where parameter `index` lives, in memory of config.device: [numel] of param_dtype, contiguous,
 *  1024 bytes aligned at fp32 and 512 at bf16. Owned by the optimizer; constant for its life. Not
 *  collective. ZERO1_ERR_INVALID: no such parameter. */
ZERO1_API zero1_status zero1_optimizer_param(zero1_optimizer *optimizer, int64_t index,
                                             void **param);

/** Where gradient `index` lives: [numel] of grad_dtype, aligned as the parameter. Owned by the
 *  optimizer; constant for its life. Backward adds up into it; after a reduce its content is
 *  undefined until zero_grad or the next write. NULL for a frozen parameter. Not collective.
 *  ZERO1_ERR_INVALID: no such parameter. */
ZERO1_API zero1_status zero1_optimizer_grad(zero1_optimizer *optimizer, int64_t index, void **grad);

/** Where the residual of gradient `index` is: what the wire of 8 bits has left of this rank's
 *  gradients so far, to be added to its next one. [numel] fp32 in memory of config.device, zero at
 *  first. Owned by the optimizer; constant for its life; the caller may read and write it between
 *  steps, each rank its own. NULL where there is none: another config.grad_wire_dtype, or a frozen
 *  parameter. Waits for the last step. Not collective.
 *  One that is not finite (of a NaN without the guard, or written so) makes every later gradient of
 *  its block so: zeros mend it.
 *  ZERO1_ERR_INVALID: no such parameter, or residual is NULL. Errors as info. */
ZERO1_API zero1_status zero1_optimizer_residual(zero1_optimizer *optimizer, int64_t index,
                                                float **residual);

/** Gives every rank the root's parameters and sets the masters to them; moments and count stay. On
 *  CUDA, values that were written in config.stream.
 *  Before the first step it makes the initial values one. Collective; waits.
 *  ZERO1_ERR_INVALID: root is no rank. ZERO1_ERR_MISMATCH: the ranks gave several roots.
 *  ZERO1_ERR_STATE: gradients are on their way. ZERO1_ERR_MEMORY. ZERO1_ERR_PEER, _TIMEOUT, _COMM,
 *  _ABORTED: a peer was lost, and with it the handle. ZERO1_ERR_SPENT: it was lost before. */
ZERO1_API zero1_status zero1_optimizer_sync_params(zero1_optimizer *optimizer, int32_t root);

/** To be called after the caller wrote parameters by itself, the same on every rank; before it
 *  writes, wait_params or info: until then a peer may still copy them. A master whose rounded value
 *  is no longer the parameter takes the parameter's value; the others keep their lower bits.
 *  Collective; waits. Errors as sync_params. */
ZERO1_API zero1_status zero1_optimizer_params_changed(zero1_optimizer *optimizer);

/* ---- one step ---- */

/** Holds `stream` back until parameter `index` has its value of the last step. On the host the call
 *  itself waits; on CUDA the stream alone does. Not collective.
 *  ZERO1_ERR_INVALID, or the error of the step that it waits for. */
ZERO1_API zero1_status zero1_optimizer_wait_param(zero1_optimizer *optimizer, int64_t index,
                                                  void *stream);

/** wait_param for every parameter, and wait_grad for every gradient. */
ZERO1_API zero1_status zero1_optimizer_wait_params(zero1_optimizer *optimizer, void *stream);

/** Holds `stream` back until no peer reads gradient `index` of the last step any more. Not
 *  collective.
 *  ZERO1_ERR_STATE: the gradient is ready and its step has not come yet. Errors as wait_param. */
ZERO1_API zero1_status zero1_optimizer_wait_grad(zero1_optimizer *optimizer, int64_t index,
                                                 void *stream);

/** Sets every gradient to zero on `stream`; wait_grad included. Not collective.
 *  ZERO1_ERR_STATE: some gradient is ready already. Errors as wait_grad. */
ZERO1_API zero1_status zero1_optimizer_zero_grad(zero1_optimizer *optimizer, void *stream);

/** Copies gradient `index` from where backward has left it, for who cannot have it written in place;
 *  wait_grad included. On the host the stores go past the caches, which memcpy's do not: nothing reads
 *  a gradient before the step, and what backward works with stays in them. Not collective.
 *  [in] values  [numel] of grad_dtype in memory of config.device, not the gradient itself; read on
 *               `stream`. May be NULL where numel is 0.
 *  ZERO1_ERR_INVALID: no such parameter, or frozen, or values is NULL. Errors as wait_grad. */
ZERO1_API zero1_status zero1_optimizer_set_grad(zero1_optimizer *optimizer, int64_t index,
                                                const void *values, void *stream);

/** Gradient `index` is complete on `stream`; nothing may write it until the next wait_grad. When a
 *  bucket's last gradient is ready, its reduction starts. With gradient accumulation: on the last
 *  microbatch only. Not collective; asynchronous, but for a step's first one, which waits for the
 *  step before on the host, and where ranks communicate through it.
 *  ZERO1_ERR_STATE: it is ready or absent already, or the gradients are reduced; in debug builds of
 *  the library also: forward has not waited for the parameter. ZERO1_ERR_INVALID: no such
 *  parameter, or frozen, or no such stream. ZERO1_ERR_UNSUPPORTED: the stream is being captured,
 *  and ranks communicate through the host, or buckets are offloaded. ZERO1_ERR_MEMORY.
 *  ZERO1_ERR_SPENT, or first the failure that spent the handle. */
ZERO1_API zero1_status zero1_optimizer_grad_ready(zero1_optimizer *optimizer, int64_t index,
                                                  void *stream);

/** Like grad_ready, for a parameter that got no gradient on this rank in this step: its gradient is
 *  set to zero. A parameter without a gradient on any rank is left alone, moments and decay
 *  included. Not collective. Errors as grad_ready. */
ZERO1_API zero1_status zero1_optimizer_grad_absent(zero1_optimizer *optimizer, int64_t index,
                                                   void *stream);

/** The first half of step: reduces, and agrees on grad_norm and whether to skip. For a caller who
 *  wants zero1_optimizer_info before deciding between step and drop_grads. Collective;
 *  asynchronous.
 *  ZERO1_ERR_STATE: sync_params was never called, with parameters that have a master beside them;
 *  or some gradient is neither ready nor absent (named; its peers skip the step with the same
 *  error), or the gradients are reduced already. ZERO1_ERR_SPENT, or first the failure that spent
 *  the handle. */
ZERO1_API zero1_status zero1_optimizer_reduce_grads(zero1_optimizer *optimizer);

/** Updates this rank's shard and gives every rank the new parameters; calls reduce_grads first if
 *  the caller did not. Collective; asynchronous: wait_param, info or any call that waits returns
 *  what went wrong. Errors as reduce_grads. */
ZERO1_API zero1_status zero1_optimizer_step(zero1_optimizer *optimizer);

/** Before each launch of a CUDA graph that holds a step: uploads, in `stream`, what has been set
 *  since, lr above all, and counts the step. The graph is launched next, in the same stream, which
 *  orders it after all that came before and all that waits for it.
 *
 *  The graph is captured as usual: between cudaStreamBeginCapture and EndCapture the calls of one
 *  step, ending with wait_params on the stream that is captured; nothing runs meanwhile. What stays
 *  as it was at the capture: which gradients were absent, and whether the step has one pass or two.
 *  A graph holds one step. Launched without a replay before it, it has the values of the last one,
 *  and the next info returns ZERO1_ERR_STATE. Collective; asynchronous.
 *  ZERO1_ERR_STATE: no step has been captured; or gradients are on their way; or a norm to clip or
 *  skip at has been set since, and the step was captured with neither guard nor norm, in one pass.
 *  ZERO1_ERR_UNSUPPORTED: ranks communicate through the host. ZERO1_ERR_INVALID: no such stream.
 *  The error of an earlier step, and ZERO1_ERR_SPENT, as step. */
ZERO1_API zero1_status zero1_optimizer_replay(zero1_optimizer *optimizer, void *stream);

/** Gives up the gradients since the last step, reduced or not, without an update; count and state
 *  stay. Collective; waits. Errors as sync_params. */
ZERO1_API zero1_status zero1_optimizer_drop_grads(zero1_optimizer *optimizer);

/** Why a step was skipped. */
enum {
  ZERO1_SKIP_NONE = 0,
  ZERO1_SKIP_NONFINITE = 1, /* a rank's gradient holds a NaN or Inf */
  ZERO1_SKIP_OVERFLOW = 2,  /* finite gradients add up to more than fp32 holds */
  ZERO1_SKIP_NORM = 3,      /* grad_norm is above skip_grad_norm */
  ZERO1_SKIP_ERROR = 4,     /* a rank had an error */
  ZERO1_SKIP_DROPPED = 5    /* zero1_optimizer_drop_grads */
};

/** What became of the last reduce_grads or step. */
typedef struct zero1_info {
  size_t size;         /* as passed to zero1_optimizer_info */
  int64_t count;       /* updates done so far: steps that were not skipped */
  int64_t attempts;    /* steps so far, skipped ones included */
  double grad_norm;    /* L2 norm of grad_scale * sum over ranks, before clipping; NaN where some
                          gradient is not finite */
  double clip_coef;    /* what clipping multiplied by; 1 where it did not */
  int32_t skipped;     /* 1: nothing was updated */
  int32_t skip_reason; /* ZERO1_SKIP_ */
  int64_t nonfinite_numel; /* elements of the summed gradients that are not finite */
  int64_t bad_param;       /* lowest parameter with a non-finite element; -1: none */
  int32_t bad_rank;        /* rank whose gradient holds it; -1: none, or the sum overflowed */
  int32_t reserved;
  /* milliseconds on this rank, summed over buckets; stages overlap each other */
  double exchange_ms; /* waiting for the peers' gradients, or receiving them */
  double reduce_ms;   /* summing, where that is a pass of its own */
  double agree_ms;    /* agreeing on norm and verdict, waiting for the slowest rank included */
  double update_ms;   /* updating, reduction included where it is one pass */
  double gather_ms;   /* waiting for the peers' parameters, or receiving them */
  double exposed_ms;  /* the caller stood waiting in calls of the library, since the step before */
  int64_t sent_bytes; /* gradients and parameters that this rank has sent as messages in the step;
                         0 where none are: ranks that share memory, and NCCL, which does not say */
} zero1_info;

/** Waits for the last reduce_grads or step and tells what became of it. Not collective.
 *  [out] info  filled as far as info_bytes = sizeof(zero1_info) reaches
 *  Returns the error of the step, if it had one, with info filled all the same.
 *  ZERO1_ERR_INVALID: info is NULL. ZERO1_ERR_VERSION: a size that this library does not know. */
ZERO1_API zero1_status zero1_optimizer_info(zero1_optimizer *optimizer, zero1_info *info,
                                            size_t info_bytes);

/* ---- hyper-parameters: the same on every rank, in effect from the next step ---- */

/** Not collective. Ranks that set different values get ZERO1_ERR_MISMATCH at the next step.
 *  ZERO1_ERR_INVALID: no such group, NULL, NaN, or out of the range that zero1_group states.
 *  ZERO1_ERR_VERSION: a size of zero1_group that this library does not know. */
ZERO1_API zero1_status zero1_optimizer_set_lr(zero1_optimizer *optimizer, int64_t group, double lr);
ZERO1_API zero1_status zero1_optimizer_set_group(zero1_optimizer *optimizer, int64_t group,
                                                 const zero1_group *values, size_t group_bytes);
ZERO1_API zero1_status zero1_optimizer_get_group(zero1_optimizer *optimizer, int64_t group,
                                                 zero1_group *values, size_t group_bytes);
/** 0 or less is ZERO1_ERR_INVALID. */
ZERO1_API zero1_status zero1_optimizer_set_grad_scale(zero1_optimizer *optimizer,
                                                      double grad_scale);
/** 0 turns clipping, or skipping above a norm, off. */
ZERO1_API zero1_status zero1_optimizer_set_max_grad_norm(zero1_optimizer *optimizer,
                                                         double max_grad_norm);
ZERO1_API zero1_status zero1_optimizer_set_skip_grad_norm(zero1_optimizer *optimizer,
                                                          double skip_grad_norm);

/* ---- what a rank owns, and what it costs ---- */

/** What there is of a parameter. */
enum {
  ZERO1_STATE_PARAM = 0, /* its value: in a checkpoint of a trainable one its master, rounded */
  ZERO1_STATE_MASTER_PARAM = 1, /* fp32; in a checkpoint of a frozen one its value, widened */
  ZERO1_STATE_EXP_AVG = 2,      /* trainable alone, as the next ones; fp32 */
  ZERO1_STATE_EXP_AVG_SQ = 3,
  ZERO1_STATE_RESIDUAL = 4 /* of one rank; where gradients travel in 8 bits */
};

/** A range of one parameter that this rank owns, and its state. */
typedef struct zero1_owned {
  size_t size;         /* as passed to zero1_optimizer_owned */
  int64_t param;       /* index of the parameter */
  int64_t begin, end;  /* half-open element range of the parameter */
  float *master_param; /* [end - begin] fp32; the parameter itself where that is its own master */
  float *exp_avg;      /* [end - begin] fp32 */
  float *exp_avg_sq;   /* [end - begin] fp32 */
  int32_t on_host;     /* 1: the three are memory of the host (config.device, or offloaded); 0: of
                          the device */
  int32_t reserved;
} zero1_owned;

/** Number of ranges that this rank owns: each is of one parameter and one bucket, and all ranks'
 *  ranges tile all trainable parameters. Not collective. */
ZERO1_API zero1_status zero1_optimizer_owned_count(zero1_optimizer *optimizer, int64_t *count);

/** The ranges [first, first + count), in order of memory. Waits for the last step. The state
 *  belongs to the optimizer and may be read until the next step. Not collective.
 *  [out] owned  [count], owned_bytes = sizeof(zero1_owned) apart
 *  ZERO1_ERR_INVALID: beyond owned_count. Errors as info. */
ZERO1_API zero1_status zero1_optimizer_owned(zero1_optimizer *optimizer, int64_t first,
                                             int64_t count, zero1_owned *owned, size_t owned_bytes);

/** Sets a state of parameter `index` to what comes from elsewhere, of another library's optimizer,
 *  say. Each rank keeps the part that it owns, so that all give the same values. Parameters
 *  themselves are written where they are, and sync_params or params_changed called; separate
 *  masters (of bf16 parameters, or of a param_wire_dtype of bf16) are set here, and params_changed
 *  comes after: it keeps those that round to their parameter, and sync_params keeps none.
 *  Waits for the last step, and for a save that is under way. Not collective.
 *  [in] state   ZERO1_STATE_MASTER_PARAM, _EXP_AVG or _EXP_AVG_SQ
 *  [in] values  [numel] fp32, memory of the host; borrowed during the call. NULL where numel is 0
 *  ZERO1_ERR_INVALID: no such parameter or state; a frozen parameter; the master of a parameter that
 *  is its own; NULL. ZERO1_ERR_STATE: gradients are on their way. ZERO1_ERR_SPENT. The error of the
 *  last step, as info, where the caller does not know it yet. With an error nothing is set, but for
 *  ZERO1_ERR_DEVICE. */
ZERO1_API zero1_status zero1_optimizer_set_state(zero1_optimizer *optimizer, int64_t index,
                                                 int32_t state, const float *values);

/** A state of parameter `index` as a whole, of the parts that all ranks own. (A checkpoint takes less
 *  memory and time.) Collective; waits for the last step.
 *  [in]  state   ZERO1_STATE_MASTER_PARAM (the parameter where that is its own), _EXP_AVG or
 *                _EXP_AVG_SQ
 *  [out] values  [numel] fp32, memory of the host; NULL on ranks that do not want it. Undefined
 *                after an error
 *  ZERO1_ERR_INVALID: no such parameter or state, or a frozen parameter. ZERO1_ERR_MISMATCH: the
 *  ranks asked for several. ZERO1_ERR_MEMORY. ZERO1_ERR_DEVICE. Errors as sync_params. */
ZERO1_API zero1_status zero1_optimizer_get_state(zero1_optimizer *optimizer, int64_t index,
                                                 int32_t state, float *values);

/** Sets the number of updates done so far, by which moments are corrected; `attempts` of zero1_info
 *  becomes the same. Collective; waits.
 *  ZERO1_ERR_INVALID: below 0, or above INT64_MAX / 2. ZERO1_ERR_MISMATCH: the ranks gave several.
 *  Errors as sync_params. */
ZERO1_API zero1_status zero1_optimizer_set_count(zero1_optimizer *optimizer, int64_t count);

/** Bytes really allocated by this rank, by purpose. Memory that the ranks of a node share counts
 *  once per node: each of them reports its part. */
typedef struct zero1_memory {
  size_t size; /* as passed to zero1_optimizer_memory */
  uint64_t params_bytes;
  uint64_t grads_bytes;
  uint64_t grad_shard_bytes; /* fp32 sums, where they have memory of their own */
  uint64_t master_bytes;     /* 0 where the parameters are their own master */
  uint64_t exp_avg_bytes;
  uint64_t exp_avg_sq_bytes;
  uint64_t workspace_bytes; /* receive rings, flags, layout tables; codes of 8 bits; what saves of
                               checkpoints keep: a snapshot, on a GPU what state goes through */
  uint64_t total_bytes;     /* of all of the above */
  uint64_t padding_bytes;   /* of params, grads and state: to full blocks, shards and pages */
  uint64_t residual_bytes;  /* of gradients that travel in 8 bits; part of total_bytes */
} zero1_memory;

/** Not collective. ZERO1_ERR_INVALID: NULL or a wrong size. */
ZERO1_API zero1_status zero1_optimizer_memory(zero1_optimizer *optimizer, zero1_memory *memory,
                                              size_t memory_bytes);

/* ---- when things go wrong ---- */

/** Compares a hash of the parameters over the ranks. Collective; waits for the last step.
 *  [out] rank  a rank that differs from the most, or -1; may be NULL
 *  ZERO1_ERR_DIVERGED: on every rank, naming that rank. Errors as sync_params. */
ZERO1_API zero1_status zero1_optimizer_check_replicas(zero1_optimizer *optimizer, int32_t *rank);

/** This rank cannot go on: peers that wait for it, now or later, get ZERO1_ERR_ABORTED with
 *  `reason` (NULL is fine) instead of waiting for the timeout. The handle is spent. Not
 *  collective. */
ZERO1_API void zero1_optimizer_abort(zero1_optimizer *optimizer, const char *reason);

#ifdef __cplusplus
}
#endif

#endif
