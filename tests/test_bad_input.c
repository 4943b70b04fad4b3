// ranks: threads
// sanitizers: address undefined thread
/* What a caller can get wrong in one process: each call returns its own status, with a text that
 * names the parameter, the field or the number, and the handle works on. */
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "misuse.h"

/* ---- NULL everywhere ---- */

static void every_function_takes_null_for_a_handle(void) {
  int64_t number = 0;
  int32_t rank = 0;
  float value = 0;
  void *pointer = NULL;
  zero1_group group;
  zero1_info info;
  zero1_memory memory;
  zero1_owned owned;
  zero1_optimizer *none = NULL;
  zero1_comm *no_comm = NULL;
  const zero1_status invalid = ZERO1_ERR_INVALID;
  CHECK_STATUS(zero1_optimizer_find(NULL, "w", &number), invalid);
  CHECK_STATUS(zero1_optimizer_param(NULL, 0, &pointer), invalid);
  CHECK_STATUS(zero1_optimizer_grad(NULL, 0, &pointer), invalid);
  CHECK_STATUS(zero1_optimizer_sync_params(NULL, 0), invalid);
  CHECK_STATUS(zero1_optimizer_params_changed(NULL), invalid);
  CHECK_STATUS(zero1_optimizer_wait_param(NULL, 0, device_thread_stream()), invalid);
  CHECK_STATUS(zero1_optimizer_wait_params(NULL, device_thread_stream()), invalid);
  CHECK_STATUS(zero1_optimizer_wait_grad(NULL, 0, device_thread_stream()), invalid);
  CHECK_STATUS(zero1_optimizer_set_grad(NULL, 0, &info, device_thread_stream()), invalid);
  CHECK_STATUS(zero1_optimizer_zero_grad(NULL, device_thread_stream()), invalid);
  CHECK_STATUS(zero1_optimizer_grad_ready(NULL, 0, device_thread_stream()), invalid);
  CHECK_STATUS(zero1_optimizer_grad_absent(NULL, 0, device_thread_stream()), invalid);
  CHECK_STATUS(zero1_optimizer_reduce_grads(NULL), invalid);
  CHECK_STATUS(zero1_optimizer_step(NULL), invalid);
  CHECK_STATUS(zero1_optimizer_drop_grads(NULL), invalid);
  CHECK_STATUS(zero1_optimizer_info(NULL, &info, sizeof info), invalid);
  CHECK_STATUS(zero1_optimizer_set_lr(NULL, 0, 1), invalid);
  CHECK_STATUS(zero1_optimizer_set_group(NULL, 0, &group, sizeof group), invalid);
  CHECK_STATUS(zero1_optimizer_get_group(NULL, 0, &group, sizeof group), invalid);
  CHECK_STATUS(zero1_optimizer_set_grad_scale(NULL, 1), invalid);
  CHECK_STATUS(zero1_optimizer_set_grad_scale(NULL, 0), invalid);
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(NULL, 1), invalid);
  CHECK_STATUS(zero1_optimizer_set_skip_grad_norm(NULL, 1), invalid);
  CHECK_STATUS(zero1_optimizer_owned_count(NULL, &number), invalid);
  CHECK_STATUS(zero1_optimizer_owned(NULL, 0, 1, &owned, sizeof owned), invalid);
  CHECK_STATUS(zero1_optimizer_set_state(NULL, 0, ZERO1_STATE_EXP_AVG, &value), invalid);
  CHECK_STATUS(zero1_optimizer_get_state(NULL, 0, ZERO1_STATE_EXP_AVG, &value), invalid);
  CHECK_STATUS(zero1_optimizer_set_count(NULL, 0), invalid);
  CHECK_STATUS(zero1_optimizer_memory(NULL, &memory, sizeof memory), invalid);
  CHECK_STATUS(zero1_optimizer_check_replicas(NULL, &rank), invalid);
  CHECK_STATUS(zero1_optimizer_create(NULL, NULL, NULL, 0, 0, &none), invalid);
  CHECK_STATUS(zero1_optimizer_create(NULL, NULL, NULL, 0, 0, NULL), invalid);
  zero1_optimizer_abort(NULL, NULL);
  zero1_optimizer_destroy(NULL);
  zero1_optimizer_destroy(&none);
  CHECK_EQ(zero1_optimizer_param_count(NULL), 0);
  CHECK(zero1_optimizer_last_error(NULL));
  CHECK_EQ(zero1_comm_rank(NULL), -1);
  CHECK_EQ(zero1_comm_world_size(NULL), 0);
  CHECK_EQ(zero1_comm_ranks_per_node(NULL), 0);
  CHECK(zero1_comm_backend(NULL)[0] == 0);
  CHECK(zero1_comm_last_error(NULL));
  CHECK_STATUS(zero1_comm_barrier(NULL), invalid);
  zero1_comm_destroy(NULL);
  zero1_comm_destroy(&no_comm);
  CHECK_STATUS(zero1_comm_create_self(NULL, NULL), invalid);
  CHECK_STATUS(zero1_comm_create_threads(1, NULL, NULL), invalid);
  CHECK_STATUS(zero1_comm_create_node(0, 1, NULL, NULL, NULL, NULL), invalid);
  CHECK_STATUS(zero1_comm_options_init(NULL, sizeof(zero1_comm_options)), invalid);
  CHECK_STATUS(zero1_config_init(NULL, sizeof(zero1_config)), invalid);
  CHECK_STATUS(zero1_group_init(NULL, sizeof(zero1_group)), invalid);
  CHECK_TEXT(zero1_status_string(ZERO1_ERR_SPENT), "unusable");
  CHECK_TEXT(zero1_status_string(12345), "unknown");
}

/* ---- communicators ---- */

