// ranks: threads
// sanitizers: address undefined thread
// quarters: 2
// cost: 3
// devices: host standin
/* Ranks that disagree. Whatever the path, every rank returns the same status, the text names the
 * first difference, and where nothing was lost the next, corrected call succeeds. */
#include "misuse.h"

typedef struct arguments {
  zero1_config config;
  zero1_group groups[2];
  zero1_param_spec specs[MISUSE_PARAMS + 1];
  int64_t count;
} arguments;

typedef void (*spoil_fn)(arguments *arguments);

typedef struct disagreement {
  const char *name;
  spoil_fn spoil; /* of the last rank's arguments */
  zero1_status status;
  const char *text;
} disagreement;

static const int64_t other_shape[] = {2, 301}, turned_shape[] = {300, 2};

static void spoil_name(arguments *a) {
  a->specs[1].name = "c";
}
static void spoil_shape(arguments *a) {
  a->specs[0].shape = other_shape;
}
static void spoil_shape_of_same_size(arguments *a) {
  a->specs[0].shape = turned_shape;
}
static void spoil_ndim(arguments *a) {
  a->specs[0].ndim = 1;
}
static void spoil_order(arguments *a) {
  const zero1_param_spec first = a->specs[0];
  a->specs[0] = a->specs[1];
  a->specs[1] = first;
}
static void spoil_group(arguments *a) {
  a->specs[2].group = 1;
}
static void spoil_flags(arguments *a) {
  a->specs[2].flags = ZERO1_PARAM_FROZEN;
}
static void spoil_fewer(arguments *a) {
  a->count = 2;
}
static void spoil_more(arguments *a) {
  a->specs[3] = a->specs[2];
  a->specs[3].name = "more";
  a->count = 4;
}
static void spoil_none(arguments *a) {
  a->count = 0;
}
static void spoil_param_dtype(arguments *a) {
  a->config.param_dtype = ZERO1_DTYPE_BF16;
}
static void spoil_grad_wire(arguments *a) {
  a->config.grad_wire_dtype = ZERO1_WIRE_BF16;
}
static void spoil_param_wire(arguments *a) {
  a->config.param_wire_dtype = ZERO1_WIRE_BF16;
}
static void spoil_grad_dtype(arguments *a) {
  a->config.grad_dtype = ZERO1_DTYPE_BF16;
}
static void spoil_bucket_numel(arguments *a) {
  a->config.bucket_numel = 2048;
}
static void spoil_reduce_group(arguments *a) {
  a->config.reduce_group = 1;
}
static void spoil_overlap(arguments *a) {
  a->config.overlap = 0;
}
static void spoil_guard(arguments *a) {
  a->config.guard = 0;
}
static void spoil_grad_scale(arguments *a) {
  a->config.grad_scale = 0.125;
}
static void spoil_max_grad_norm(arguments *a) {
  a->config.max_grad_norm = 1.5;
}
static void spoil_skip_grad_norm(arguments *a) {
  a->config.skip_grad_norm = 2.5;
}
static void spoil_group_count(arguments *a) {
  a->config.group_count = 1;
  for (int i = 0; i < MISUSE_PARAMS; ++i) a->specs[i].group = 0;
}
static void spoil_lr(arguments *a) {
  a->groups[1].lr = 0.25;
}
static void spoil_beta1(arguments *a) {
  a->groups[1].beta1 = 0.25;
}
static void spoil_beta2(arguments *a) {
  a->groups[1].beta2 = 0.25;
}
static void spoil_eps(arguments *a) {
  a->groups[0].eps = 0.25;
}
static void spoil_weight_decay(arguments *a) {
  a->groups[0].weight_decay = 0.25;
}
static void spoil_decoupled(arguments *a) {
  a->groups[0].decoupled_weight_decay = 0;
}
/* Wrong by itself, besides. */
static void spoil_validity(arguments *a) {
  a->config.bucket_numel = -7;
}
static void spoil_own_name(arguments *a) {
  a->specs[1].name = "w";
}

