/* A training run without a model: given a comm and a case, it trains on made-up gradients and
 * collects every bit that came out of it, to be compared with another run's.
 *
 * Gradients are small integers, so that their sum is exact in any order, and bf16 holds each of
 * them: rank r's is h(r, step, param, element), and the last rank's is what makes the sum
 * G(step, param, element), whatever the number of ranks. */
#ifndef ZERO1_TESTS_TRAINER_H
#define ZERO1_TESTS_TRAINER_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device.h"
#include "random.h"
#include "zero1/zero1.h"

enum { TRAINER_STEPS = 24, TRAINER_PARAMS = 16 };

typedef struct trainer_param {
  int64_t numel;
  int32_t group;
  uint32_t flags;
} trainer_param;

enum { TRAINER_FORWARD, TRAINER_BACKWARD, TRAINER_RANDOM }; /* in which gradients become ready */

typedef struct trainer_case {
  /* what decides the result */
  const trainer_param *params;
  int32_t param_count;
  const zero1_group *groups;
  int32_t group_count;
  int32_t param_dtype, grad_dtype;
  int32_t param_wire, grad_wire; /* ZERO1_WIRE_ */
  int32_t steps;
  int32_t guard;
  int32_t absences; /* 1: some gradients are absent in some steps, on all ranks or on some */
  int32_t schedule; /* 1: lr changes from step to step */
  double grad_scale, max_grad_norm;
  /* what must not */
  int64_t bucket_numel;
  int32_t reduce_group, threads, share_params, overlap;
  double offload;       /* on CUDA alone */
  int32_t order;        /* TRAINER_; random: another one on each rank */
  int32_t microbatches; /* 1 or 3 */
  int32_t split;        /* 1: reduce_grads, info, then step */
  int32_t root;         /* of sync_params */
  int32_t streams; /* of the caller on CUDA, 1 (or 0) or 2: parameter i is in stream i % streams */
  int32_t on_host; /* 1: on the host, whatever the test is run on */
} trainer_case;

typedef struct trainer trainer;

/** May change a gradient of this rank before it is ready: all of it, in memory of the host. */
typedef void (*trainer_spoil_fn)(trainer *self, int64_t param, void *grad);

struct trainer {
  const trainer_case *what;
  int32_t rank, world_size;
  zero1_optimizer *optimizer;
  device_caller caller;
  random_state random; /* other on each rank */
  trainer_spoil_fn spoil;
  void *context; /* of spoil */
};

/* Everything as bits, parameters one after the other in the order of registration. */
typedef struct trainer_result {
  int64_t numel;
  uint32_t *params, *master_param, *exp_avg, *exp_avg_sq; /* [numel]; state: owned elements alone */
  uint8_t *owned;                                         /* [numel] times owned by this rank */
  uint64_t params_hash[TRAINER_STEPS];                    /* after each step */
  double grad_norm[TRAINER_STEPS], clip_coef[TRAINER_STEPS];
  int32_t steps, clipped;
} trainer_result;

/* ---- numbers ---- */

static inline uint64_t trainer_scatter(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  random_state random = {a * 0x9e3779b97f4a7c15u ^ b * 0xc2b2ae3d27d4eb4fu ^
                         c * 0x165667b19e3779f9u ^ d * 0x27d4eb2f165667c5u};
  return random_bits(&random);
}

/* A whole number between -bound and bound. */
static inline int32_t trainer_whole(uint64_t bits, int32_t bound) {
  return (int32_t)(bits >> 33) % (2 * bound + 1) - bound;
}

enum { TRAINER_PRESENT, TRAINER_ABSENT, TRAINER_ON_LAST_RANK };

static inline int trainer_absence(const trainer_case *what, int32_t step, int64_t param) {
  const uint64_t roll = trainer_scatter(7, (uint64_t)step, (uint64_t)param, 0) >> 40;
  if (!what->absences || roll % 5 > 1) return TRAINER_PRESENT;
  return roll % 5 ? TRAINER_ABSENT : TRAINER_ON_LAST_RANK;
}