static void communicators_check_their_options(void) {
  char text[100] = "";
  zero1_comm_options options;
  zero1_comm *comm, *comms[3];
  CHECK_STATUS(zero1_comm_options_init(&options, 0), ZERO1_ERR_VERSION);
  CHECK_STATUS(zero1_comm_options_init(&options, 4), ZERO1_ERR_VERSION);
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options + 8), ZERO1_ERR_VERSION);
  const struct {
    int32_t ranks_per_node;
    int64_t workspace_bytes;
    double timeout_seconds;
    size_t size;
    zero1_status status;
    const char *text;
  } cases[] = {
      {-3, 0, 600, sizeof options, ZERO1_ERR_INVALID, "ranks_per_node is -3"},
      {0, -9, 600, sizeof options, ZERO1_ERR_INVALID, "workspace_bytes is -9"},
      {0, 0, 0, sizeof options, ZERO1_ERR_INVALID, "timeout_seconds is 0"},
      {0, 0, -1, sizeof options, ZERO1_ERR_INVALID, "timeout_seconds is -1"},
      {0, 0, (double)NAN, sizeof options, ZERO1_ERR_INVALID, "timeout_seconds is "},
      {0, 0, (double)INFINITY, sizeof options, ZERO1_ERR_INVALID, "timeout_seconds is inf"},
      {0, 0, 600, 0, ZERO1_ERR_VERSION, NULL},
      {0, 0, 600, 4, ZERO1_ERR_VERSION, NULL},
      {0, 0, 600, sizeof options + 8, ZERO1_ERR_VERSION, NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
    CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
    options.error_text = text;
    options.error_bytes = sizeof text;
    options.ranks_per_node = cases[i].ranks_per_node;
    options.workspace_bytes = cases[i].workspace_bytes;
    options.timeout_seconds = cases[i].timeout_seconds;
    options.size = cases[i].size;
    memset(text, 'x', sizeof text);
    comm = (zero1_comm *)(void *)&comm;
    CHECK_STATUS(zero1_comm_create_self(&options, &comm), cases[i].status);
    CHECK(!comm);
    if (cases[i].text) CHECK_TEXT(text, cases[i].text);
    memset(comms, 7, sizeof comms);
    CHECK_STATUS(zero1_comm_create_threads(3, &options, comms), cases[i].status);
    CHECK(!comms[0] && !comms[1] && !comms[2]);
  }
}

static void a_short_text_is_cut_and_terminated(void) {
  char text[8] = "";
  zero1_comm_options options;
  zero1_comm *comm;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.error_text = text;
  options.error_bytes = sizeof text;
  options.ranks_per_node = -3;
  CHECK_STATUS(zero1_comm_create_self(&options, &comm), ZERO1_ERR_INVALID);
  CHECK_EQ(strlen(text), 7);
  options.ranks_per_node = 0;
  CHECK_STATUS(zero1_comm_create_self(&options, &comm), ZERO1_OK);
  CHECK_EQ(strlen(text), 0); /* nothing went wrong */
  zero1_comm_destroy(&comm);
  CHECK(!comm);
}

static void threads_need_a_rank(void) {
  zero1_comm *comms[1] = {NULL};
  CHECK_STATUS(zero1_comm_create_threads(0, NULL, comms), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_threads(-1, NULL, comms), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_threads(INT32_MIN, NULL, comms), ZERO1_ERR_INVALID);
}

/* An all-gather of one rank, which can fail, or not do what it should. */
typedef struct gatherer {
  int calls, fail_at, forget_at, lie_at;
} gatherer;

static int32_t gather(void *context, const void *in, void *out, size_t bytes) {
  gatherer *self = context;
  ++self->calls;
  if (self->calls == self->fail_at) return 42;
  if (self->calls == self->forget_at) return 0;
  memcpy(out, in, bytes);
  if (self->calls == self->lie_at && bytes) ((unsigned char *)out)[bytes - 1] ^= 1;
  return 0;
}

static zero1_status create_node(int32_t rank, int32_t world_size, gatherer *self, char *text,
                                size_t text_bytes) {
  zero1_comm_options options;
  zero1_comm *comm = (zero1_comm *)(void *)self;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.error_text = text;
  options.error_bytes = text_bytes;
  const zero1_status status =
      zero1_comm_create_node(rank, world_size, self ? gather : NULL, self, &options, &comm);
  CHECK(!comm == (status != ZERO1_OK));
  zero1_comm_destroy(&comm);
  return status;
}

static void the_node_checks_its_ranks_and_its_all_gather(void) {
  char text[200];
  gatherer good = {0};
  CHECK_STATUS(create_node(0, 0, &good, text, sizeof text), ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "world_size is 0");
  CHECK_STATUS(create_node(0, -2, &good, text, sizeof text), ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "world_size is -2");
  CHECK_STATUS(create_node(1, 1, &good, text, sizeof text), ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "rank is 1, not in [0, 1)");
  CHECK_STATUS(create_node(-1, 1, &good, text, sizeof text), ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "rank is -1");
  CHECK_STATUS(create_node(0, 1, NULL, text, sizeof text), ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "allgather is NULL");
  good.calls = 0;
  CHECK_STATUS(create_node(0, 1, &good, text, sizeof text), ZERO1_OK);
  CHECK(good.calls > 3);
  for (int at = 1; at <= good.calls; ++at) {
    gatherer fails = {.fail_at = at}, lies = {.lie_at = at};
    CHECK_STATUS(create_node(0, 1, &fails, text, sizeof text), ZERO1_ERR_COMM);
    CHECK_TEXT(text, "returned 42");
    CHECK_STATUS(create_node(0, 1, &lies, text, sizeof text), ZERO1_ERR_COMM);
    CHECK_TEXT(text, "rank 0");
  }
}

/* ---- create ---- */

typedef struct arguments {
  zero1_config config;
  zero1_group groups[2];
  zero1_param_spec specs[MISUSE_PARAMS];
  size_t spec_bytes;
  int64_t count;
  const zero1_config *given_config;
  const zero1_param_spec *given_specs;
} arguments;

typedef struct mistake {
  void (*make)(arguments *arguments);
  zero1_status status;
  const char *text;
} mistake;