static const disagreement disagreements[] = {
    {"name", spoil_name, ZERO1_ERR_MISMATCH, "parameter 1 is 'b'"},
    {"shape", spoil_shape, ZERO1_ERR_MISMATCH, "'w' [2, 301]"},
    {"shape of the same size", spoil_shape_of_same_size, ZERO1_ERR_MISMATCH, "'w' [300, 2]"},
    {"ndim", spoil_ndim, ZERO1_ERR_MISMATCH, "'w' [2]"},
    {"order", spoil_order, ZERO1_ERR_MISMATCH, "parameter 0 is 'w'"},
    {"group", spoil_group, ZERO1_ERR_MISMATCH, "group 1"},
    {"flags", spoil_flags, ZERO1_ERR_MISMATCH, "flags 1"},
    {"fewer", spoil_fewer, ZERO1_ERR_MISMATCH, "no parameter on rank"},
    {"more", spoil_more, ZERO1_ERR_MISMATCH, "parameter 3 is no parameter on rank 0"},
    {"none", spoil_none, ZERO1_ERR_MISMATCH, "no parameter on rank"},
    {"param_dtype", spoil_param_dtype, ZERO1_ERR_MISMATCH,
     "config.param_dtype is 0 on rank 0 and 1"},
    {"grad_wire_dtype", spoil_grad_wire, ZERO1_ERR_MISMATCH, "config.grad_wire_dtype"},
    {"param_wire_dtype", spoil_param_wire, ZERO1_ERR_MISMATCH, "config.param_wire_dtype"},
    {"grad_dtype", spoil_grad_dtype, ZERO1_ERR_MISMATCH, "config.grad_dtype"},
    {"bucket_numel", spoil_bucket_numel, ZERO1_ERR_MISMATCH, "config.bucket_numel is 1024"},
    {"reduce_group", spoil_reduce_group, ZERO1_ERR_MISMATCH, "config.reduce_group"},
    {"overlap", spoil_overlap, ZERO1_ERR_MISMATCH, "config.overlap"},
    {"guard", spoil_guard, ZERO1_ERR_MISMATCH, "config.guard"},
    {"grad_scale", spoil_grad_scale, ZERO1_ERR_MISMATCH, "config.grad_scale"},
    {"max_grad_norm", spoil_max_grad_norm, ZERO1_ERR_MISMATCH, "config.max_grad_norm"},
    {"skip_grad_norm", spoil_skip_grad_norm, ZERO1_ERR_MISMATCH, "config.skip_grad_norm"},
    {"group_count", spoil_group_count, ZERO1_ERR_MISMATCH, "config.group_count is 2 on rank 0"},
    {"lr", spoil_lr, ZERO1_ERR_MISMATCH, "lr of group 1"},
    {"beta1", spoil_beta1, ZERO1_ERR_MISMATCH, "beta1 of group 1"},
    {"beta2", spoil_beta2, ZERO1_ERR_MISMATCH, "beta2 of group 1"},
    {"eps", spoil_eps, ZERO1_ERR_MISMATCH, "eps of group 0"},
    {"weight_decay", spoil_weight_decay, ZERO1_ERR_MISMATCH, "weight_decay of group 0"},
    {"decoupled", spoil_decoupled, ZERO1_ERR_MISMATCH, "decoupled_weight_decay of group 0"},
    {"validity", spoil_validity, ZERO1_ERR_INVALID, "config.bucket_numel is -7"},
    {"own name", spoil_own_name, ZERO1_ERR_INVALID, "both named 'w'"},
};
enum { DISAGREEMENTS = sizeof disagreements / sizeof *disagreements };

static void fill(arguments *a) {
  misuse_config(&a->config);
  misuse_specs(a->specs);
  for (int i = 0; i < 2; ++i)
    CHECK_STATUS(zero1_group_init(&a->groups[i], sizeof a->groups[i]), ZERO1_OK);
  a->config.groups = a->groups;
  a->config.group_count = 2;
  a->config.share_params = 0;
  a->count = MISUSE_PARAMS;
}

static zero1_status create(zero1_comm *comm, const arguments *a, zero1_optimizer **optimizer) {
  return zero1_optimizer_create(comm, &a->config, a->specs, sizeof *a->specs, a->count, optimizer);
}

