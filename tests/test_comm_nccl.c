// devices: standin
// standin-delay: 100
// quarters: 1
// cost: 8
// sanitizers: address undefined thread

/* The NCCL comm: failures and what is told of them, ways in, several optimizers. Here over a
 * stand-in for NCCL that is none; test_nccl.c has the results, on GPUs, too. */
#include "device.h"

#if !defined(ZERO1_TESTS_CUDA) || !__has_include(<nccl.h>)
int main(void) {
  SKIP("a build without CUDA or NCCL");
}
#else
  #include <signal.h>
  #include <sys/mman.h>
  #include <sys/wait.h>
  #include <unistd.h>

  #include "nccl_world.h"

/* ---- failures in the middle of a step ---- */

typedef struct failure {
  zero1_status status;
  const char *words;
} failure;

/* Nobody is lost before all have made their optimizers. */
static void meet_in(zero1_comm *comm) {
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
}

/* Trains until it fails, which is long before the comm's timeout. */
static void train_to_failure(trainer *self, const failure *expected) {
  zero1_status status = ZERO1_OK;
  const int64_t begin_ms = now_ms();
  for (int32_t step = 0; !status && step < STEPS; ++step) {
    for (int32_t i = PARAMS - 1; i >= 0 && !status; --i) {
      if (trainer_is_frozen(self, i)) continue;
      status = zero1_optimizer_wait_grad(self->optimizer, i, trainer_stream(self, i));
      if (!status) status = zero1_optimizer_grad_ready(self->optimizer, i, trainer_stream(self, i));
    }
    zero1_info info;
    if (!status) status = zero1_optimizer_step(self->optimizer);
    if (!status) status = zero1_optimizer_info(self->optimizer, &info, sizeof info);
  }
  const char *text = zero1_optimizer_last_error(self->optimizer);
  if (!strstr(text, expected->words)) fprintf(stderr, "%s\n", text);
  CHECK_STATUS(status, expected->status);
  CHECK(strstr(text, expected->words));
  CHECK(now_ms() - begin_ms < 20000);
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), ZERO1_ERR_SPENT);
}

static void fail_in_a_step(zero1_comm *comm, void *arg) {
  trainer self;
  trainer_begin(&self, &base, comm);
  train_to_failure(&self, (const failure *)arg);
  trainer_end(&self);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK); /* the others are not touched by it */
}

static void an_error_of_nccl_is_everyones(void) {
  static const char *const where[] = {"reduce-scatter:17", "all-gather:16", "send:14"};
  static const failure expected = {ZERO1_ERR_COMM, "network error"};
  for (int i = 0; i < 3; ++i) {
    const zero1_comm_options options = options_of(i == 2);
    setenv("ZERO1_STANDIN_NCCL_FAIL", where[i], 1);
    run_ranks(2 + i % 2, &options, fail_in_a_step, (void *)(uintptr_t)&expected);
    unsetenv("ZERO1_STANDIN_NCCL_FAIL");
  }
}

static void give_up(zero1_comm *comm, void *arg) {
  static const failure told = {ZERO1_ERR_ABORTED, "is tired"};
  trainer self;
  (void)arg;
  trainer_begin(&self, &base, comm);
  meet_in(comm);
  if (self.rank == 1) {
    sleep_ms(50);
    zero1_optimizer_abort(self.optimizer, "is tired");
  } else {
    train_to_failure(&self, &told);
    CHECK(strstr(zero1_optimizer_last_error(self.optimizer), "rank"));
  }
  trainer_end(&self);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
}

static void a_rank_that_aborts_releases_its_peers(void) {
  for (int32_t ordered = 0; ordered < 2; ++ordered) {
    const zero1_comm_options options = options_of(ordered);
    run_ranks(3, &options, give_up, NULL);
  }
}

static void stay_away(zero1_comm *comm, void *arg) {
  static const failure late = {ZERO1_ERR_TIMEOUT, "within 3 s"};
  zero1_config config = trainer_config(&base);
  trainer self;
  (void)arg;
  config.timeout_seconds = 3;
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, 0), ZERO1_OK);
  meet_in(comm);
  if (self.rank == 1)
    sleep_ms(5000);
  else
    train_to_failure(&self, &late);
  trainer_end(&self);
}