static const int64_t negative[] = {4, -5}, overflowing[] = {(int64_t)1 << 40, (int64_t)1 << 40};
static const int64_t huge[] = {(int64_t)1 << 59}, absurd[] = {(int64_t)1 << 38};

#define MISTAKE(name, statement)          \
  static void make_##name(arguments *a) { \
    statement;                            \
  }
MISTAKE(null_config, a->given_config = NULL)
MISTAKE(config_size_0, a->config.size = 0)
MISTAKE(config_size_7, a->config.size = 7)
MISTAKE(config_size_larger, a->config.size += 8)
MISTAKE(config_version, a->config.version = 20000)
MISTAKE(config_version_0, a->config.version = 0)
MISTAKE(param_dtype, a->config.param_dtype = 99)
MISTAKE(grad_dtype, a->config.grad_dtype = -1)
MISTAKE(grad_wire, a->config.grad_wire_dtype = 4)
MISTAKE(param_wire, a->config.param_wire_dtype = ZERO1_WIRE_INT8)
MISTAKE(share_params, a->config.share_params = 2)
MISTAKE(overlap, a->config.overlap = -1)
MISTAKE(guard, a->config.guard = 5)
MISTAKE(bucket_negative, a->config.bucket_numel = -4)
MISTAKE(reduce_group, a->config.reduce_group = 7)
MISTAKE(reduce_group_negative, a->config.reduce_group = -1)
MISTAKE(threads_negative, a->config.threads = -1)
MISTAKE(threads_huge, a->config.threads = 1000000)
MISTAKE(grad_scale, a->config.grad_scale = (double)NAN)
MISTAKE(grad_scale_negative, a->config.grad_scale = -2)
MISTAKE(max_grad_norm, a->config.max_grad_norm = (double)INFINITY)
MISTAKE(skip_grad_norm, a->config.skip_grad_norm = -1)
MISTAKE(timeout, a->config.timeout_seconds = -1)
MISTAKE(timeout_nan, a->config.timeout_seconds = (double)NAN)
MISTAKE(stream, a->config.stream = &a->count)
MISTAKE(groups_null, a->config.groups = NULL)
MISTAKE(group_count_0, a->config.group_count = 0)
MISTAKE(group_count_negative, a->config.group_count = -1)
MISTAKE(group_bytes, a->config.group_bytes = 16)
MISTAKE(group_bytes_0, a->config.group_bytes = 0)
MISTAKE(group_size, a->groups[1].size = 0)
MISTAKE(group_size_5, a->groups[1].size = 5)
MISTAKE(group_size_larger, a->groups[1].size = 4000)
MISTAKE(lr_nan, a->groups[1].lr = (double)NAN)
MISTAKE(lr_inf, a->groups[1].lr = (double)INFINITY)
MISTAKE(lr_negative, a->groups[1].lr = -0.5)
MISTAKE(beta1_one, a->groups[0].beta1 = 1)
MISTAKE(beta1_negative, a->groups[0].beta1 = -0.1)
MISTAKE(beta2_nan, a->groups[1].beta2 = (double)NAN)
MISTAKE(beta2_large, a->groups[1].beta2 = 1.5)
MISTAKE(eps, a->groups[1].eps = -1e-8)
MISTAKE(eps_nan, a->groups[1].eps = (double)NAN)
MISTAKE(weight_decay, a->groups[1].weight_decay = (double)INFINITY)
MISTAKE(decoupled, a->groups[1].decoupled_weight_decay = 3)
MISTAKE(null_specs, a->given_specs = NULL)
MISTAKE(count_negative, a->count = -1)
MISTAKE(count_huge, a->count = INT64_MAX)
MISTAKE(spec_bytes, a->spec_bytes = 8)
MISTAKE(null_name, a->specs[1].name = NULL)
MISTAKE(empty_name, a->specs[1].name = "")
MISTAKE(same_name, a->specs[2].name = "w")
MISTAKE(negative_size, a->specs[2].shape = negative; a->specs[2].ndim = 2)
MISTAKE(overflowing_size, a->specs[2].shape = overflowing; a->specs[2].ndim = 2)
MISTAKE(
    overflowing_sum, for (int i = 0; i < 3; ++i) {
      a->specs[i].shape = huge;
      a->specs[i].ndim = 1;
    })
MISTAKE(negative_ndim, a->specs[2].ndim = -1)
MISTAKE(null_shape, a->specs[2].shape = NULL)
MISTAKE(group_range, a->specs[2].group = 2)
MISTAKE(group_negative, a->specs[2].group = -1)
MISTAKE(flags, a->specs[2].flags = 1u << 31)
MISTAKE(absurd_size, a->specs[2].shape = absurd)
MISTAKE(absurd_frozen, a->specs[2].shape = absurd; a->specs[2].flags = ZERO1_PARAM_FROZEN)
MISTAKE(huge_size, a->specs[2].shape = huge)

