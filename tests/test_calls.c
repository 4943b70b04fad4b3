// sanitizers: address undefined thread
/* Ranks that make different collective calls, and a first step whose masters nobody has set. */
#include <string.h>

#include "check.h"
#include "misuse.h"
#include "zero1/zero1.h"

static zero1_status sync_params(zero1_optimizer *optimizer) {
  return zero1_optimizer_sync_params(optimizer, 0);
}

static zero1_status check_replicas(zero1_optimizer *optimizer) {
  return zero1_optimizer_check_replicas(optimizer, NULL);
}

static zero1_status get_state(zero1_optimizer *optimizer) {
  return zero1_optimizer_get_state(optimizer, 0, ZERO1_STATE_EXP_AVG, NULL);
}

static zero1_status set_count(zero1_optimizer *optimizer) {
  return zero1_optimizer_set_count(optimizer, 1);
}

typedef struct call {
  const char *name; /* as the error names it */
  zero1_status (*make)(zero1_optimizer *optimizer);
} call;

static const call calls[] = {{"sync_params", sync_params},
                             {"params_changed", zero1_optimizer_params_changed},
                             {"check_replicas", check_replicas},
                             {"get_state", get_state},
                             {"set_count", set_count}};
enum { CALLS = sizeof calls / sizeof *calls };

/* Rank 0 makes one call, the others another. (Gradients that peers never send end in the timeout: a
 * step against one of these is not among them.) */
static void make_different_calls(int32_t rank, zero1_comm *comm, void *arg) {
  const call *const *pair = arg;
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  CHECK_STATUS(pair[rank != 0]->make(optimizer), ZERO1_ERR_MISMATCH);
  CHECK(strstr(zero1_optimizer_last_error(optimizer), pair[0]->name));
  CHECK(strstr(zero1_optimizer_last_error(optimizer), pair[1]->name));
  CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_ERR_SPENT);
  zero1_optimizer_destroy(&optimizer);
}

static void different_calls_are_named_on_every_rank(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (int i = 0; i < CALLS; ++i)
      for (int j = 0; j < CALLS; ++j) {
        const call *pair[2] = {&calls[i], &calls[j]};
        zero1_comm_options options;
        if (i == j) continue;
        misuse_options(path, 600, &options);
        check_threads(misuse_world(path), &options, make_different_calls, pair);
      }
}

/* bf16 parameters have masters beside them: without sync_params those are zero. */
static void step_without_masters(int32_t rank, zero1_comm *comm, void *arg) {
  const zero1_param_spec spec = {"w", NULL, 0, 0, 0, 0};
  zero1_config config;
  zero1_optimizer *optimizer;
  void *param;
  (void)arg;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.param_dtype = ZERO1_DTYPE_BF16;
  CHECK_STATUS(zero1_optimizer_create(comm, &config, &spec, sizeof spec, 1, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_param(optimizer, 0, &param), ZERO1_OK);
  if (rank == 0) *(uint16_t *)param = 0x3f80; /* 1.0 */
  CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 0, NULL), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_ERR_STATE);
  CHECK(strstr(zero1_optimizer_last_error(optimizer), "sync_params"));
  CHECK_STATUS(zero1_optimizer_wait_params(optimizer, NULL), ZERO1_OK); /* told already */
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  CHECK(*(uint16_t *)param == 0x3f80);
  CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 0, NULL), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_wait_params(optimizer, NULL), ZERO1_OK);
  CHECK(*(uint16_t *)param == 0x3f80); /* weight decay alone: 1e-5, less than half a bf16 step */
  zero1_optimizer_destroy(&optimizer);
}

static void a_step_without_masters_changes_nothing(void) {
  check_threads(2, NULL, step_without_masters, NULL);
}

int main(void) {
  RUN(different_calls_are_named_on_every_rank);
  RUN(a_step_without_masters_changes_nothing);
  return check_summary();
}