/* The sum over ranks; large in some steps, small in others. */
static inline int32_t trainer_sum(int32_t step, int64_t param, int64_t element) {
  static const int32_t bounds[] = {3, 100, 10, 50, 1};
  return trainer_whole(trainer_scatter(1, (uint64_t)step, (uint64_t)param, (uint64_t)element),
                       bounds[step % 5]);
}

static inline int32_t trainer_grad(const trainer_case *what, int32_t world_size, int32_t rank,
                                   int32_t step, int64_t param, int64_t element) {
  const int others = trainer_absence(what, step, param) != TRAINER_ON_LAST_RANK;
  int32_t last = trainer_sum(step, param, element);
  for (int32_t r = 0; others && r + 1 < world_size; ++r) {
    const int32_t grad = trainer_whole(
        trainer_scatter((uint64_t)r + 2, (uint64_t)step, (uint64_t)param, (uint64_t)element), 8);
    if (r == rank) return grad;
    last -= grad;
  }
  return rank + 1 == world_size ? last : 0;
}

/* ---- memory of either dtype ---- */

static inline uint32_t trainer_load_bits(const void *tensor, int32_t dtype, int64_t at) {
  if (dtype == ZERO1_DTYPE_BF16) return (uint32_t)((const uint16_t *)tensor)[at] << 16;
  return ((const uint32_t *)tensor)[at];
}

static inline float trainer_load(const void *tensor, int32_t dtype, int64_t at) {
  return random_from_bits(trainer_load_bits(tensor, dtype, at));
}

/* bf16: cuts; the values of these tests fit. */
static inline void trainer_store(void *tensor, int32_t dtype, int64_t at, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == ZERO1_DTYPE_BF16)
    ((uint16_t *)tensor)[at] = (uint16_t)(bits >> 16);
  else
    ((uint32_t *)tensor)[at] = bits;
}

/* ---- life ---- */

static inline zero1_config trainer_config(const trainer_case *what) {
  zero1_config config;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.param_dtype = what->param_dtype;
  config.grad_dtype = what->grad_dtype;
  config.param_wire_dtype = what->param_wire;
  config.grad_wire_dtype = what->grad_wire;
  config.share_params = what->share_params;
  config.bucket_numel = what->bucket_numel;
  config.reduce_group = what->reduce_group;
  config.threads = what->threads;
  config.overlap = what->overlap;
  config.guard = what->guard;
  config.grad_scale = what->grad_scale;
  config.max_grad_norm = what->max_grad_norm;
  config.groups = what->groups;
  config.group_count = what->group_count;
  config.timeout_seconds = 60;
  config.device = what->on_host ? ZERO1_DEVICE_HOST : device_of_test();
  config.offload = config.device == ZERO1_DEVICE_HOST ? 0 : what->offload;
  return config;
}

static inline size_t trainer_param_bytes(const trainer_case *what, int64_t param) {
  return (size_t)what->params[param].numel * (what->param_dtype == ZERO1_DTYPE_BF16 ? 2 : 4);
}

static inline size_t trainer_grad_bytes(const trainer_case *what, int64_t param) {
  return (size_t)what->params[param].numel * (what->grad_dtype == ZERO1_DTYPE_BF16 ? 2 : 4);
}

/* The gradients of two steps. */
static inline size_t trainer_stage_bytes(const trainer_case *what) {
  size_t bytes = 0;
  for (int32_t i = 0; i < what->param_count; ++i) bytes += (size_t)what->params[i].numel * 4 + 16;
  return 2 * bytes * (size_t)(what->microbatches > 0 ? what->microbatches : 1);
}

/* The caller's stream that parameter `param` and its gradient are used in. */
static inline void *trainer_stream(const trainer *self, int64_t param) {
  return self->caller.streams[self->what->streams > 1 ? param % self->what->streams : 0];
}