static const mistake mistakes[] = {
    {make_null_config, ZERO1_ERR_INVALID, "config is NULL"},
    {make_config_size_0, ZERO1_ERR_VERSION, "zero1_config has size 0"},
    {make_config_size_7, ZERO1_ERR_VERSION, "zero1_config has size 7"},
    {make_config_size_larger, ZERO1_ERR_VERSION, "zero1_config has size"},
    {make_config_version, ZERO1_ERR_VERSION, "config.version is 20000"},
    {make_config_version_0, ZERO1_ERR_VERSION, "config.version is 0"},
    {make_param_dtype, ZERO1_ERR_INVALID, "config.param_dtype is 99"},
    {make_grad_dtype, ZERO1_ERR_INVALID, "config.grad_dtype is -1"},
    {make_grad_wire, ZERO1_ERR_INVALID, "config.grad_wire_dtype is 4"},
    {make_param_wire, ZERO1_ERR_INVALID, "config.param_wire_dtype is 3"},
    {make_share_params, ZERO1_ERR_INVALID, "config.share_params is 2"},
    {make_overlap, ZERO1_ERR_INVALID, "config.overlap is -1"},
    {make_guard, ZERO1_ERR_INVALID, "config.guard is 5"},
    {make_bucket_negative, ZERO1_ERR_INVALID, "config.bucket_numel is -4"},
    {make_reduce_group, ZERO1_ERR_INVALID, "config.reduce_group is 7"},
    {make_reduce_group_negative, ZERO1_ERR_INVALID, "config.reduce_group is -1"},
    {make_threads_negative, ZERO1_ERR_INVALID, "config.threads is -1"},
    {make_threads_huge, ZERO1_ERR_INVALID, "config.threads is 1000000"},
    {make_grad_scale, ZERO1_ERR_INVALID, "config.grad_scale is "},
    {make_grad_scale_negative, ZERO1_ERR_INVALID, "config.grad_scale is -2"},
    {make_max_grad_norm, ZERO1_ERR_INVALID, "config.max_grad_norm is inf"},
    {make_skip_grad_norm, ZERO1_ERR_INVALID, "config.skip_grad_norm is -1"},
    {make_timeout, ZERO1_ERR_INVALID, "config.timeout_seconds is -1"},
    {make_timeout_nan, ZERO1_ERR_INVALID, "config.timeout_seconds is "},
    {make_stream, ZERO1_ERR_INVALID, "config.stream"},
    {make_groups_null, ZERO1_ERR_INVALID, "config.group_count is 2 with groups NULL"},
    {make_group_count_0, ZERO1_ERR_INVALID, "config.group_count is 0"},
    {make_group_count_negative, ZERO1_ERR_INVALID, "config.group_count is -1"},
    {make_group_bytes, ZERO1_ERR_VERSION, "config.group_bytes is 16"},
    {make_group_bytes_0, ZERO1_ERR_VERSION, "config.group_bytes is 0"},
    {make_group_size, ZERO1_ERR_VERSION, "zero1_group has size 0"},
    {make_group_size_5, ZERO1_ERR_VERSION, "zero1_group has size 5"},
    {make_group_size_larger, ZERO1_ERR_VERSION, "4000"},
    {make_lr_nan, ZERO1_ERR_INVALID, "lr of group 1"},
    {make_lr_inf, ZERO1_ERR_INVALID, "lr of group 1 is inf"},
    {make_lr_negative, ZERO1_ERR_INVALID, "lr of group 1 is -0.5"},
    {make_beta1_one, ZERO1_ERR_INVALID, "beta1 of group 0 is 1"},
    {make_beta1_negative, ZERO1_ERR_INVALID, "beta1 of group 0 is -0.1"},
    {make_beta2_nan, ZERO1_ERR_INVALID, "beta2 of group 1"},
    {make_beta2_large, ZERO1_ERR_INVALID, "beta2 of group 1 is 1.5"},
    {make_eps, ZERO1_ERR_INVALID, "eps of group 1 is -1e-08"},
    {make_eps_nan, ZERO1_ERR_INVALID, "eps of group 1"},
    {make_weight_decay, ZERO1_ERR_INVALID, "weight_decay of group 1 is inf"},
    {make_decoupled, ZERO1_ERR_INVALID, "decoupled_weight_decay"},
    {make_null_specs, ZERO1_ERR_INVALID, "param_count is 3 with specs NULL"},
    {make_count_negative, ZERO1_ERR_INVALID, "param_count is -1"},
    {make_count_huge, ZERO1_ERR_INVALID, "param_count is 9223372036854775807"},
    {make_spec_bytes, ZERO1_ERR_VERSION, "spec_bytes is 8"},
    {make_null_name, ZERO1_ERR_INVALID, "parameter 1 has no name"},
    {make_empty_name, ZERO1_ERR_INVALID, "parameter 1 has no name"},
    {make_same_name, ZERO1_ERR_INVALID, "parameters 0 and 2 are both named 'w'"},
    {make_negative_size, ZERO1_ERR_INVALID, "parameter 2 'out' has size -5 in dimension 1"},
    {make_overflowing_size, ZERO1_ERR_INVALID, "the size of parameter 2 'out' overflows"},
    {make_overflowing_sum, ZERO1_ERR_INVALID, "elements together"},
    {make_negative_ndim, ZERO1_ERR_INVALID, "parameter 2 'out' has ndim -1"},
    {make_null_shape, ZERO1_ERR_INVALID, "parameter 2 'out' has ndim 1 and no shape"},
    {make_group_range, ZERO1_ERR_INVALID, "parameter 2 'out' is in group 2, and there are 2"},
    {make_group_negative, ZERO1_ERR_INVALID, "parameter 2 'out' is in group -1"},
    {make_flags, ZERO1_ERR_INVALID, "parameter 2 'out' has unknown flags 0x80000000"},
    {make_absurd_size, ZERO1_ERR_MEMORY, "bytes are needed"},
    {make_absurd_frozen, ZERO1_ERR_MEMORY, "bytes are needed"},
    {make_huge_size, ZERO1_ERR_MEMORY, "bytes are needed"},
};
enum { MISTAKES = sizeof mistakes / sizeof *mistakes };

static void fill(arguments *a) {
  misuse_config(&a->config);
  misuse_specs(a->specs);
  for (int i = 0; i < 2; ++i)
    CHECK_STATUS(zero1_group_init(&a->groups[i], sizeof a->groups[i]), ZERO1_OK);
  a->config.groups = a->groups;
  a->config.group_count = 2;
  a->spec_bytes = sizeof *a->specs;
  a->count = MISUSE_PARAMS;
  a->given_config = &a->config;
  a->given_specs = a->specs;
}

static zero1_status create(zero1_comm *comm, const arguments *a, zero1_optimizer **optimizer) {
  return zero1_optimizer_create(comm, a->given_config, a->given_specs, a->spec_bytes, a->count,
                                optimizer);
}

