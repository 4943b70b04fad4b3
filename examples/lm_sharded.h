/* The language model's tensors in the buffers of a zero1 optimizer.
 *
 * fp32 tensors are used where they lie. bf16 parameters are widened to scratch memory as a unit is
 * read; bf16 gradients are added up in fp32 scratch memory and rounded once, when they are
 * complete. */
#ifndef LM_SHARDED_H
#define LM_SHARDED_H

#include "lm_model.h"
#include "zero1/zero1.h"

/** Groups of the optimizer: matrices decay, gains do not. */
enum { LM_GROUP_MATRIX, LM_GROUP_GAIN, LM_GROUP_COUNT };

typedef struct lm_sharded {
  zero1_optimizer *optimizer;
  lm_device *device; /* of all tensors; the optimizer's default stream is its stream */
  lm_config config;
  int32_t param_dtype, grad_dtype;
  bool keep_grads;      /* several microbatches of bf16 gradients: scratch for all units at once */
  bool first, last;     /* the microbatch at hand, to be set before each pass */
  float *param_scratch; /* [the largest unit], or NULL with fp32 parameters */
  float *grad_scratch;  /* [the largest unit, or all], or NULL with fp32 gradients */
  zero1_status status;  /* of the first call that failed */
} lm_sharded;

/** Makes the optimizer and the scratch memory. Collective. `config` gives all but the parameters;
 *  the model, its sizes and its device.
 *  [in] accumulate  microbatches per step
 *  On failure the text is zero1_comm_last_error(comm); lm_sharded_close is to be called anyway. */
zero1_status lm_sharded_open(lm_sharded *sharded, zero1_comm *comm, const lm_model *model,
                             const zero1_config *config, int64_t accumulate);
void lm_sharded_close(lm_sharded *sharded);

/** Initial values on rank 0, then on all. Collective. */
zero1_status lm_sharded_init_params(lm_sharded *sharded, int32_t rank, uint64_t seed);

/** What lm_forward and lm_backward use. Borrows `sharded`. */
lm_tensors lm_sharded_tensors(lm_sharded *sharded);

/** Number of elements of all parameters. */
int64_t lm_total_numel(const lm_config *config);

#endif