/* trainer_end ends it, whatever came of it. config.stream is the caller's first one. */
static inline zero1_status trainer_try_create(trainer *self, const trainer_case *what,
                                              zero1_comm *comm, const zero1_config *config) {
  zero1_param_spec specs[TRAINER_PARAMS] = {0};
  char names[TRAINER_PARAMS][8];
  CHECK(what->param_count <= TRAINER_PARAMS && what->steps <= TRAINER_STEPS);
  for (int32_t i = 0; i < what->param_count; ++i) {
    snprintf(names[i], sizeof names[i], "p%d", i);
    specs[i].name = names[i];
    specs[i].shape = &what->params[i].numel;
    specs[i].ndim = 1;
    specs[i].group = what->params[i].group;
    specs[i].flags = what->params[i].flags;
  }
  *self = (trainer){.what = what,
                    .rank = zero1_comm_rank(comm),
                    .world_size = zero1_comm_world_size(comm),
                    .random = {(uint64_t)zero1_comm_rank(comm)}};
  zero1_config own = *config;
  device_caller_begin(&self->caller, config->device, trainer_stage_bytes(what));
  own.stream = self->caller.streams[0];
  return zero1_optimizer_create(comm, &own, specs, sizeof *specs, what->param_count,
                                &self->optimizer);
}

/* Where the caller writes all of a parameter, in its first stream. */
static inline void *trainer_begin_param(trainer *self, int64_t param) {
  void *tensor;
  CHECK_STATUS(zero1_optimizer_param(self->optimizer, param, &tensor), ZERO1_OK);
  return device_begin_write(&self->caller, tensor, trainer_param_bytes(self->what, param));
}

static inline void trainer_end_param(trainer *self, int64_t param, const void *written) {
  void *tensor;
  CHECK_STATUS(zero1_optimizer_param(self->optimizer, param, &tensor), ZERO1_OK);
  device_end_write(&self->caller, tensor, written, trainer_param_bytes(self->what, param),
                   self->caller.streams[0]);
}

/* The same, to change some of it. */
static inline void *trainer_begin_change(trainer *self, int64_t param) {
  void *tensor;
  CHECK_STATUS(zero1_optimizer_param(self->optimizer, param, &tensor), ZERO1_OK);
  return device_begin_change(&self->caller, tensor, trainer_param_bytes(self->what, param),
                             self->caller.streams[0]);
}

/* Where the caller writes all of a gradient, in its parameter's stream. */
static inline void *trainer_begin_grad(trainer *self, int64_t param) {
  void *tensor;
  CHECK_STATUS(zero1_optimizer_grad(self->optimizer, param, &tensor), ZERO1_OK);
  return device_begin_write(&self->caller, tensor, trainer_grad_bytes(self->what, param));
}

static inline void trainer_end_grad(trainer *self, int64_t param, const void *written) {
  void *tensor;
  CHECK_STATUS(zero1_optimizer_grad(self->optimizer, param, &tensor), ZERO1_OK);
  device_end_write(&self->caller, tensor, written, trainer_grad_bytes(self->what, param),
                   trainer_stream(self, param));
}

/* A parameter as it is at this place of a stream; valid until the next call. */
static inline const void *trainer_read_param(trainer *self, int64_t param, void *stream) {
  void *tensor;
  CHECK_STATUS(zero1_optimizer_param(self->optimizer, param, &tensor), ZERO1_OK);
  return device_read(&self->caller, tensor, trainer_param_bytes(self->what, param), stream);
}

/* Parameters are shared memory of a node on the host alone. */
static inline int trainer_may_write(const trainer *self, const zero1_comm *comm, int32_t root) {
  return self->rank == root || !self->what->share_params ||
         self->caller.kind != ZERO1_DEVICE_HOST || zero1_comm_ranks_per_node(comm) == 1;
}

/* The root writes the initial values; elsewhere, where memory is not shared, stands something else
 * before they are given to everyone. */
static inline void trainer_begin(trainer *self, const trainer_case *what, zero1_comm *comm) {
  const zero1_config config = trainer_config(what);
  const zero1_status status = trainer_try_create(self, what, comm, &config);
  if (status) fprintf(stderr, "%s\n", zero1_comm_last_error(comm));
  CHECK_STATUS(status, ZERO1_OK);
  device_meet();
  for (int32_t i = 0; i < what->param_count && trainer_may_write(self, comm, what->root); ++i) {
    random_state random = {(uint64_t)i + 100};
    void *const param = trainer_begin_param(self, i);
    for (int64_t e = 0; e < what->params[i].numel; ++e) {
      const float value = random_unit(&random);
      trainer_store(param, what->param_dtype, e, self->rank == what->root ? value : 3.0f);
    }
    trainer_end_param(self, i, param);
  }
  CHECK_STATUS(zero1_optimizer_sync_params(self->optimizer, what->root), ZERO1_OK);
}