/* arg: the rank at fault, or -1: all of them. */
static void rank_makes_mistakes(int32_t rank, zero1_comm *comm, void *arg) {
  const int32_t culprit = *(const int32_t *)arg;
  zero1_optimizer *optimizer;
  arguments mine;
  for (int i = 0; i < MISTAKES; ++i) {
    optimizer = (zero1_optimizer *)(void *)comm;
    fill(&mine);
    if (culprit < 0 || rank == culprit) mistakes[i].make(&mine);
    const double begin = misuse_seconds();
    /* One size on one rank alone is a disagreement first. */
    const int sizes = culprit >= 0 && (mistakes[i].status == ZERO1_ERR_MEMORY ||
                                       mistakes[i].make == make_overflowing_sum);
    CHECK_STATUS(create(comm, &mine, &optimizer), sizes ? ZERO1_ERR_MISMATCH : mistakes[i].status);
    CHECK(!optimizer);
    CHECK(misuse_seconds() - begin < 10);
    if (sizes) continue;
    CHECK_TEXT(zero1_comm_last_error(comm), mistakes[i].text);
    const int own = culprit < 0 ? rank == 0 : rank == culprit;
    CHECK((strncmp(zero1_comm_last_error(comm), "rank ", 5) != 0) == own);
    if (!own) {
      char peer[20];
      snprintf(peer, sizeof peer, "rank %d: ", culprit < 0 ? 0 : culprit);
      CHECK_TEXT(zero1_comm_last_error(comm), peer);
    }
  }
  fill(&mine);
  optimizer = NULL;
  const int no_place = culprit < 0 || rank == culprit;
  CHECK_STATUS(zero1_optimizer_create(comm, &mine.config, mine.specs, sizeof *mine.specs,
                                      MISUSE_PARAMS, no_place ? NULL : &optimizer),
               ZERO1_ERR_INVALID);
  CHECK_TEXT(zero1_comm_last_error(comm), "optimizer is NULL");
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK);
  CHECK_EQ(zero1_comm_last_error(comm)[0], 0);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
  CHECK(!optimizer);
}

static void one_rank_alone_makes_every_mistake(void) {
  int32_t all = -1;
  check_threads(1, NULL, rank_makes_mistakes, &all);
  zero1_comm *comm;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  rank_makes_mistakes(0, comm, &all);
  zero1_comm_destroy(&comm);
}

static void a_mistake_of_one_rank_or_all_is_told_to_every_rank(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    misuse_options(path, 600, &options);
    for (int32_t culprit = -1; culprit < misuse_world(path); ++culprit)
      check_threads(misuse_world(path), &options, rank_makes_mistakes, &culprit);
  }
}

/* An older caller's config lacks the last fields, which get their defaults. */
static void an_older_config_is_taken(void) {
  zero1_comm *comm;
  zero1_optimizer *optimizer;
  arguments mine;
  fill(&mine);
  mine.config.stream = &mine; /* not looked at */
  mine.config.size = offsetof(zero1_config, agree_comm);
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
  zero1_comm_destroy(&comm);
}

static void an_unknown_instruction_set_is_named(void) {
  zero1_comm *comm;
  zero1_optimizer *optimizer;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  CHECK(setenv("ZERO1_ISA", "abacus", 1) == 0);
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_ERR_INVALID);
  CHECK_TEXT(zero1_comm_last_error(comm), "ZERO1_ISA is \"abacus\"");
  CHECK(setenv("ZERO1_ISA", "baseline", 1) == 0);
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
  CHECK(unsetenv("ZERO1_ISA") == 0);
  zero1_comm_destroy(&comm);
}

/* ---- calls on a working optimizer ---- */