static void a_rank_that_does_not_come_is_waited_for_until_the_timeout(void) {
  const zero1_comm_options options = options_of(0);
  run_ranks(2, &options, stay_away, NULL);
}

/* ---- halves that agree: what happens to one is told to the other ---- */

typedef struct halves {
  unsigned char ids[2][ZERO1_NCCL_ID_BYTES];
  void (*fn)(trainer *self, int32_t rank);
} halves;

static void train_half(world *in, int32_t rank) {
  const halves *const what = (const halves *)in->arg;
  zero1_config config = trainer_config(&base);
  zero1_comm *all, *half;
  trainer self;
  CHECK_STATUS(zero1_comm_create_nccl_id(rank, 4, in->id, ZERO1_NCCL_ID_BYTES, &in->options, &all),
               ZERO1_OK);
  CHECK_STATUS(zero1_comm_create_nccl_id(rank % 2, 2, what->ids[rank / 2], ZERO1_NCCL_ID_BYTES,
                                         &in->options, &half),
               ZERO1_OK);
  config.agree_comm = all;
  config.timeout_seconds = in->options.timeout_seconds;
  CHECK_STATUS(trainer_try_create(&self, &base, half, &config), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, 0), ZERO1_OK);
  meet_in(all);
  what->fn(&self, rank);
  trainer_end(&self);
  CHECK_STATUS(zero1_comm_barrier(all), ZERO1_OK);
  zero1_comm_destroy(&half);
  zero1_comm_destroy(&all);
}

static void run_halves(void (*fn)(trainer *self, int32_t rank), double timeout_seconds) {
  halves what = {.fn = fn};
  world in = {.size = 4, .options = options_of(0), .alone = train_half, .arg = &what};
  in.options.timeout_seconds = timeout_seconds;
  for (int i = 0; i < 2; ++i)
    CHECK_STATUS(zero1_nccl_unique_id(what.ids[i], sizeof what.ids[i]), ZERO1_OK);
  run_world(&in);
}

static void give_up_half(trainer *self, int32_t rank) {
  static const failure told = {ZERO1_ERR_ABORTED, "is tired"};
  if (rank != 3) {
    train_to_failure(self, &told);
    return;
  }
  sleep_ms(50);
  zero1_optimizer_abort(self->optimizer, "is tired");
}

static void a_rank_that_aborts_releases_those_it_agrees_with(void) {
  run_halves(give_up_half, 60);
}

/* Half 0 has all that it needs of its own ranks; the gather of verdicts is what fails. */
static void stay_away_from_half(trainer *self, int32_t rank) {
  static const failure late = {ZERO1_ERR_TIMEOUT, "within 3 s: some of 4 ranks"};
  if (rank / 2)
    sleep_ms(6000);
  else
    train_to_failure(self, &late);
}

static void a_gather_of_verdicts_that_fails_is_told_with_its_reason(void) {
  run_halves(stay_away_from_half, 3);
}

/* ---- ranks as processes: before this one has called CUDA ---- */

static void train_in_a_process(int32_t rank, const unsigned char *id, int pipe_end) {
  static const failure died = {ZERO1_ERR_PEER, "rank 1 died"};
  const zero1_comm_options options = options_of(0);
  zero1_comm *comm;
  trainer self;
  zero1_info info;
  char ready;
  check__thread_rank = rank;
  CHECK_EQ(read(pipe_end, &ready, 1), 1); /* the id is made */
  CHECK_CUDA(cudaSetDevice(rank));
  CHECK_STATUS(zero1_comm_create_nccl_id(rank, 2, id, ZERO1_NCCL_ID_BYTES, &options, &comm),
               ZERO1_OK);
  trainer_begin(&self, &base, comm);
  trainer_step(&self, 0, &info);
  CHECK_EQ(info.count, 1);
  if (rank == 1) _exit(0);
  train_to_failure(&self, &died);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
  _exit(0);
}