static inline void trainer_end(trainer *self) {
  device_meet();
  zero1_optimizer_destroy(&self->optimizer);
  CHECK(!self->optimizer);
  device_caller_end(&self->caller);
}

/* ---- a step ---- */

static inline int trainer_is_frozen(const trainer *self, int64_t param) {
  return (self->what->params[param].flags & ZERO1_PARAM_FROZEN) != 0;
}

/* What zero1_optimizer_set_grad is given: on the host, in memory that is aligned to 8 bytes alone. */
enum { TRAINER_OFF = 8 };

static inline void *trainer_begin_set(trainer *self, void *tensor, size_t bytes) {
  if (device_is_cuda()) return device_begin_write(&self->caller, tensor, bytes);
  char *const memory = malloc(TRAINER_OFF + bytes);
  CHECK(memory);
  return memory + TRAINER_OFF;
}

static inline void trainer_end_set(trainer *self, int64_t param, void *grad, void *stream) {
  CHECK_STATUS(zero1_optimizer_set_grad(self->optimizer, param, grad, stream), ZERO1_OK);
  if (!device_is_cuda()) free((char *)grad - TRAINER_OFF);
}

/* Microbatch 0 writes, or sets every other parameter's, and the others add; together they make the
 * gradient: (g - a) + (a - b) + b. */
static inline void trainer_add_microbatch(trainer *self, int32_t step, int64_t param,
                                          int32_t microbatch) {
  const trainer_case *what = self->what;
  const int32_t last = what->microbatches - 1;
  const int sets = !microbatch && param % 2;
  const size_t bytes = trainer_grad_bytes(what, param);
  void *const stream = trainer_stream(self, param);
  void *tensor;
  if (!microbatch && !sets)
    CHECK_STATUS(zero1_optimizer_wait_grad(self->optimizer, param, stream), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_grad(self->optimizer, param, &tensor), ZERO1_OK);
  void *const grad = microbatch ? device_begin_change(&self->caller, tensor, bytes, stream)
                     : sets     ? trainer_begin_set(self, tensor, bytes)
                                : device_begin_write(&self->caller, tensor, bytes);
  for (int64_t e = 0; e < what->params[param].numel; ++e) {
    const int32_t whole = trainer_grad(what, self->world_size, self->rank, step, param, e);
    const int32_t part = microbatch < last ? (int32_t)((e + microbatch) % 9) : 0;
    const int32_t before = microbatch > 0 ? (int32_t)((e + microbatch - 1) % 9) : 0;
    const float old = microbatch ? trainer_load(grad, what->grad_dtype, e) : (float)whole;
    trainer_store(grad, what->grad_dtype, e, old - (float)part + (float)before);
  }
  if (microbatch == last && self->spoil) self->spoil(self, param, grad);
  if (sets)
    trainer_end_set(self, param, grad, stream);
  else
    device_end_write(&self->caller, tensor, grad, bytes, stream);
}

static inline void trainer_mark(trainer *self, int32_t step, int64_t param) {
  const int absence = trainer_absence(self->what, step, param);
  void *const stream = trainer_stream(self, param);
  const int present = absence == TRAINER_PRESENT ||
                      (absence == TRAINER_ON_LAST_RANK && self->rank + 1 == self->world_size);
  if (present) {
    trainer_add_microbatch(self, step, param, self->what->microbatches - 1);
    CHECK_STATUS(zero1_optimizer_grad_ready(self->optimizer, param, stream), ZERO1_OK);
  } else {
    CHECK_STATUS(zero1_optimizer_wait_grad(self->optimizer, param, stream), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_grad_absent(self->optimizer, param, stream), ZERO1_OK);
  }
}

