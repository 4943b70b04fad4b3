// sanitizers: address undefined thread

/* Bytes that the library reports, against the formula: what every rank has of parameters and
 * gradients, and its part of the state. */
#include <unistd.h>

#include "trainer.h"

enum { RANKS = 4 };

static const zero1_group groups[] = {{sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0}};

static const trainer_case base = {.groups = groups,
                                  .group_count = 1,
                                  .steps = 1,
                                  .guard = 1,
                                  .grad_scale = 1,
                                  .bucket_numel = 65536,
                                  .threads = 1,
                                  .order = TRAINER_BACKWARD,
                                  .microbatches = 1};

typedef struct memory_case {
  trainer_case train;
  int32_t world_size, ranks_per_node;
  int64_t workspace_bytes;
  zero1_memory memory[RANKS];
} memory_case;

static uint64_t tensors(const zero1_memory *memory) {
  return memory->params_bytes + memory->grads_bytes + memory->grad_shard_bytes +
         memory->master_bytes + memory->exp_avg_bytes + memory->exp_avg_sq_bytes;
}

static void ask_rank(int32_t rank, zero1_comm *comm, void *arg) {
  memory_case *const what = (memory_case *)arg;
  zero1_memory *memory = &what->memory[rank];
  trainer self;
  trainer_begin(&self, &what->train, comm);
  CHECK_STATUS(zero1_optimizer_memory(self.optimizer, memory, sizeof *memory), ZERO1_OK);
  CHECK_EQ(memory->total_bytes, tensors(memory) + memory->workspace_bytes);
  trainer_end(&self);
}

static void ask(memory_case *what) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->ranks_per_node;
  options.workspace_bytes = what->workspace_bytes;
  check_threads(what->world_size, &options, ask_rank, what);
}

/* ---- the formula, where nothing needs padding ---- */

/* Bytes per parameter: of every rank, and of all ranks together. */
typedef struct formula {
  int32_t param_dtype, grad_dtype, guard;
  uint64_t each, sharded;
  int32_t wire; /* ZERO1_WIRE_ of both */
} formula;

static void check_formula(const formula *expected, int32_t world_size, int32_t ranks_per_node) {
  static const trainer_param params[] = {{1 << 18, 0, 0}};
  const uint64_t numel = 1 << 18, d = (uint64_t)world_size;
  memory_case what = {.train = base, .world_size = world_size, .ranks_per_node = ranks_per_node};
  what.train.params = params;
  what.train.param_count = 1;
  what.train.param_dtype = expected->param_dtype;
  what.train.grad_dtype = expected->grad_dtype;
  what.train.guard = expected->guard;
  what.train.param_wire = what.train.grad_wire = expected->wire;
  ask(&what);
  for (int32_t rank = 0; rank < world_size; ++rank) {
    const zero1_memory *memory = &what.memory[rank];
    CHECK_EQ(tensors(memory), numel * expected->each + numel * expected->sharded / d);
    CHECK_EQ(memory->padding_bytes, 0);
    CHECK_EQ(memory->params_bytes, numel * (expected->param_dtype ? 2 : 4));
    CHECK_EQ(memory->grads_bytes, numel * (expected->grad_dtype ? 2 : 4));
    CHECK_EQ(memory->exp_avg_bytes, numel * 4 / d);
    CHECK_EQ(memory->exp_avg_sq_bytes, numel * 4 / d);
    const int separate = expected->param_dtype || expected->wire == ZERO1_WIRE_BF16;
    CHECK_EQ(memory->master_bytes, separate ? numel * 4 / d : 0);
  }
}

/* On a node of up to 4 ranks, sums of bf16 gradients are not kept but made again. */
static void a_rank_has_what_the_formula_says(void) {
  static const formula rows[] = {
      {ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 8, 8, 0},
      {ZERO1_DTYPE_BF16, ZERO1_DTYPE_FP32, 1, 6, 12, 0},
      {ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 1, 4, 12, 0},
      {ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 0, 4, 12, 0},
      {ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16, 1, 6, 8, 0},
      {ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 8, 8, ZERO1_WIRE_FP32},
      {ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 8, 12, ZERO1_WIRE_BF16}, /* a separate master */
      {ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 1, 4, 12, ZERO1_WIRE_BF16},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i)
    for (int32_t world_size = 1; world_size <= 4; world_size *= 2)
      check_formula(&rows[i], world_size, 0);
}

