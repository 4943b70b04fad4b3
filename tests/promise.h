/* The cases over which the promise is tested: a sample of the product of everything that a result
 * must not depend on, and of everything that makes a step take another way. Each axis goes through
 * its values evenly, in an order of its own; so every value of every axis is in any sample that is
 * at least as long as the longest axis. */
#ifndef ZERO1_TESTS_PROMISE_H
#define ZERO1_TESTS_PROMISE_H

#include "trainer.h"

/* Sizes around a block, nothing, one frozen, one left out of the norm; two groups. */
static const trainer_param promise_params[] = {
    {1000, 0, 0},
    {0, 1, 0},
    {1, 0, 0},
    {257, 1, 0},
    {300, 0, ZERO1_PARAM_FROZEN},
    {255, 0, 0},
    {5000, 1, 0},
    {256, 0, 0},
    {7, 1, ZERO1_PARAM_NOT_IN_NORM},
};

/* Three parameters in three blocks: most ranks own nothing. */
static const trainer_param promise_few[] = {{7, 0, 0}, {1, 1, 0}, {30, 0, 0}};

/* The second group: Adam with an L2 penalty. */
static const zero1_group promise_groups[] = {
    {sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0},
    {sizeof(zero1_group), 0.002, 0.8, 0.95, 1e-6, 0.03, 0, 0},
};

typedef struct promise_case {
  trainer_case train;
  const char *isa;
  int64_t workspace_bytes;
  int32_t world_size, ranks_per_node;
} promise_case;

/* One value for each axis: a number that the axis is taken modulo of. */
enum {
  AXIS_WORLD,
  AXIS_BUCKET,
  AXIS_THREADS,
  AXIS_ISA,
  AXIS_SHARE,
  AXIS_OVERLAP,
  AXIS_DTYPES,
  AXIS_WIRES,
  AXIS_ORDER,
  AXIS_MICROBATCHES,
  AXIS_MODE,
  AXIS_ABSENCES,
  AXIS_SPLIT,
  AXIS_WORKSPACE,
  AXIS_GROUP,
  AXIS_FEW,
  AXIS_OFFLOAD,
  AXIS_STREAMS,
  AXIS_COUNT
};

enum { PROMISE_SAMPLE = 48 };

/* columns[axis]: 0, 1, ... PROMISE_SAMPLE - 1, shuffled in runs of `length`. */
typedef struct promise_sample {
  int32_t columns[AXIS_COUNT][PROMISE_SAMPLE];
} promise_sample;

static inline promise_sample promise_shuffle(uint64_t seed, int32_t length) {
  promise_sample sample;
  random_state random = {seed};
  for (int axis = 0; axis < AXIS_COUNT; ++axis)
    for (int32_t i = 0; i < PROMISE_SAMPLE; ++i) {
      const int32_t run = i - i % length;
      const int32_t j = run + (int32_t)(random_bits(&random) % (uint64_t)(i - run + 1));
      sample.columns[axis][i] = sample.columns[axis][j];
      sample.columns[axis][j] = i;
    }
  return sample;
}

/* Whether this processor has the instruction set: an optimizer can be made with it. */
static inline int promise_has_isa(const char *isa) {
  const trainer_case tiny = {.params = promise_few,
                             .param_count = 1,
                             .groups = promise_groups,
                             .group_count = 2,
                             .bucket_numel = 1,
                             .threads = 1,
                             .on_host = 1};
  const zero1_config config = trainer_config(&tiny);
  zero1_comm *comm;
  trainer self;
  setenv("ZERO1_ISA", isa, 1);
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  const zero1_status status = trainer_try_create(&self, &tiny, comm, &config);
  CHECK(status == ZERO1_OK || status == ZERO1_ERR_UNSUPPORTED);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
  return status == ZERO1_OK;
}

/* Case `i` of a sample for ranks that are given; reduce_group divides them. On CUDA share_params is
 * ignored, ISA and threads are those of the reference alone, and nodes of several ranks take the
 * path between single ranks; on the host there is one stream. */