/* Parameter that becomes ready at `position`. */
static inline void trainer_order(trainer *self, int64_t *order) {
  const int32_t count = self->what->param_count;
  for (int32_t i = 0; i < count; ++i)
    order[i] = self->what->order == TRAINER_BACKWARD ? count - 1 - i : i;
  for (int32_t i = count - 1; i > 0 && self->what->order == TRAINER_RANDOM; --i) {
    const int32_t j = (int32_t)(random_bits(&self->random) % (uint64_t)(i + 1));
    const int64_t kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
}

static inline void trainer_backward(trainer *self, int32_t step) {
  int64_t order[TRAINER_PARAMS];
  for (int32_t microbatch = 0; microbatch + 1 < self->what->microbatches; ++microbatch)
    for (int32_t i = 0; i < self->what->param_count; ++i)
      if (!trainer_is_frozen(self, i)) trainer_add_microbatch(self, step, i, microbatch);
  trainer_order(self, order);
  for (int32_t i = 0; i < self->what->param_count; ++i)
    if (!trainer_is_frozen(self, order[i])) trainer_mark(self, step, order[i]);
}

static inline zero1_info trainer_info(trainer *self) {
  zero1_info info;
  CHECK_STATUS(zero1_optimizer_info(self->optimizer, &info, sizeof info), ZERO1_OK);
  return info;
}

/* What forward would do: waits for each parameter and reads it. */
static inline uint64_t trainer_forward(trainer *self) {
  const trainer_case *what = self->what;
  uint64_t hash = 0;
  for (int32_t i = 0; i < what->param_count; ++i) {
    void *const stream = trainer_stream(self, i);
    const zero1_status status = zero1_optimizer_wait_param(self->optimizer, i, stream);
    if (status) fprintf(stderr, "%s\n", zero1_optimizer_last_error(self->optimizer));
    CHECK_STATUS(status, ZERO1_OK);
    const void *const param = trainer_read_param(self, i, stream);
    for (int64_t e = 0; e < what->params[i].numel; ++e)
      hash = trainer_scatter(hash, trainer_load_bits(param, what->param_dtype, e), 0, 0);
  }
  return hash;
}

static inline void trainer_set_lr(trainer *self, int32_t step) {
  static const double lrs[] = {0.01, 0.02, 0.005};
  if (self->what->schedule)
    CHECK_STATUS(zero1_optimizer_set_lr(self->optimizer, 0, lrs[step % 3]), ZERO1_OK);
}

/* Step number `step`, the first is 0; returns the hash of the parameters after it. */
static inline uint64_t trainer_step(trainer *self, int32_t step, zero1_info *info) {
  trainer_set_lr(self, step);
  trainer_backward(self, step);
  if (self->what->split) {
    CHECK_STATUS(zero1_optimizer_reduce_grads(self->optimizer), ZERO1_OK);
    CHECK_EQ(trainer_info(self).attempts, step);
  }
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), ZERO1_OK);
  const uint64_t hash = trainer_forward(self);
  *info = trainer_info(self);
  return hash;
}

/* ---- results ---- */

static inline trainer_result trainer_result_make(const trainer_case *what) {
  trainer_result result = {.steps = what->steps};
  for (int32_t i = 0; i < what->param_count; ++i) result.numel += what->params[i].numel;
  const size_t count = (size_t)result.numel + 1;
  result.params = (uint32_t *)calloc(count, sizeof *result.params);
  result.master_param = (uint32_t *)calloc(count, sizeof *result.master_param);
  result.exp_avg = (uint32_t *)calloc(count, sizeof *result.exp_avg);
  result.exp_avg_sq = (uint32_t *)calloc(count, sizeof *result.exp_avg_sq);
  result.owned = (uint8_t *)calloc(count, 1);
  CHECK(result.params && result.master_param && result.exp_avg && result.exp_avg_sq &&
        result.owned);
  return result;
}

static inline void trainer_result_free(trainer_result *result) {
  free(result->params);
  free(result->master_param);
  free(result->exp_avg);
  free(result->exp_avg_sq);
  free(result->owned);
  memset(result, 0, sizeof *result);
}

static inline int64_t trainer_offset(const trainer_case *what, int64_t param) {
  int64_t offset = 0;
  for (int64_t i = 0; i < param; ++i) offset += what->params[i].numel;
  return offset;
}

static inline void trainer_collect_state(trainer *self, const float *state, size_t numel,
                                         uint32_t *bits) {
  const size_t bytes = numel * sizeof *state;
  memcpy(bits, device_read(&self->caller, state, bytes, self->caller.streams[0]), bytes);
}