static void rank_misuses_queries(int32_t rank, zero1_comm *comm, void *arg) {
  (void)rank;
  (void)arg;
  zero1_optimizer *optimizer;
  int64_t index = 5, count = 0;
  void *pointer = &index;
  zero1_group group;
  zero1_info info;
  zero1_memory memory;
  zero1_owned owned[16];
  const zero1_status invalid = ZERO1_ERR_INVALID, version = ZERO1_ERR_VERSION;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
#define CHECK_SAYS(call, status, part)                       \
  do {                                                       \
    CHECK_STATUS(call, status);                              \
    CHECK_TEXT(zero1_optimizer_last_error(optimizer), part); \
  } while (0)
  CHECK_SAYS(zero1_optimizer_find(optimizer, "nobody", &index), invalid, "'nobody'");
  CHECK_EQ(index, -1);
  CHECK_SAYS(zero1_optimizer_find(optimizer, NULL, &index), invalid, "name is NULL");
  CHECK_SAYS(zero1_optimizer_find(optimizer, "w", NULL), invalid, "index is NULL");
  CHECK_STATUS(zero1_optimizer_find(optimizer, "out", &index), ZERO1_OK);
  CHECK_EQ(index, 2);
  CHECK_EQ(zero1_optimizer_last_error(optimizer)[0], 0);
  CHECK_SAYS(zero1_optimizer_param(optimizer, 3, &pointer), invalid, "no parameter 3 of 3");
  CHECK(!pointer);
  CHECK_SAYS(zero1_optimizer_param(optimizer, -1, &pointer), invalid, "no parameter -1");
  CHECK_SAYS(zero1_optimizer_param(optimizer, 0, NULL), invalid, "NULL");
  CHECK_SAYS(zero1_optimizer_grad(optimizer, 3, &pointer), invalid, "no parameter 3");
  CHECK_SAYS(zero1_optimizer_grad(optimizer, 0, NULL), invalid, "NULL");
  CHECK_SAYS(zero1_optimizer_wait_param(optimizer, 3, device_thread_stream()), invalid,
             "no parameter 3");
  CHECK_SAYS(zero1_optimizer_wait_grad(optimizer, -9, device_thread_stream()), invalid,
             "no parameter -9");
  CHECK_SAYS(zero1_optimizer_wait_param(optimizer, 0, &index), invalid, "stream");
  CHECK_SAYS(zero1_optimizer_wait_grad(optimizer, 0, &index), invalid, "stream");
  CHECK_SAYS(zero1_optimizer_set_grad(optimizer, 3, &index, device_thread_stream()), invalid,
             "no parameter 3");
  CHECK_SAYS(zero1_optimizer_set_grad(optimizer, 0, &index, &index), invalid, "stream");
  CHECK_SAYS(zero1_optimizer_set_grad(optimizer, 2, NULL, device_thread_stream()), invalid,
             "'out' is NULL");
  CHECK_SAYS(zero1_optimizer_wait_params(optimizer, &index), invalid, "stream");
  CHECK_SAYS(zero1_optimizer_zero_grad(optimizer, &index), invalid, "stream");
  CHECK_SAYS(zero1_optimizer_grad_ready(optimizer, 0, &index), invalid, "stream");
  CHECK_SAYS(zero1_optimizer_grad_ready(optimizer, 3, device_thread_stream()), invalid,
             "no parameter 3");
  CHECK_SAYS(zero1_optimizer_grad_absent(optimizer, 3, device_thread_stream()), invalid,
             "no parameter 3");
  CHECK_SAYS(zero1_optimizer_set_lr(optimizer, 1, 0.1), invalid, "no group 1 of 1");
  CHECK_SAYS(zero1_optimizer_set_lr(optimizer, -1, 0.1), invalid, "no group -1");
  CHECK_SAYS(zero1_optimizer_set_lr(optimizer, 0, (double)NAN), invalid, "lr of group 0");
  CHECK_SAYS(zero1_optimizer_set_lr(optimizer, 0, -1), invalid, "lr of group 0 is -1");
  CHECK_STATUS(zero1_optimizer_get_group(optimizer, 0, &group, sizeof group), ZERO1_OK);
  CHECK(group.lr == 1e-3); /* as it was */
  CHECK_SAYS(zero1_optimizer_get_group(optimizer, 0, NULL, sizeof group), invalid, "NULL");
  CHECK_SAYS(zero1_optimizer_get_group(optimizer, 0, &group, 4), version, "group_bytes 4");
  CHECK_SAYS(zero1_optimizer_get_group(optimizer, 7, &group, sizeof group), invalid, "group 7");
  CHECK_SAYS(zero1_optimizer_set_group(optimizer, 0, NULL, sizeof group), invalid, "NULL");
  CHECK_SAYS(zero1_optimizer_set_group(optimizer, 0, &group, 0), version, "size 0");
  CHECK_SAYS(zero1_optimizer_set_group(optimizer, 0, &group, 999), version, "size 999");
  CHECK_SAYS(zero1_optimizer_set_group(optimizer, 1, &group, sizeof group), invalid, "group 1");
  group.beta2 = 1;
  CHECK_SAYS(zero1_optimizer_set_group(optimizer, 0, &group, sizeof group), invalid, "beta2");
  CHECK_STATUS(zero1_optimizer_get_group(optimizer, 0, &group, sizeof group), ZERO1_OK);
  CHECK(group.beta2 == 0.999);
  CHECK_SAYS(zero1_optimizer_set_grad_scale(optimizer, 0), invalid, "grad_scale is 0");
  CHECK_SAYS(zero1_optimizer_set_grad_scale(optimizer, -1), invalid, "grad_scale is -1");
  CHECK_SAYS(zero1_optimizer_set_grad_scale(optimizer, (double)NAN), invalid, "grad_scale");
  CHECK_SAYS(zero1_optimizer_set_max_grad_norm(optimizer, -1), invalid, "max_grad_norm is -1");
  CHECK_SAYS(zero1_optimizer_set_skip_grad_norm(optimizer, (double)INFINITY), invalid,
             "skip_grad_norm is inf");
  CHECK_SAYS(zero1_optimizer_owned_count(optimizer, NULL), invalid, "count is NULL");
  CHECK_STATUS(zero1_optimizer_owned_count(optimizer, &count), ZERO1_OK);
  CHECK(count <= 16);
  CHECK_SAYS(zero1_optimizer_owned(optimizer, 0, count + 1, owned, sizeof *owned), invalid,
             "into a buffer");
  CHECK_SAYS(zero1_optimizer_owned(optimizer, -1, 1, owned, sizeof *owned), invalid,
             "[-1, -1 + 1)");
  CHECK_SAYS(zero1_optimizer_owned(optimizer, 0, -1, owned, sizeof *owned), invalid, "-1)");
  CHECK_SAYS(zero1_optimizer_owned(optimizer, INT64_MAX, INT64_MAX, owned, sizeof *owned), invalid,
             "9223372036854775807");
  if (count)
    CHECK_SAYS(zero1_optimizer_owned(optimizer, 0, 1, NULL, sizeof *owned), invalid, "NULL");
  CHECK_SAYS(zero1_optimizer_owned(optimizer, 0, 0, owned, 3), version, "owned_bytes is 3");
  CHECK_STATUS(zero1_optimizer_owned(optimizer, 0, count, owned, sizeof *owned), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_owned(optimizer, count, 0, NULL, sizeof *owned), ZERO1_OK);
  CHECK_SAYS(zero1_optimizer_info(optimizer, NULL, sizeof info), invalid, "NULL");
  CHECK_SAYS(zero1_optimizer_info(optimizer, &info, 0), version, "info_bytes 0");
  CHECK_SAYS(zero1_optimizer_info(optimizer, &info, sizeof info + 1), version, "info_bytes");
  CHECK_SAYS(zero1_optimizer_memory(optimizer, NULL, sizeof memory), invalid, "NULL");
  CHECK_SAYS(zero1_optimizer_memory(optimizer, &memory, 1), invalid, "memory_bytes 1");
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void queries_and_setters_name_what_is_wrong(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    misuse_options(path, 600, &options);
    check_threads(misuse_world(path), &options, rank_misuses_queries, NULL);
  }
}

