/* Makes the checkpoints that tests of the command look at: trains a small model on gradients that
 * depend on step, parameter and element alone, its ranks as threads, and saves as it goes.
 *
 *   make_checkpoints ROOT RANKS STEPS EVERY fp32|bf16|int8 SHIFT [VALUES]
 *
 * Saves every EVERY steps. int8: fp32 whose gradients travel in 8 bits, so that there are residuals.
 * SHIFT is added to the initial values. VALUES: a file for the parameters after the last step, one
 * after another, in their data type. */
#include <string.h>

#include "check.h"
#include "zero1/checkpoint.h"

enum { PARAMS = 6 };

typedef struct job {
  const char *root, *values;
  int32_t ranks, is_bf16, is_int8;
  int64_t steps, every;
  float shift;
} job;

static const int64_t shapes[PARAMS][2] = {{300, 7}, {64, 48}, {48}, {0, 4}, {0}, {1000, 3}};
static const zero1_param_spec specs[PARAMS] = {
    {.name = "embed.weight", .shape = shapes[0], .ndim = 2},
    {.name = "layers.0.weight", .shape = shapes[1], .ndim = 2},
    {.name = "layers.0.bias", .shape = shapes[2], .ndim = 1, .group = 1},
    {.name = "empty", .shape = shapes[3], .ndim = 2},
    {.name = "scale", .flags = ZERO1_PARAM_FROZEN},
    {.name = "caf\xc3\xa9 \"\\\x1b",
     .shape = shapes[5],
     .ndim = 2,
     .flags = ZERO1_PARAM_NOT_IN_NORM}};

static int64_t numel_of(int64_t param) {
  int64_t numel = 1;
  for (int32_t i = 0; i < specs[param].ndim; ++i) numel *= specs[param].shape[i];
  return numel;
}

/* Values that bf16 holds: small whole numbers, of which SHIFT is one. */
static void store(void *tensor, int is_bf16, int64_t at, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (is_bf16)
    ((uint16_t *)tensor)[at] = (uint16_t)(bits >> 16);
  else
    ((uint32_t *)tensor)[at] = bits;
}

static zero1_optimizer *create(const job *what, zero1_comm *comm) {
  zero1_config config;
  zero1_group groups[2];
  zero1_optimizer *optimizer;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  for (int i = 0; i < 2; ++i) CHECK_STATUS(zero1_group_init(&groups[i], sizeof *groups), ZERO1_OK);
  groups[1].lr = 0.0125;
  groups[1].weight_decay = 0;
  config.groups = groups;
  config.group_bytes = sizeof *groups;
  config.group_count = 2;
  config.threads = 1;
  config.bucket_numel = 1024;
  config.max_grad_norm = 1;
  config.param_dtype = config.grad_dtype = what->is_bf16 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
  if (what->is_int8) config.grad_wire_dtype = ZERO1_WIRE_INT8;
  CHECK_STATUS(zero1_optimizer_create(comm, &config, specs, sizeof *specs, PARAMS, &optimizer),
               ZERO1_OK);
  return optimizer;
}

static void set_params(const job *what, int32_t rank, zero1_optimizer *optimizer) {
  for (int64_t p = 0; p < PARAMS && rank == 0; ++p) {
    void *param;
    CHECK_STATUS(zero1_optimizer_param(optimizer, p, &param), ZERO1_OK);
    for (int64_t i = 0; i < numel_of(p); ++i)
      store(param, what->is_bf16, i, (float)(i % 17 - 8) + what->shift);
  }
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
}

static void train(const job *what, zero1_optimizer *optimizer, int64_t step) {
  CHECK_STATUS(zero1_optimizer_wait_params(optimizer, ZERO1_STREAM_DEFAULT), ZERO1_OK);
  for (int64_t p = PARAMS - 1; p >= 0; --p) {
    void *grad;
    CHECK_STATUS(zero1_optimizer_grad(optimizer, p, &grad), ZERO1_OK);
    if (!grad) continue;
    for (int64_t i = 0; i < numel_of(p); ++i)
      store(grad, what->is_bf16, i, (float)((step * 5 + p * 3 + i) % 13 - 6));
    CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, p, ZERO1_STREAM_DEFAULT), ZERO1_OK);
  }
  CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_OK);
}

static void save(const job *what, int32_t rank, zero1_optimizer *optimizer, int64_t step) {
  char position[32], state[16], random[301];
  zero1_save_options options;
  snprintf(position, sizeof position, "%lld", (long long)step * 128);
  snprintf(state, sizeof state, "rank %d", (int)rank);
  memset(random, 'r', 300);
  random[300] = 0;
  const zero1_pair run[] = {{"data", position}, {"random", random}}, own = {"sampler", state};
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.metadata = run;
  options.metadata_count = 2;
  options.rank_metadata = &own;
  options.rank_metadata_count = 1;
  CHECK_STATUS(zero1_checkpoint_save(optimizer, what->root, &options), ZERO1_OK);
}

static void write_values(const job *what, zero1_optimizer *optimizer) {
  FILE *const file = fopen(what->values, "wb");
  CHECK(file);
  for (int64_t p = 0; p < PARAMS; ++p) {
    void *param;
    const size_t numel = (size_t)numel_of(p), bytes = what->is_bf16 ? 2 : 4;
    CHECK_STATUS(zero1_optimizer_param(optimizer, p, &param), ZERO1_OK);
    CHECK(fwrite(param, bytes, numel, file) == numel);
  }
  CHECK(!fclose(file));
}

static void run_rank(int32_t rank, zero1_comm *comm, void *context) {
  const job *const what = context;
  zero1_optimizer *optimizer = create(what, comm);
  set_params(what, rank, optimizer);
  for (int64_t step = 1; step <= what->steps; ++step) {
    train(what, optimizer, step);
    if (step % what->every == 0) save(what, rank, optimizer, step);
  }
  CHECK_STATUS(zero1_optimizer_wait_params(optimizer, ZERO1_STREAM_DEFAULT), ZERO1_OK);
  if (what->values && rank == 0) write_values(what, optimizer);
  check_meet();
  zero1_optimizer_destroy(&optimizer);
}

int main(int argc, char **argv) {
  if (argc < 7) {
    fputs("usage: make_checkpoints ROOT RANKS STEPS EVERY fp32|bf16|int8 SHIFT [VALUES]\n", stderr);
    return 2;
  }
  job what = {.root = argv[1],
              .ranks = atoi(argv[2]),
              .steps = atoi(argv[3]),
              .every = atoi(argv[4]),
              .is_bf16 = !strcmp(argv[5], "bf16"),
              .is_int8 = !strcmp(argv[5], "int8"),
              .shift = (float)atof(argv[6]),
              .values = argc > 7 ? argv[7] : NULL};
  check_threads(what.ranks, NULL, run_rank, &what);
  return 0;
}