static inline promise_case promise_case_of(const promise_sample *sample, int32_t i,
                                           int32_t world_size, int32_t ranks_per_node) {
  static const int64_t buckets[] = {1, 700, 2000, (int64_t)1 << 40};
  static const char *const isas[] = {"baseline", "avx2", "avx512"};
  static const int64_t workspaces[] = {1, 40000, 0};
  static const double offloads[] = {0, 0, 0.4, 1};
#define PICK(axis, count) (sample->columns[axis][i] % (count))
  const int wires = PICK(AXIS_WIRES, 6), dtypes = PICK(AXIS_DTYPES, 4), mode = PICK(AXIS_MODE, 3),
            few = !PICK(AXIS_FEW, 5);
  const char *isa = isas[PICK(AXIS_ISA, 3)];
  int32_t reduce_group = PICK(AXIS_GROUP, 3) * (world_size / 2);
  if (reduce_group && world_size % reduce_group) reduce_group = 1;
  promise_case made = {
      .train = {.params = few ? promise_few : promise_params,
                .param_count = few ? 3 : (int32_t)(sizeof promise_params / sizeof *promise_params),
                .groups = promise_groups,
                .group_count = 2,
                .param_dtype = dtypes & 1 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32,
                .grad_dtype = dtypes & 2 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32,
                .param_wire = wires & 1 ? ZERO1_WIRE_BF16 : ZERO1_WIRE_AS_IN_MEMORY,
                .grad_wire = wires / 2, /* the sums fit bf16 */
                .steps = 20,
                .guard = mode > 0, /* mode 0: reduce and update in one pass, where they can be */
                .absences = PICK(AXIS_ABSENCES, 2),
                .schedule = PICK(AXIS_FEW, 2),
                .grad_scale = 0.37,
                .max_grad_norm = mode == 2 ? (few ? 10 : 400) : 0,
                .bucket_numel = buckets[PICK(AXIS_BUCKET, 4)],
                .reduce_group = reduce_group,
                .threads = 1 + PICK(AXIS_THREADS, 2),
                .share_params = PICK(AXIS_SHARE, 2),
                .overlap = PICK(AXIS_OVERLAP, 2),
                .offload = offloads[PICK(AXIS_OFFLOAD, 4)],
                .order = PICK(AXIS_ORDER, 3),
                .microbatches = 1 + 2 * PICK(AXIS_MICROBATCHES, 2),
                .split = PICK(AXIS_SPLIT, 2),
                .streams = 1 + PICK(AXIS_STREAMS, 2),
                .root = sample->columns[AXIS_SPLIT][i] % world_size},
      .isa = isa,
      .workspace_bytes = workspaces[PICK(AXIS_WORKSPACE, 3)],
      .world_size = world_size,
      .ranks_per_node = ranks_per_node,
  };
#undef PICK
  return made;
}

/* For the line that a failure prints. */
static inline void promise_describe(const promise_case *what, char *text, size_t bytes) {
  const trainer_case *train = &what->train;
  snprintf(text, bytes,
           "%d ranks, %d per node, %s, bucket %lld, threads %d, share %d, overlap %d, offload %g, "
           "dtypes %d/%d, wires %d/%d, "
           "order %d, microbatches %d, guard %d, clip %g, absences %d, split %d, workspace %lld, "
           "reduce_group %d, %d parameters, root %d, streams %d",
           what->world_size, what->ranks_per_node, what->isa, (long long)train->bucket_numel,
           train->threads, train->share_params, train->overlap, train->offload, train->param_dtype,
           train->grad_dtype, train->param_wire, train->grad_wire, train->order,
           train->microbatches, train->guard, train->max_grad_norm, train->absences, train->split,
           (long long)what->workspace_bytes, train->reduce_group, train->param_count, train->root,
           train->streams);
}

static inline void promise_check_alike(const promise_case *what, const trainer_result *mine,
                                       const trainer_result *reference) {
  char text[400];
  int64_t where;
  const char *difference = trainer_difference(mine, reference, &where);
  if (!difference) return;
  promise_describe(what, text, sizeof text);
  fprintf(stderr, "%s\n%s (%lld) differs from the unsharded run's\n", text, difference,
          (long long)where);
  CHECK(!"the same bits");
}

/* Clipping has an effect in some steps and not in others. */
static inline void promise_check_clipping(const promise_case *what,
                                          const trainer_result *reference) {
  if (what->train.max_grad_norm > 0)
    CHECK(reference->clipped > 0 && reference->clipped < reference->steps);
  else
    CHECK_EQ(reference->clipped, 0);
}

/* ---- runs that go on elsewhere ---- */

static inline void must(zero1_optimizer *optimizer, zero1_status status) {
  if (status) fprintf(stderr, "%s\n", zero1_optimizer_last_error(optimizer));
  CHECK_STATUS(status, ZERO1_OK);
}

/* What decides the result is that of `from`; what must not, of `to`. */
static inline promise_case other_layout(const promise_case *from, const promise_case *to) {
  promise_case made = *to;
  made.train = from->train;
  made.train.bucket_numel = to->train.bucket_numel;
  made.train.threads = to->train.threads;
  made.train.share_params = to->train.share_params;
  made.train.overlap = to->train.overlap;
  made.train.offload = to->train.offload;
  made.train.order = to->train.order;
  made.train.split = to->train.split;
  made.train.streams = to->train.streams;
  made.train.reduce_group = to->train.reduce_group;
  made.train.root = 0;
  return made;
}

#endif