/* ---- gradients at the wrong time ---- */

static void rank_marks_wrongly(int32_t rank, zero1_comm *comm, void *arg) {
  (void)rank;
  (void)arg;
  zero1_optimizer *optimizer;
  zero1_config config;
  zero1_param_spec specs[MISUSE_PARAMS];
  zero1_info info;
  void *pointer = &info;
  misuse_config(&config);
  misuse_specs(specs);
  specs[1].flags = ZERO1_PARAM_FROZEN;
  CHECK_STATUS(
      zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, &optimizer),
      ZERO1_OK);
  misuse_check_works(optimizer);
  CHECK_STATUS(zero1_optimizer_grad(optimizer, 1, &pointer), ZERO1_OK);
  CHECK(!pointer);
  CHECK_STATUS(zero1_optimizer_zero_grad(optimizer, device_thread_stream()), ZERO1_OK);
  CHECK_SAYS(zero1_optimizer_grad_ready(optimizer, 1, device_thread_stream()), ZERO1_ERR_INVALID,
             "'b' is frozen");
  CHECK_SAYS(zero1_optimizer_grad_absent(optimizer, 1, device_thread_stream()), ZERO1_ERR_INVALID,
             "'b' is frozen");
  CHECK_SAYS(zero1_optimizer_set_grad(optimizer, 1, &info, device_thread_stream()),
             ZERO1_ERR_INVALID, "'b' is frozen");
  CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 2, device_thread_stream()), ZERO1_OK);
  CHECK_SAYS(zero1_optimizer_set_grad(optimizer, 2, &info, device_thread_stream()), ZERO1_ERR_STATE,
             "'out' is on its way");
  CHECK_SAYS(zero1_optimizer_grad_ready(optimizer, 2, device_thread_stream()), ZERO1_ERR_STATE,
             "parameter 2 'out' is ready already");
  CHECK_SAYS(zero1_optimizer_grad_absent(optimizer, 2, device_thread_stream()), ZERO1_ERR_STATE,
             "'out'");
  CHECK_SAYS(zero1_optimizer_zero_grad(optimizer, device_thread_stream()), ZERO1_ERR_STATE,
             "on their way");
  CHECK_SAYS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_ERR_STATE, "on their way");
  CHECK_SAYS(zero1_optimizer_params_changed(optimizer), ZERO1_ERR_STATE, "on their way");
  CHECK_SAYS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_ERR_STATE, "on their way");
  CHECK_STATUS(zero1_optimizer_grad_absent(optimizer, 0, device_thread_stream()), ZERO1_OK);
  CHECK_SAYS(zero1_optimizer_grad_ready(optimizer, 0, device_thread_stream()), ZERO1_ERR_STATE,
             "'w' is absent");
  CHECK_STATUS(zero1_optimizer_reduce_grads(optimizer), ZERO1_OK);
  CHECK_SAYS(zero1_optimizer_reduce_grads(optimizer), ZERO1_ERR_STATE, "reduced already");
  CHECK_SAYS(zero1_optimizer_grad_ready(optimizer, 0, device_thread_stream()), ZERO1_ERR_STATE,
             "reduced");
  CHECK_SAYS(zero1_optimizer_zero_grad(optimizer, device_thread_stream()), ZERO1_ERR_STATE,
             "on their way");
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.attempts, 1);
  CHECK_STATUS(zero1_optimizer_drop_grads(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.skip_reason, ZERO1_SKIP_DROPPED);
  CHECK_EQ(info.count, 1);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_OK);
  zero1_optimizer_destroy(&optimizer);
}

static void gradients_are_ready_once_and_in_time(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    misuse_options(path, 600, &options);
    check_threads(misuse_world(path), &options, rank_marks_wrongly, NULL);
  }
}

/* Rank 1's gradient of "b" never comes. */
static void rank_forgets_a_gradient(int32_t rank, zero1_comm *comm, void *arg) {
  zero1_status (*const finish)(zero1_optimizer *) = *(zero1_status(**)(zero1_optimizer *))arg;
  zero1_optimizer *optimizer;
  zero1_info info;
  void *param;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  CHECK_STATUS(zero1_optimizer_param(optimizer, 0, &param), ZERO1_OK);
  const float before = misuse_first(param);
  CHECK_STATUS(zero1_optimizer_zero_grad(optimizer, device_thread_stream()), ZERO1_OK);
  for (int64_t i = 2; i >= 0; --i)
    if (rank != 1 || i != 1)
      CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, i, device_thread_stream()), ZERO1_OK);
  zero1_status status = finish(optimizer);
  if (rank == 1) CHECK_STATUS(status, ZERO1_ERR_STATE); /* at once */
  if (!status) status = misuse_wait(optimizer);
  CHECK_STATUS(status, ZERO1_ERR_STATE);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "parameter 1 'b' is neither ready nor absent");
  if (rank != 1) CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 1: ");
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_ERR_STATE);
  CHECK_EQ(info.skip_reason, ZERO1_SKIP_ERROR);
  CHECK_EQ(info.count, 1);
  if (finish == zero1_optimizer_reduce_grads)
    CHECK_STATUS(zero1_optimizer_drop_grads(optimizer), ZERO1_OK);
  CHECK(misuse_first(param) == before);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_OK);
  CHECK(misuse_first(param) != before);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_OK);
  zero1_optimizer_destroy(&optimizer);
}

static void a_forgotten_gradient_is_named_and_skips_the_step(void) {
  zero1_status (*finish[])(zero1_optimizer *) = {zero1_optimizer_step,
                                                 zero1_optimizer_reduce_grads};
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (int i = 0; i < 2; ++i) {
      zero1_comm_options options;
      misuse_options(path, 600, &options);
      check_threads(misuse_world(path), &options, rank_forgets_a_gradient, &finish[i]);
    }
}

/* ---- legal, if odd ---- */