static void rank_creates(int32_t rank, zero1_comm *comm, void *unused) {
  (void)unused;
  const int spoiler = rank == zero1_comm_world_size(comm) - 1;
  for (int i = 0; i < DISAGREEMENTS; ++i) {
    zero1_optimizer *optimizer = (zero1_optimizer *)(void *)comm; /* to be cleared */
    arguments mine;
    fill(&mine);
    if (spoiler) disagreements[i].spoil(&mine);
    CHECK_STATUS(create(comm, &mine, &optimizer), disagreements[i].status);
    CHECK(!optimizer);
    CHECK_TEXT(zero1_comm_last_error(comm), disagreements[i].text);
  }
  /* share_params is the same everywhere where ranks share nothing. */
  zero1_optimizer *optimizer;
  arguments mine;
  fill(&mine);
  mine.config.share_params = spoiler;
  const int shares = zero1_comm_ranks_per_node(comm) > 1 && !device_is_cuda();
  CHECK_STATUS(create(comm, &mine, &optimizer), shares ? ZERO1_ERR_MISMATCH : ZERO1_OK);
  if (shares) CHECK_TEXT(zero1_comm_last_error(comm), "config.share_params is 0 on rank 0 and 1");
  zero1_optimizer_destroy(&optimizer);
  mine.config.share_params = 1; /* corrected */
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void on_every_path(check_rank_fn fn, double timeout_seconds) {
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    misuse_options(path, timeout_seconds, &options);
    check_threads(misuse_world(path), &options, fn, &path);
  }
}

static void create_names_the_first_difference_on_every_rank(void) {
  on_every_path(rank_creates, 600);
}

/* ---- while training ---- */

static void rank_sets_another_lr(int32_t rank, zero1_comm *comm, void *unused) {
  (void)unused;
  zero1_optimizer *optimizer;
  zero1_info info;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  CHECK_STATUS(zero1_optimizer_set_lr(optimizer, 0, rank == 1 ? 0.5 : 0.25), ZERO1_OK);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_ERR_MISMATCH);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "ranks 0 and 1");
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_ERR_MISMATCH);
  CHECK_EQ(info.count, 1);
  CHECK_EQ(info.attempts, 2);
  CHECK_EQ(info.skipped, 1);
  CHECK_EQ(info.skip_reason, ZERO1_SKIP_ERROR);
  CHECK_STATUS(zero1_optimizer_set_lr(optimizer, 0, 0.25), ZERO1_OK);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_OK);

  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(optimizer, rank == 2 ? 1 : 0), ZERO1_OK);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_ERR_MISMATCH);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "ranks 0 and 2");
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "max_grad_norm");
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(optimizer, 0), ZERO1_OK);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.count, 3);
  zero1_optimizer_destroy(&optimizer);
}

static void different_hyper_parameters_skip_the_step_on_every_rank(void) {
  on_every_path(rank_sets_another_lr, 600);
}

static void rank_names_another_root(int32_t rank, zero1_comm *comm, void *unused) {
  (void)unused;
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, rank == 2), ZERO1_ERR_MISMATCH);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "root is 0 on rank 0 and 1 on rank 2");
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, rank == 1 ? 77 : 0), ZERO1_ERR_INVALID);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "root is 77");
  if (rank != 1) CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 1: ");
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, -1), ZERO1_ERR_INVALID);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void sync_params_has_one_root(void) {
  on_every_path(rank_names_another_root, 600);
}

/* The first pair of calls, in two passes and in one. */
typedef zero1_status (*step_fn)(zero1_optimizer *optimizer);
typedef struct calls {
  step_fn all, one; /* of all ranks but rank 1; of rank 1 */
  int32_t guard;
} calls;

/* On devices of a node, who reduces waits there for buckets that who steps in one pass, or drops,
 * does not offer. */
static int ends_with_timeout(const zero1_comm *comm, const calls *made) {
  return device_is_cuda() && zero1_comm_ranks_per_node(comm) > 1 && !made->guard &&
         (made->all == zero1_optimizer_reduce_grads || made->one == zero1_optimizer_reduce_grads);
}

static void rank_calls_something_else(int32_t rank, zero1_comm *comm, void *arg) {
  const calls *made = arg;
  zero1_optimizer *optimizer;
  zero1_config config;
  zero1_param_spec specs[MISUSE_PARAMS];
  misuse_config(&config);
  misuse_specs(specs);
  config.guard = made->guard;
  if (ends_with_timeout(comm, made)) config.timeout_seconds = 0.5;
  CHECK_STATUS(
      zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, &optimizer),
      ZERO1_OK);
  misuse_check_works(optimizer);
  CHECK_STATUS(misuse_backward(optimizer), ZERO1_OK);
  zero1_status status = (rank == 1 ? made->one : made->all)(optimizer);
  if (!status) status = misuse_wait(optimizer);
  if (ends_with_timeout(comm, made)) {
    CHECK(status == ZERO1_ERR_TIMEOUT || status == ZERO1_ERR_MISMATCH);
  } else {
    CHECK_STATUS(status, ZERO1_ERR_MISMATCH);
    CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 0 called ");
    CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 1 called ");
  }
  CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_ERR_SPENT);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_ERR_SPENT);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer),
             status == ZERO1_ERR_TIMEOUT ? "did not come" : "rank 1 called ");
  zero1_optimizer_destroy(&optimizer);
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK); /* the communicator is as before */
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void different_calls_are_told_apart(void) {
  const step_fn functions[] = {zero1_optimizer_step, zero1_optimizer_reduce_grads,
                               zero1_optimizer_drop_grads};
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (int all = 0; all < 3; ++all)
      for (int one = 0; one < 3; ++one)
        for (int guard = 0; guard < 2; ++guard) {
          zero1_comm_options options;
          calls made = {functions[all], functions[one], guard};
          if (all == one) continue;
          misuse_options(path, 600, &options);
          check_threads(misuse_world(path), &options, rank_calls_something_else, &made);
        }
}

