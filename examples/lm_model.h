/* A decoder-only transformer over bytes: RMSNorm before each part, rotary positions, causal
 * attention, SwiGLU, an output matrix of its own.
 *
 * The model owns its activations but no parameter and no gradient: it asks a lm_tensors for them,
 * unit by unit, and tells it when a unit's gradient is complete. A unit is what forward needs at
 * once: 0 is the embedding, 1 to layers are the layers, layers + 1 is the output.
 *
 * Tensors, parameters and gradients included, are in the memory of the model's device. */
#ifndef LM_MODEL_H
#define LM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "lm_device.h"

enum { LM_BYTES = 256, LM_UNIT_PARAMS = 6, LM_NAME_BYTES = 32 };

typedef struct lm_config {
  int64_t layers, dim, heads, hidden; /* heads divides dim, and dim / heads is even */
  int64_t context;                    /* the longest sequence */
  int64_t batch;                      /* the largest number of sequences at once */
} lm_config;

/** One parameter, in the order in which forward uses them. */
typedef struct lm_param {
  char name[LM_NAME_BYTES];
  int64_t shape[2];
  int32_t ndim;
  int32_t unit, slot; /* its place among its unit's parameters */
  float init_std;     /* of a matrix's initial normal distribution; a gain starts at 1 */
} lm_param;

/** Where a parameter stands in its unit. */
enum { LM_NORM1, LM_QKV, LM_PROJECT, LM_NORM2, LM_UP, LM_DOWN }; /* a layer's */
enum { LM_EMBED };                                               /* unit 0's */
enum { LM_NORM_OUT, LM_OUTPUT };                                 /* the last one's */

int64_t lm_param_count(const lm_config *config);
lm_param lm_param_at(const lm_config *config, int64_t index);
int64_t lm_param_numel(const lm_param *param);
/** Index of a unit's first parameter, up to and including one past the last unit. */
int64_t lm_unit_begin(const lm_config *config, int64_t unit);

/** Initial values of parameter `index`, in the host's memory: a function of seed and index alone.
 */
void lm_param_init(const lm_config *config, int64_t index, uint64_t seed, float *values);

/** Where parameters and gradients live. Each call returns false on failure, which ends the pass. */
typedef struct lm_tensors {
  void *context;
  /** values[slot]: fp32, valid until the next call of this function. */
  bool (*read_params)(void *context, int64_t unit, const float *values[LM_UNIT_PARAMS]);
  /** grads[slot]: fp32, to be added to; valid until done_grads of the unit. */
  bool (*open_grads)(void *context, int64_t unit, float *grads[LM_UNIT_PARAMS]);
  /** This pass adds no more to the unit's gradients. Units come in falling order. */
  bool (*done_grads)(void *context, int64_t unit);
} lm_tensors;

/** One layer's activations, kept for backward. N = batch * length rows. */
typedef struct lm_layer {
  float *in;                 /* [N, dim] the residual stream before the layer */
  float *normed1, *inverse1; /* [N, dim], [N] */
  float *qkv;                /* [N, 3 * dim] queries and keys turned */
  float *attention;          /* [batch, heads, length, length] after softmax */
  float *mixed;              /* [N, dim] */
  float *middle;             /* [N, dim] the residual stream after attention */
  float *normed2, *inverse2; /* [N, dim], [N] */
  float *up;                 /* [N, 2 * hidden] */
  float *activated;          /* [N, hidden] */
} lm_layer;

typedef struct lm_model {
  lm_config config;
  lm_device *device;
  lm_layer *layers;          /* [config.layers] in the host's memory */
  uint8_t *inputs, *targets; /* [N] */
  float *rotary;             /* [context, dim / heads] cosines, then sines, of each position */
  float *out;                /* [N, dim] the residual stream after the last layer */
  float *normed, *inverse;
  float *logits; /* [N, 256]; after lm_forward with targets: their gradient */
  float *dstream, *dwide, *dattention, *dnormed; /* backward's workspace */
  double *losses;                                /* [N] */
  double *loss;                                  /* sum since lm_take_loss */
  float *memory;                                 /* all tensors in one piece */
} lm_model;

/** Allocates activations; false where memory is short, with device->error. The model is to be freed
 *  with lm_model_free, after a failure too.
 *  [in] device  borrowed until lm_model_free */
bool lm_model_init(lm_model *model, const lm_config *config, lm_device *device);
void lm_model_free(lm_model *model);

/** Bytes that lm_model_init allocates for activations. */
uint64_t lm_model_bytes(const lm_config *config, lm_device *device);

/** Bytes to be read and to be predicted: [batch, length] each, in the host's memory. */
typedef struct lm_batch {
  int64_t batch, length;
  const uint8_t *inputs;
  const uint8_t *targets; /* or NULL: logits only */
  float loss_scale;       /* of the gradient; the loss itself is not scaled */
} lm_batch;

/* False: the tensors could not be had, or device->error tells what failed. */

/** Fills model->logits and, with targets, adds up the loss: see lm_take_loss. */
bool lm_forward(lm_model *model, const lm_tensors *tensors, const lm_batch *batch);

/** To be called after lm_forward with the same batch, which had targets: adds loss_scale times the
 *  gradient of the mean loss. */
bool lm_backward(lm_model *model, const lm_tensors *tensors, const lm_batch *batch);

/** Waits for what was asked for before.
 *  [out] loss  cross entropy in nats, summed over all bytes predicted since the last call */
bool lm_take_loss(lm_model *model, double *loss);

/** Waits likewise.
 *  [out] logits  [256] of row `row`, in the host's memory */
bool lm_read_logits(lm_model *model, int64_t row, float *logits);

/* ---- what forward and backward share ---- */

/** Of queries and keys, which are neighbours: one run of twice the heads. */
lm_rotation lm_model_rotation(const lm_model *model, const lm_batch *batch, float sign);

/** From layer->qkv, with q and k turned, to layer->mixed. See lm_attention.c. */
void lm_attention(const lm_model *model, const lm_batch *batch, const lm_layer *layer);
/** [in] dmixed [N, dim]   [out] dqkv [N, 3 * dim] */
void lm_attention_backward(const lm_model *model, const lm_batch *batch, const lm_layer *layer,
                           const float *dmixed, float *dqkv);

#endif