static void a_rank_whose_process_dies_is_missed_at_once(void) {
  unsigned char *const id =
      (unsigned char *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int ends[2], code;
  pid_t ranks[2];
  CHECK(id != MAP_FAILED && !pipe(ends));
  fflush(NULL);
  for (int32_t rank = 0; rank < 2; ++rank) {
    ranks[rank] = fork();
    CHECK(ranks[rank] >= 0);
    if (!ranks[rank]) train_in_a_process(rank, id, ends[0]);
  }
  CHECK_STATUS(zero1_nccl_unique_id(id, ZERO1_NCCL_ID_BYTES), ZERO1_OK);
  CHECK_EQ(write(ends[1], "..", 2), 2);
  for (int32_t rank = 0; rank < 2; ++rank) {
    CHECK_EQ(waitpid(ranks[rank], &code, 0), ranks[rank]);
    CHECK(WIFEXITED(code) && WEXITSTATUS(code) == 0);
  }
  munmap(id, 4096);
}

/* ---- several optimizers ---- */

static void use_two(zero1_comm *comm, void *arg) {
  trainer a, b;
  zero1_info info;
  (void)arg;
  trainer_begin(&a, &base, comm);
  trainer_begin(&b, &base, comm);
  for (int32_t step = 0; step < 2; ++step) {
    const uint64_t of_a = trainer_step(&a, step, &info);
    CHECK(trainer_step(&b, step, &info) == of_a);
  }
  trainer_end(&a);
  trainer_step(&b, 2, &info);
  CHECK_EQ(info.count, 3);
  trainer_end(&b);
}

static void several_optimizers_share_a_comm(void) {
  const zero1_comm_options options = options_of(0);
  run_ranks(2, &options, use_two, NULL);
}

/* ---- a graph ---- */

/* ncclCommDestroy would wait for the graph without end. */
static void forget_graph(zero1_comm *comm, void *arg) {
  trainer_case what = base;
  trainer self;
  void *inputs[PARAMS];
  cudaGraphExec_t exec;
  (void)arg;
  what.streams = 1;
  trainer_begin(&self, &what, comm);
  for (int32_t i = 0; i < PARAMS; ++i)
    CHECK_CUDA(cudaMalloc(&inputs[i], trainer_grad_bytes(&what, i) + 16));
  enqueue_step(&self, inputs);
  CHECK_EQ(trainer_info(&self).count, 1);
  capture_step(&self, inputs, &exec);
  trainer_end(&self);
}

static void a_graph_that_outlives_its_optimizer_is_seen(void) {
  int code;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    const zero1_comm_options options = options_of(0);
    CHECK(freopen("/dev/null", "w", stderr));
    run_ranks(2, &options, forget_graph, NULL);
    _exit(0);
  }
  CHECK_EQ(waitpid(child, &code, 0), child);
  CHECK(WIFSIGNALED(code) && WTERMSIG(code) == SIGABRT);
}

/* ---- ways in ---- */

typedef struct meeting {
  pthread_barrier_t barrier;
  char slots[MOST][4096];
} meeting;

typedef struct seat {
  meeting *at;
  int32_t rank, size;
} seat;

static int32_t meet(void *context, const void *in, void *out, size_t bytes) {
  const seat *mine = (const seat *)context;
  if (bytes > sizeof mine->at->slots[0]) return 1;
  memcpy(mine->at->slots[mine->rank], in, bytes);
  pthread_barrier_wait(&mine->at->barrier);
  for (int32_t i = 0; i < mine->size; ++i)
    memcpy((char *)out + (size_t)i * bytes, mine->at->slots[i], bytes);
  pthread_barrier_wait(&mine->at->barrier);
  return 0;
}

static void come_by_allgather(world *in, int32_t rank) {
  seat mine = {(meeting *)in->arg, rank, in->size};
  zero1_comm *comm;
  CHECK_STATUS(zero1_comm_create_nccl_allgather(rank, in->size, meet, &mine, &in->options, &comm),
               ZERO1_OK);
  CHECK_EQ(zero1_comm_rank(comm), rank);
  CHECK_EQ(zero1_comm_world_size(comm), in->size);
  CHECK_EQ(zero1_comm_ranks_per_node(comm), 1);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  zero1_comm_destroy(&comm);
}