/* Between nodes, sums of bf16 gradients need 4 / d more. */
static void between_nodes_bf16_gradients_need_room_for_their_sums(void) {
  static const formula rows[] = {
      {ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 8, 8, 0},
      {ZERO1_DTYPE_BF16, ZERO1_DTYPE_FP32, 1, 6, 12, 0},
      {ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 1, 4, 16, 0},
      {ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 0, 4, 16, 0},
      {ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 8, 12, ZERO1_WIRE_BF16},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
    check_formula(&rows[i], 2, 1);
    check_formula(&rows[i], 4, 1);
    check_formula(&rows[i], 4, 2);
  }
}

/* ---- padding, and what is shared ---- */

static const trainer_param ragged[] = {
    {1000, 0, 0}, {1, 0, 0}, {300, 0, ZERO1_PARAM_FROZEN}, {5000, 0, 0}};

static void check_ragged(int32_t world_size, int32_t ranks_per_node, int32_t copies,
                         const trainer_case *train) {
  memory_case what = {.train = *train, .world_size = world_size, .ranks_per_node = ranks_per_node};
  const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), d = (uint64_t)world_size;
  uint64_t used = 0, params_bytes = 0, grad_shard_bytes = 0;
  what.train.params = ragged;
  what.train.param_count = 4;
  what.train.bucket_numel = 1000;
  ask(&what);
  for (int32_t rank = 0; rank < world_size; ++rank) {
    const zero1_memory *memory = &what.memory[rank];
    used += tensors(memory) - memory->padding_bytes;
    params_bytes += memory->params_bytes;
    grad_shard_bytes += memory->grad_shard_bytes;
    CHECK_EQ(memory->grads_bytes % page, 0);
    CHECK_EQ(memory->exp_avg_bytes % page, 0);
    CHECK_EQ(memory->exp_avg_sq_bytes % page, 0);
    CHECK_EQ(memory->master_bytes % page, 0);
    CHECK_EQ(memory->grad_shard_bytes % page, 0);
  }
  CHECK_EQ(params_bytes % page, 0);
  const uint64_t param_each = train->param_dtype ? 2 : 4, grad_each = train->grad_dtype ? 2 : 4;
  const uint64_t state = 8u + (train->param_dtype ? 4u : 0u) + (grad_shard_bytes ? 4u : 0u);
  const uint64_t needed =
      6301 * param_each * (uint64_t)copies + 6001 * grad_each * d + 6001 * state;
  /* a part of shared memory is reported to the byte below */
  CHECK(used <= needed && needed - used < d);
}

/* 3 ranks of a node, 3 nodes of one, 2 nodes of 2: 1 or 3 copies, 3, and 2 or 4. */
static void padding_is_told_and_shared_memory_counts_once_a_node(void) {
  trainer_case train = base;
  for (int dtypes = 0; dtypes < 4; ++dtypes) {
    train.param_dtype = dtypes & 1 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    train.grad_dtype = dtypes & 2 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    for (train.share_params = 0; train.share_params < 2; ++train.share_params) {
      const int32_t shared = train.share_params;
      check_ragged(1, 0, 1, &train);
      check_ragged(3, 0, shared ? 1 : 3, &train);
      check_ragged(3, 1, 3, &train);
      check_ragged(4, 2, shared ? 2 : 4, &train);
    }
  }
}

/* ---- the workspace ---- */

/* Between nodes as much is set aside to send as to receive; tables take the rest. */
static void exchange_stays_within_its_workspace(void) {
  static const trainer_param params[] = {{1 << 18, 0, 0}};
  const int64_t tables = 65536;
  for (int64_t asked = 65536; asked <= 1 << 18; asked *= 2) {
    for (int32_t per_node = 1; per_node <= 2; ++per_node) {
      memory_case what = {
          .train = base, .world_size = 4, .ranks_per_node = per_node, .workspace_bytes = asked};
      what.train.params = params;
      what.train.param_count = 1;
      ask(&what);
      for (int32_t rank = 0; rank < 4; ++rank)
        CHECK(what.memory[rank].workspace_bytes <= (uint64_t)(2 * asked + tables));
    }
  }
}

int main(void) {
  RUN(a_rank_has_what_the_formula_says);
  RUN(between_nodes_bf16_gradients_need_room_for_their_sums);
  RUN(padding_is_told_and_shared_memory_counts_once_a_node);
  RUN(exchange_stays_within_its_workspace);
  return check_summary();
}