static inline void trainer_collect(trainer *self, trainer_result *result) {
  const trainer_case *what = self->what;
  void *const stream = self->caller.streams[0];
  int64_t count;
  CHECK_STATUS(zero1_optimizer_wait_params(self->optimizer, stream), ZERO1_OK);
  for (int32_t i = 0; i < what->param_count; ++i) {
    const void *const param = trainer_read_param(self, i, stream);
    for (int64_t e = 0; e < what->params[i].numel; ++e)
      result->params[trainer_offset(what, i) + e] = trainer_load_bits(param, what->param_dtype, e);
  }
  memset(result->owned, 0, (size_t)result->numel);
  CHECK_STATUS(zero1_optimizer_owned_count(self->optimizer, &count), ZERO1_OK);
  for (int64_t i = 0; i < count; ++i) {
    zero1_owned owned;
    CHECK_STATUS(zero1_optimizer_owned(self->optimizer, i, 1, &owned, sizeof owned), ZERO1_OK);
    CHECK(owned.begin < owned.end);
    const int64_t at = trainer_offset(what, owned.param) + owned.begin;
    const size_t numel = (size_t)(owned.end - owned.begin);
    const int all_on_host = (what->on_host || !device_is_cuda()) || what->offload == 1;
    if (all_on_host || what->offload == 0) CHECK_EQ(owned.on_host, all_on_host);
    trainer_collect_state(self, owned.master_param, numel, result->master_param + at);
    trainer_collect_state(self, owned.exp_avg, numel, result->exp_avg + at);
    trainer_collect_state(self, owned.exp_avg_sq, numel, result->exp_avg_sq + at);
    for (size_t e = 0; e < numel; ++e) result->owned[at + (int64_t)e] += 1;
  }
}

/* All of a case on one comm. */
static inline void trainer_run(zero1_comm *comm, const trainer_case *what, trainer_result *result) {
  trainer self;
  trainer_begin(&self, what, comm);
  *result = trainer_result_make(what);
  for (int32_t step = 0; step < what->steps; ++step) {
    zero1_info info;
    result->params_hash[step] = trainer_step(&self, step, &info);
    result->grad_norm[step] = info.grad_norm;
    result->clip_coef[step] = info.clip_coef;
    result->clipped += info.clip_coef < 1;
    CHECK_EQ(info.skipped, 0);
    CHECK_EQ(info.count, step + 1);
  }
  trainer_collect(&self, result);
  trainer_end(&self);
}

/* The same case unsharded: one rank, one bucket, one thread, nothing overlapped, on the host. */
static inline void trainer_run_alone(const trainer_case *what, trainer_result *result) {
  trainer_case alone = *what;
  zero1_comm *comm;
  alone.bucket_numel = (int64_t)1 << 40;
  alone.threads = 1;
  alone.reduce_group = alone.overlap = alone.split = alone.root = 0;
  alone.order = TRAINER_BACKWARD;
  alone.microbatches = 1;
  alone.on_host = 1;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  trainer_run(comm, &alone, result);
  zero1_comm_destroy(&comm);
}

/* What differs first between a rank's result and the reference; NULL: nothing. */
static inline const char *trainer_difference(const trainer_result *mine,
                                             const trainer_result *reference, int64_t *where) {
  for (int32_t step = 0; step < reference->steps; ++step) {
    *where = step;
    if (memcmp(&mine->grad_norm[step], &reference->grad_norm[step], sizeof(double)))
      return "grad_norm of a step";
    if (memcmp(&mine->clip_coef[step], &reference->clip_coef[step], sizeof(double)))
      return "clip_coef of a step";
    if (mine->params_hash[step] != reference->params_hash[step]) return "parameters after a step";
  }
  for (int64_t e = 0; e < reference->numel; ++e) {
    *where = e;
    if (mine->params[e] != reference->params[e]) return "param";
    if (!mine->owned[e]) continue;
    if (mine->master_param[e] != reference->master_param[e]) return "master_param";
    if (mine->exp_avg[e] != reference->exp_avg[e]) return "exp_avg";
    if (mine->exp_avg_sq[e] != reference->exp_avg_sq[e]) return "exp_avg_sq";
  }
  return NULL;
}

#endif