static void a_callers_allgather_introduces_the_ranks(void) {
  meeting at;
  world in = {.size = 3, .options = options_of(0), .alone = come_by_allgather, .arg = &at};
  CHECK(!pthread_barrier_init(&at.barrier, NULL, 3));
  run_world(&in);
  pthread_barrier_destroy(&at.barrier);
}

static void come_with_a_communicator(world *in, int32_t rank) {
  ncclUniqueId id;
  ncclComm_t mine;
  zero1_comm *comm;
  trainer self;
  int count = 0;
  memcpy(&id, in->id, sizeof id);
  CHECK_EQ(ncclCommInitRank(&mine, in->size, id, rank), ncclSuccess);
  CHECK_STATUS(zero1_comm_create_nccl(mine, &in->options, &comm), ZERO1_OK);
  CHECK_EQ(zero1_comm_rank(comm), rank);
  trainer_begin(&self, &base, comm);
  meet_in(comm);
  if (rank == 0) zero1_optimizer_abort(self.optimizer, "for the test");
  trainer_end(&self);
  zero1_comm_destroy(&comm);
  CHECK_EQ(ncclCommCount(mine, &count), ncclSuccess); /* only duplicates were aborted */
  CHECK_EQ(count, in->size);
  CHECK_EQ(ncclCommDestroy(mine), ncclSuccess);
}

static void a_callers_communicator_is_duplicated(void) {
  world in = {.size = 2, .options = options_of(0), .alone = come_with_a_communicator};
  run_world(&in);
}

/* ---- bad arguments ---- */

typedef struct refusal {
  zero1_status status;
  const char *words;
} refusal;

static void be_refused(world *in, int32_t rank) {
  const refusal *expected = (const refusal *)in->arg;
  char text[300];
  zero1_comm *comm = (zero1_comm *)(uintptr_t)1;
  zero1_comm_options options = in->options;
  options.error_text = text;
  options.error_bytes = sizeof text;
  if (rank == 1 && expected->status == ZERO1_ERR_MISMATCH) options.ordered = 1;
  if (rank == 1 && expected->status == ZERO1_ERR_INVALID) options.ordered = 7;
  const zero1_status status =
      zero1_comm_create_nccl_id(rank, in->size, in->id, sizeof in->id, &options, &comm);
  if (!strstr(text, expected->words)) fprintf(stderr, "%s\n", text);
  CHECK_STATUS(status, expected->status);
  CHECK(strstr(text, expected->words));
  CHECK(!comm);
}

static void what_is_wrong_on_one_rank_is_told_to_all(void) {
  static const refusal refusals[] = {{ZERO1_ERR_MISMATCH, "options.ordered is 0 on rank 0 and 1"},
                                     {ZERO1_ERR_INVALID, "options.ordered is 7"}};
  for (int i = 0; i < 2; ++i) {
    world in = {.size = 3,
                .options = options_of(0),
                .alone = be_refused,
                .arg = (void *)(uintptr_t)&refusals[i]};
    run_world(&in);
  }
}

static void share_a_gpu(world *in, int32_t rank) {
  CHECK_CUDA(cudaSetDevice(0));
  be_refused(in, rank);
}

static void two_ranks_on_one_gpu_are_refused_in_nccls_words(void) {
  static const refusal refused = {ZERO1_ERR_COMM, "Duplicate GPU detected"};
  world in = {.size = 2,
              .options = options_of(0),
              .alone = share_a_gpu,
              .arg = (void *)(uintptr_t)&refused};
  setenv("ZERO1_STANDIN_NCCL_FAIL", "duplicate-gpu", 1);
  run_world(&in);
  unsetenv("ZERO1_STANDIN_NCCL_FAIL");
}

static void wait_for_nobody(world *in, int32_t rank) {
  zero1_comm *comm;
  zero1_comm_options options = in->options;
  options.timeout_seconds = 0.2;
  (void)rank;
  CHECK_STATUS(zero1_comm_create_nccl_id(0, 2, in->id, sizeof in->id, &options, &comm),
               ZERO1_ERR_TIMEOUT);
  CHECK(!comm);
}