static void rank_takes_odd_sets(int32_t rank, zero1_comm *comm, void *arg) {
  (void)rank;
  (void)arg;
  static const int64_t empty[] = {4, 0};
  for (int set = 0; set < 4; ++set)
    for (int guard = 0; guard < 2; ++guard) {
      zero1_optimizer *optimizer;
      zero1_config config;
      zero1_param_spec specs[MISUSE_PARAMS];
      zero1_info info;
      int64_t owned = -1;
      misuse_config(&config);
      misuse_specs(specs);
      config.guard = guard;
      for (int i = 0; i < MISUSE_PARAMS; ++i) {
        if (set == 1) specs[i].flags = ZERO1_PARAM_FROZEN;
        if (set == 2) {
          specs[i].shape = empty;
          specs[i].ndim = 2;
        }
        if (set == 3) { /* scalars */
          specs[i].shape = NULL;
          specs[i].ndim = 0;
        }
      }
      CHECK_STATUS(zero1_optimizer_create(comm, &config, set ? specs : NULL, sizeof *specs,
                                          set ? MISUSE_PARAMS : 0, &optimizer),
                   ZERO1_OK);
      misuse_check_works(optimizer);
      if (set != 3) CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_OK); /* none is missing */
      CHECK_STATUS(zero1_optimizer_params_changed(optimizer), ZERO1_OK);
      CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
      CHECK_EQ(info.count, set == 3 ? 1 : 2);
      CHECK_EQ(info.skipped, 0);
      CHECK_STATUS(zero1_optimizer_owned_count(optimizer, &owned), ZERO1_OK);
      if (set != 3) CHECK_EQ(owned, 0);
      zero1_optimizer_destroy(&optimizer);
    }
}

static void no_parameters_frozen_ones_empty_ones_and_scalars_are_legal(void) {
  check_threads(1, NULL, rank_takes_odd_sets, NULL);
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    misuse_options(path, 600, &options);
    check_threads(misuse_world(path), &options, rank_takes_odd_sets, NULL);
  }
}

/* ---- too little memory ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SHADOWED = 1 }; /* a sanitizer reserves more than any limit */
#else
enum { SHADOWED = 0 };
#endif

/* Bytes of address space that this process has taken. */
static rlim_t address_space(void) {
  long pages = 0;
  FILE *const file = fopen("/proc/self/statm", "r");
  CHECK(file && fscanf(file, "%ld", &pages) == 1);
  fclose(file);
  return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* 1 GiB of parameters where the address space leaves 256 MiB. */
static void the_limit_of_the_address_space_is_named(void) {
  if (SHADOWED) return;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    static const int64_t shape[] = {(int64_t)256 << 20};
    zero1_comm *comm;
    zero1_optimizer *optimizer;
    arguments mine;
    CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
    const rlim_t most = address_space() + ((rlim_t)256 << 20);
    const struct rlimit limit = {most, most};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    fill(&mine);
    mine.specs[0].shape = shape;
    mine.specs[0].ndim = 1;
    CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_ERR_MEMORY);
    CHECK_TEXT(zero1_comm_last_error(comm), "ulimit -v");
    fill(&mine);
    CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK);
    misuse_check_works(optimizer);
    zero1_optimizer_destroy(&optimizer);
    zero1_comm_destroy(&comm);
    _exit(0);
  }
  int result;
  CHECK(waitpid(child, &result, 0) == child);
  CHECK(WIFEXITED(result) && WEXITSTATUS(result) == 0);
}

/* A process alone, but with the memory of a node: files, which ulimit -f would end it for. */
static void the_limit_of_file_sizes_is_named(void) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    char text[200] = "";
    gatherer good = {0};
    static const int64_t shape[] = {(int64_t)1 << 20};
    zero1_comm_options options;
    zero1_comm *comm;
    zero1_optimizer *optimizer;
    arguments mine;
    CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
    options.error_text = text;
    options.error_bytes = sizeof text;
    struct rlimit limit = {(rlim_t)1 << 20, (rlim_t)1 << 20};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_STATUS(zero1_comm_create_node(0, 1, gather, &good, &options, &comm), ZERO1_OK);
    fill(&mine);
    mine.specs[0].shape = shape;
    mine.specs[0].ndim = 1;
    CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_ERR_MEMORY);
    CHECK_TEXT(zero1_comm_last_error(comm), "ulimit -f");
    CHECK_TEXT(zero1_comm_last_error(comm), "1048576");
    fill(&mine);
    CHECK_STATUS(create(comm, &mine, &optimizer), ZERO1_OK);
    misuse_check_works(optimizer);
    zero1_optimizer_destroy(&optimizer);
    zero1_comm_destroy(&comm);
    limit.rlim_cur = 0;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_STATUS(zero1_comm_create_node(0, 1, gather, &good, &options, &comm), ZERO1_ERR_MEMORY);
    CHECK_TEXT(text, "ulimit -f");
    _exit(0);
  }
  int result;
  CHECK(waitpid(child, &result, 0) == child);
  CHECK(WIFEXITED(result) && WEXITSTATUS(result) == 0);
}

int main(void) {
  device_skip_without();
  RUN(every_function_takes_null_for_a_handle);
  RUN(communicators_check_their_options);
  RUN(a_short_text_is_cut_and_terminated);
  RUN(threads_need_a_rank);
  RUN(the_node_checks_its_ranks_and_its_all_gather);
  RUN(one_rank_alone_makes_every_mistake);
  RUN(a_mistake_of_one_rank_or_all_is_told_to_every_rank);
  RUN(an_older_config_is_taken);
  RUN(an_unknown_instruction_set_is_named);
  RUN(queries_and_setters_name_what_is_wrong);
  RUN(gradients_are_ready_once_and_in_time);
  RUN(a_forgotten_gradient_is_named_and_skips_the_step);
  RUN(no_parameters_frozen_ones_empty_ones_and_scalars_are_legal);
  RUN(the_limit_of_the_address_space_is_named);
  RUN(the_limit_of_file_sizes_is_named);
  return check_summary();
}