static void rank_changes_its_parameters(int32_t rank, zero1_comm *comm, void *unused) {
  (void)unused;
  zero1_optimizer *optimizer;
  zero1_config config;
  zero1_param_spec specs[MISUSE_PARAMS];
  int32_t diverged = 77;
  void *param;
  misuse_config(&config);
  misuse_specs(specs);
  config.share_params = 0;
  CHECK_STATUS(
      zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, &optimizer),
      ZERO1_OK);
  misuse_check_works(optimizer);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, &diverged), ZERO1_OK);
  CHECK_EQ(diverged, -1);
  CHECK_STATUS(zero1_optimizer_param(optimizer, 2, &param), ZERO1_OK);
  if (rank == 1) misuse_set_first((float *)param + 699, device_thread_stream());
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, &diverged), ZERO1_ERR_DIVERGED);
  CHECK_EQ(diverged, 1);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 1");
  misuse_check_works(optimizer); /* sync_params heals it */
  zero1_optimizer_destroy(&optimizer);
}

static void check_replicas_names_the_rank_that_diverged(void) {
  on_every_path(rank_changes_its_parameters, 600);
}

/* ---- a wider circle ---- */

/* Ranks 0 1 and 2 3 are two communicators, and 0 1 2 3 is the one over which they agree. */
typedef struct circle {
  zero1_comm *narrow[4];
} circle;

static void rank_of_a_circle(int32_t rank, zero1_comm *wide, void *arg) {
  zero1_comm *comm = ((circle *)arg)->narrow[rank];
  zero1_optimizer *optimizer;
  arguments mine;
  fill(&mine);
  mine.config.agree_comm = wide;
  if (rank == 1) mine.config.bucket_numel = -7;
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_ERR_INVALID);
  CHECK_TEXT(zero1_comm_last_error(comm), "config.bucket_numel is -7");
  mine.config.bucket_numel = 1024;
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK); /* corrected */
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
  /* A rank of the other pair has another lr: all skip. */
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  if (rank == 3) CHECK_STATUS(zero1_optimizer_set_lr(optimizer, 0, 0.5), ZERO1_OK);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_ERR_MISMATCH);
  zero1_optimizer_destroy(&optimizer);
  /* One that does not come to the circle breaks it, at once. */
  if (rank == 2) mine.config.agree_comm = NULL;
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_ERR_MISMATCH);
  CHECK_TEXT(zero1_comm_last_error(comm), "config.agree_comm");
  mine.config.agree_comm = NULL;
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
  if (rank != 2) CHECK_STATUS(zero1_comm_barrier(wide), ZERO1_ERR_MISMATCH);
  zero1_comm_destroy(&comm);
}

static void ranks_that_agree_in_a_wider_circle_fail_together(void) {
  for (int32_t ranks_per_node = 0; ranks_per_node < 2; ++ranks_per_node) {
    circle all;
    zero1_comm_options options;
    misuse_options(ranks_per_node, 60, &options);
    for (int pair = 0; pair < 2; ++pair)
      CHECK_STATUS(zero1_comm_create_threads(2, &options, all.narrow + 2 * pair), ZERO1_OK);
    check_threads(4, &options, rank_of_a_circle, &all);
  }
}

int main(void) {
  device_skip_without();
  RUN(create_names_the_first_difference_on_every_rank);
  RUN(different_hyper_parameters_skip_the_step_on_every_rank);
  RUN(sync_params_has_one_root);
  RUN(different_calls_are_told_apart);
  RUN(check_replicas_names_the_rank_that_diverged);
  RUN(ranks_that_agree_in_a_wider_circle_fail_together);
  return check_summary();
}