static void a_rank_that_never_comes_to_create_is_a_timeout(void) {
  world in = {.size = 1, .options = options_of(0), .alone = wait_for_nobody};
  run_world(&in);
}

static void arguments_are_checked(void) {
  unsigned char id[ZERO1_NCCL_ID_BYTES] = "no id";
  zero1_comm *comm;
  CHECK_STATUS(zero1_nccl_unique_id(NULL, sizeof id), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_nccl_unique_id(id, 100), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_nccl(NULL, NULL, &comm), ZERO1_ERR_INVALID);
  CHECK(!comm);
  CHECK_STATUS(zero1_comm_create_nccl_id(0, 0, id, sizeof id, NULL, &comm), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_nccl_id(1, 1, id, sizeof id, NULL, &comm), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_nccl_id(0, 1, NULL, sizeof id, NULL, &comm), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_nccl_id(0, 1, id, 64, NULL, &comm), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_nccl_id(0, 1, id, sizeof id, NULL, &comm), ZERO1_ERR_COMM);
  CHECK_STATUS(zero1_comm_create_nccl_allgather(0, 1, NULL, NULL, NULL, &comm), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_comm_create_nccl_allgather(0, 0, meet, NULL, NULL, &comm), ZERO1_ERR_INVALID);
  CHECK_EQ(standin_nccl_live_comms(), 0);
}

static void ask_for_what_cannot_be(zero1_comm *comm, void *arg) {
  zero1_config config = trainer_config(&base);
  trainer self;
  (void)arg;
  config.reduce_group = 1;
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_ERR_UNSUPPORTED);
  CHECK(strstr(zero1_comm_last_error(comm), "options.ordered"));
  trainer_end(&self);
  config = trainer_config(&base);
  config.device = ZERO1_DEVICE_HOST;
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_ERR_UNSUPPORTED);
  CHECK(strstr(zero1_comm_last_error(comm), "CUDA"));
  trainer_end(&self);
  config = trainer_config(&base);
  config.grad_wire_dtype = ZERO1_WIRE_BF16;
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_ERR_UNSUPPORTED);
  CHECK(strstr(zero1_comm_last_error(comm), "config.grad_wire_dtype is bf16"));
  trainer_end(&self);
  config = trainer_config(&base);
  config.param_wire_dtype = ZERO1_WIRE_BF16;
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_ERR_UNSUPPORTED);
  CHECK(strstr(zero1_comm_last_error(comm), "config.param_wire_dtype is bf16"));
  trainer_end(&self);
  config = trainer_config(&base); /* no harm done */
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_OK);
  trainer_end(&self);
}

static void an_optimizer_that_nccl_cannot_serve_is_refused(void) {
  const zero1_comm_options options = options_of(0);
  run_ranks(2, &options, ask_for_what_cannot_be, NULL);
}

int main(void) {
  setenv("ZERO1_STANDIN_DEVICES", "4", 1); /* one for each rank, as NCCL would have it */
  RUN(a_rank_whose_process_dies_is_missed_at_once);
  RUN(a_graph_that_outlives_its_optimizer_is_seen);
  device_skip_without();
  RUN(arguments_are_checked);
  RUN(a_callers_allgather_introduces_the_ranks);
  RUN(several_optimizers_share_a_comm);
  RUN(a_callers_communicator_is_duplicated);
  RUN(an_error_of_nccl_is_everyones);
  RUN(a_rank_that_aborts_releases_its_peers);
  RUN(a_rank_that_does_not_come_is_waited_for_until_the_timeout);
  RUN(a_rank_that_aborts_releases_those_it_agrees_with);
  RUN(a_gather_of_verdicts_that_fails_is_told_with_its_reason);
  RUN(what_is_wrong_on_one_rank_is_told_to_all);
  RUN(two_ranks_on_one_gpu_are_refused_in_nccls_words);
  RUN(a_rank_that_never_comes_to_create_is_a_timeout);
  RUN(an_optimizer_that_nccl_cannot_serve_is_refused);
  return check_summary();
}
#endif
