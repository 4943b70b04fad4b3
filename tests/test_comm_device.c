// devices: standin
// standin-delay: 200
// sanitizers: address undefined thread
// quarters: 1
// cost: 3
/* The node comm in memory of a device, by its tables: ranks hand over through flags that kernels
 * post and await, and whoever waits for a rank that is lost is told why. Ranks are threads and,
 * where memory handles count or a rank dies, processes. */
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "comm_ops.h"
#include "standin.h"

enum { RANKS = 3, BUCKETS = 3, STEPS = 6, LANE_BYTES = 48 };

/* What kernels have read, in memory of the host that they see. */
typedef struct findings {
  float contributions[STEPS][BUCKETS][RANKS];
  float params[STEPS][BUCKETS][RANKS];
  char mail[STEPS][RANKS * LANE_BYTES];
  zero1__step step;
} findings;

/* One rank's channel and lane, with what an optimizer would have. */
typedef struct rig {
  zero1_comm *comm;
  zero1__device *device;
  zero1__layout layout;
  zero1__step *step;
  zero1__stream *stream;
  zero1__channel *channel;
  zero1__device_lane *lane;
  findings *found;
} rig;

static void sleep_ms(int64_t ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static int says(const zero1__error *error, const char *words) {
  if (strstr(error->text, words)) return 1;
  fprintf(stderr, "\"%s\" does not say \"%s\"\n", error->text, words);
  return 0;
}

/* Three buckets: of 2, 2 and 1 blocks a rank, times `scale`. */
static void begin(rig *at, zero1_comm *comm, int64_t scale) {
  const int64_t each = ZERO1__BLOCK * comm->world_size * scale, numel = 5 * each;
  const int32_t group = 0;
  const uint32_t flags = 0;
  const zero1__device_config wanted = {.kind = ZERO1_DEVICE_CUDA, .index = 0, .threads = 1};
  zero1__error error = {0};
  void *step, *found;
  *at = (rig){.comm = comm};
  CHECK_STATUS(zero1__layout_create(comm->world_size, 2 * each, 1, &numel, &group, &flags,
                                    &at->layout, &error),
               ZERO1_OK);
  CHECK_EQ(at->layout.bucket_count, BUCKETS);
  CHECK_STATUS(zero1__device_create(&wanted, &at->device, &error), ZERO1_OK);
  const zero1__device_ops *const ops = at->device->ops;
  CHECK_STATUS(ops->set_layout(at->device, &at->layout, &error), ZERO1_OK);
  CHECK_STATUS(ops->memory_alloc(at->device, sizeof *at->step, &step, &error), ZERO1_OK);
  CHECK_STATUS(ops->pinned_alloc(at->device, sizeof *at->found, &found, &error), ZERO1_OK);
  CHECK_STATUS(ops->stream_create(at->device, ZERO1__STREAM_KERNELS, &at->stream, &error),
               ZERO1_OK);
  at->step = step;
  at->found = found;
}

static zero1_status open_channel(rig *at, double timeout_seconds, zero1__error *error) {
  const zero1__channel_config config = {.device = at->device,
                                        .step = at->step,
                                        .layout = &at->layout,
                                        .param_dtype = ZERO1_DTYPE_FP32,
                                        .grad_dtype = ZERO1_DTYPE_FP32,
                                        .timeout_seconds = timeout_seconds};
  return at->comm->ops->channel_open(at->comm, &config, &at->channel, error);
}

static zero1_status open_lane(rig *at, double timeout_seconds, zero1__error *error) {
  return at->comm->ops->device_lane_open(at->comm, at->device, at->step, LANE_BYTES,
                                         timeout_seconds, &at->lane, error);
}

static void set_up(rig *at, zero1_comm *comm, double timeout_seconds) {
  zero1__error error = {0};
  begin(at, comm, 1);
  CHECK_STATUS(open_channel(at, timeout_seconds, &error), ZERO1_OK);
  CHECK_STATUS(open_lane(at, timeout_seconds, &error), ZERO1_OK);
  CHECK(at->channel->on_device && at->channel->in_place);
  CHECK_EQ(at->channel->params_sharers, 1);
}

static void finish(rig *at) {
  at->device->ops->stream_sync(at->device, at->stream);
}

static void close_all(rig *at) {
  finish(at);
  if (at->channel) at->channel->ops->channel_close(at->channel);
  if (at->lane) at->comm->ops->device_lane_close(at->lane);
  at->channel = NULL;
  at->lane = NULL;
}

static void tear_down(rig *at) {
  const zero1__device_ops *const ops = at->device->ops;
  close_all(at);
  ops->stream_destroy(at->device, at->stream);
  ops->memory_free(at->device, at->step, sizeof *at->step);
  ops->pinned_free(at->device, at->found, sizeof *at->found);
  ops->destroy(at->device);
  zero1__layout_destroy(&at->layout);
}

/* Run a test on threads, or in processes; nothing may live on. */
static void check_nothing_lives(void) {
  const standin_live live = standin_live_objects();
  CHECK_EQ(live.device_memories, 0);
  CHECK_EQ(live.host_memories, 0);
  CHECK_EQ(live.ipc_mappings, 0);
  CHECK_EQ(live.streams, 0);
  CHECK_EQ(live.events, 0);
}

static void on_threads(int32_t world, check_rank_fn fn) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.timeout_seconds = 20;
  check_threads(world, &options, fn, NULL);
  check_nothing_lives();
}

/* ---- a step, as the schedule enqueues it ---- */

static void call(rig *at, zero1__channel_fn fn, int64_t bucket) {
  zero1__channel_call(at->channel, at->stream, fn, bucket, NULL);
}

static float *place_of(rig *at, void *buffer, int64_t bucket, int32_t rank) {
  return (float *)buffer + zero1__layout_shard(&at->layout, bucket, rank).begin * ZERO1__BLOCK;
}

static void write_float(rig *at, float *to, float value) {
  at->device->ops->write(at->device, at->stream, to, &value, sizeof value);
}

static void copy_float(rig *at, float *to, const float *from) {
  at->device->ops->copy(at->device, at->stream, to, from, sizeof *to);
}

static float grad_of(int32_t rank, int32_t owner, int64_t bucket, int step) {
  return (float)(1 + rank * 1000 + owner * 100 + (int)bucket * 10 + step);
}

static float param_of(int32_t owner, int64_t bucket, int step) {
  return (float)(-1 - owner * 100 - (int)bucket * 10 - step);
}

static void open_step(rig *at, int skip) {
  const zero1__open_job job = {at->step};
  const int32_t go_on = 0;
  at->device->ops->open(at->device, at->stream, &job);
  at->channel->epoch += 1;
  if (!skip)
    at->device->ops->write(at->device, at->stream, &at->step->verdict.skip, &go_on, sizeof go_on);
}

static void reduce_bucket(rig *at, int64_t bucket, int step) {
  zero1__channel *const channel = at->channel;
  for (int32_t owner = 0; owner < at->comm->world_size; ++owner)
    write_float(at, place_of(at, channel->grads, bucket, owner),
                grad_of(at->comm->rank, owner, bucket, step));
  call(at, channel->ops->offer, bucket);
  call(at, channel->ops->arrive, bucket);
  const zero1__sources *const sources = &channel->chunks[channel->chunk_begin[bucket]].sources;
  for (int32_t rank = 0; rank < at->comm->world_size; ++rank)
    copy_float(at, &at->found->contributions[step][bucket][rank], sources->contributions[rank]);
}

static void gather(rig *at, int step) {
  char mine[LANE_BYTES];
  zero1__error error = {0};
  memset(mine, 'a' + at->comm->rank * STEPS + step, sizeof mine);
  at->device->ops->write(at->device, at->stream, at->lane->mine, mine, sizeof mine);
  CHECK_STATUS(at->comm->ops->device_lane_gather(at->lane, at->stream, &error), ZERO1_OK);
  at->device->ops->copy(at->device, at->stream, at->found->mail[step], at->lane->all,
                        LANE_BYTES * (size_t)at->comm->world_size);
}

static void update(rig *at, int step, int skip) {
  zero1__channel *const channel = at->channel;
  for (int64_t bucket = BUCKETS - 1; bucket >= 0; --bucket) {
    if (!skip)
      write_float(at, place_of(at, channel->params, bucket, at->comm->rank),
                  param_of(at->comm->rank, bucket, step));
    call(at, channel->ops->publish, bucket);
  }
  for (int64_t bucket = BUCKETS - 1; bucket >= 0; --bucket) {
    call(at, channel->ops->all_gather, bucket);
    for (int32_t owner = 0; owner < at->comm->world_size; ++owner)
      copy_float(at, &at->found->params[step][bucket][owner],
                 place_of(at, channel->params, bucket, owner));
  }
}

/* One rank's update is late: the others must not take what was there before. */
static void enqueue_step(rig *at, int step, int skip) {
  open_step(at, skip);
  for (int64_t bucket = 0; bucket < BUCKETS; ++bucket) reduce_bucket(at, bucket, step);
  gather(at, step);
  if (step % at->comm->world_size == at->comm->rank) {
    finish(at);
    sleep_ms(5);
  }
  update(at, step, skip);
}

/* As a caller may after a step: no peer is to read it any more. */
static void scribble(rig *at) {
  for (int64_t bucket = 0; bucket < BUCKETS; ++bucket)
    write_float(at, place_of(at, at->channel->params, bucket, at->comm->rank), 77);
}

static zero1_status failure_of(rig *at, zero1__error *error) {
  zero1__error_clear(error);
  return zero1__channel_failure(at->channel, error);
}

/* Read when the stream is idle. */
static zero1__step step_of(rig *at) {
  zero1__step step;
  at->device->ops->transfer(at->device, &step, at->step, sizeof step);
  return step;
}

static void check_step(const rig *at, int step, int last_update) {
  const int32_t world = at->comm->world_size, own = at->comm->rank;
  for (int64_t bucket = 0; bucket < BUCKETS; ++bucket)
    for (int32_t rank = 0; rank < world; ++rank) {
      CHECK_EQ(at->found->contributions[step][bucket][rank], grad_of(rank, own, bucket, step));
      CHECK_EQ(at->found->params[step][bucket][rank], param_of(rank, bucket, last_update));
    }
  for (int32_t rank = 0; rank < world; ++rank)
    for (int i = 0; i < LANE_BYTES; ++i)
      CHECK_EQ(at->found->mail[step][rank * LANE_BYTES + i], 'a' + rank * STEPS + step);
}

/* Many of them in the stream at once; one is skipped. */
static void steps(int32_t rank, zero1_comm *comm, void *arg) {
  enum { SKIPPED = 3 };
  rig at;
  zero1__error error;
  (void)arg;
  set_up(&at, comm, 20);
  for (int step = 0; step < STEPS; ++step) {
    enqueue_step(&at, step, step == SKIPPED);
    if (step + 1 != SKIPPED) scribble(&at);
  }
  finish(&at);
  CHECK_STATUS(failure_of(&at, &error), ZERO1_OK);
  CHECK_EQ(step_of(&at).lost, 0);
  for (int step = 0; step < STEPS; ++step) check_step(&at, step, step == SKIPPED ? step - 1 : step);
  if (rank == 0) sleep_ms(50); /* the peers leave first */
  tear_down(&at);
}

static void ranks_hand_over_in_stream_order(void) {
  for (int32_t world = 1; world <= RANKS; ++world) on_threads(world, steps);
}

static void root_to_all(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  set_up(&at, comm, 20);
  for (int32_t root = 0; root < comm->world_size; ++root) {
    float mine = (float)(10 * root + rank), got = 0;
    float *const last = (float *)at.channel->params + at.layout.block_count * ZERO1__BLOCK - 1;
    at.device->ops->transfer(at.device, last, &mine, sizeof mine);
    CHECK_STATUS(at.channel->ops->broadcast(at.channel, root, &error), ZERO1_OK);
    at.device->ops->transfer(at.device, &got, last, sizeof got);
    CHECK_EQ(got, 11 * root);
  }
  tear_down(&at);
}

static void broadcast_brings_the_roots_parameters(void) {
  on_threads(3, root_to_all);
}

/* ---- who waits in vain ---- */

static void wait_for_peers(rig *at) {
  open_step(at, 0);
  call(at, at->channel->ops->offer, 0);
  call(at, at->channel->ops->arrive, 0);
}

static zero1_status await_failure(rig *at, zero1__error *error) {
  for (int i = 0; i < 500 && !failure_of(at, error); ++i) sleep_ms(10);
  return error->status;
}

/* Rank 0 waits, and fails by itself; rank 1 is told as soon as it looks. */
static void one_fails(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  set_up(&at, comm, 20);
  if (rank == 0) {
    wait_for_peers(&at);
    sleep_ms(30);
    zero1__fail(&error, ZERO1_ERR_DEVICE, "disk on fire");
    zero1__channel_fail(at.channel, &error);
    finish(&at);
    CHECK_EQ(step_of(&at).lost, 1);
    CHECK_EQ(step_of(&at).lost_peer, -1);
  } else {
    sleep_ms(10);
    open_step(&at, 0);
    call(&at, at.channel->ops->offer, 1);
    call(&at, at.channel->ops->arrive, 1);
    CHECK_STATUS(await_failure(&at, &error), ZERO1_ERR_DEVICE);
    CHECK(says(&error, "rank 0: disk on fire"));
    finish(&at);
    CHECK_EQ(step_of(&at).lost, 1);
  }
  tear_down(&at);
}

static void a_rank_that_fails_ends_its_own_waits_and_those_of_its_peers(void) {
  on_threads(2, one_fails);
  on_threads(3, one_fails);
}

static void one_stays_away(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  (void)arg;
  set_up(&at, comm, 0.3);
  if (rank != 1) {
    wait_for_peers(&at);
    finish(&at);
    CHECK_EQ(step_of(&at).lost, 1);
    CHECK_EQ(step_of(&at).lost_peer, 1);
  }
  zero1_comm_barrier(comm);
  tear_down(&at);
}

static void a_wait_ends_with_the_timeout_and_names_the_peer(void) {
  on_threads(2, one_stays_away);
}

static void one_gathers_alone(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  (void)arg;
  set_up(&at, comm, 0.3);
  if (rank == 0) {
    gather(&at, 0);
    finish(&at);
    CHECK_EQ(step_of(&at).lost_peer, 1);
  }
  zero1_comm_barrier(comm);
  tear_down(&at);
}

static void so_does_a_gather(void) {
  on_threads(2, one_gathers_alone);
}

/* ---- who leaves ---- */

static void one_leaves(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  set_up(&at, comm, 20);
  enqueue_step(&at, 0, 0);
  finish(&at);
  if (rank == 0) {
    wait_for_peers(&at); /* of a second step, which rank 1 never begins */
    CHECK_STATUS(await_failure(&at, &error), ZERO1_ERR_PEER);
    CHECK(says(&error, "rank 1 closed its end while this rank was in a step"));
    finish(&at);
    CHECK_EQ(step_of(&at).lost, 1);
  } else {
    sleep_ms(50);
  }
  tear_down(&at);
}

static void a_peer_that_leaves_is_missed_by_who_is_in_a_step(void) {
  on_threads(2, one_leaves);
}

static void one_is_idle(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  set_up(&at, comm, 20);
  for (int step = 0; step < STEPS; ++step) enqueue_step(&at, step, 0);
  if (rank == 0) {
    finish(&at);
    sleep_ms(100);
    CHECK_STATUS(failure_of(&at, &error), ZERO1_OK);
    open_step(&at, 0);
    call(&at, at.channel->ops->offer, 0);
    CHECK_STATUS(failure_of(&at, &error), ZERO1_ERR_PEER);
    CHECK(says(&error, "rank 1 closed its end"));
  }
  tear_down(&at);
}

static void who_is_idle_does_not_miss_it_but_begins_nothing_new(void) {
  on_threads(2, one_is_idle);
}

static void one_lane_is_left(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  begin(&at, comm, 1);
  CHECK_STATUS(open_lane(&at, 20, &error), ZERO1_OK);
  gather(&at, 0);
  finish(&at);
  if (rank == 0) {
    sleep_ms(100);
    CHECK_STATUS(comm->ops->device_lane_gather(at.lane, at.stream, &error), ZERO1_ERR_PEER);
    CHECK(says(&error, "rank 1 closed its end"));
  }
  tear_down(&at);
}

static void a_lane_that_a_peer_has_left_gathers_no_more(void) {
  on_threads(2, one_lane_is_left);
}

/* ---- processes ---- */

enum { MESSAGE_BYTES = 1 << 16 };

typedef struct meeting {
  pthread_barrier_t barrier;
  char messages[RANKS][MESSAGE_BYTES];
} meeting;

typedef struct place {
  meeting *at;
  int32_t rank, world;
} place;

static int32_t gather_in_memory(void *context, const void *in, void *out, size_t bytes) {
  const place *const here = context;
  CHECK(bytes <= MESSAGE_BYTES);
  memcpy(here->at->messages[here->rank], in, bytes);
  pthread_barrier_wait(&here->at->barrier);
  for (int32_t i = 0; i < here->world; ++i)
    memcpy((char *)out + (size_t)i * bytes, here->at->messages[i], bytes);
  pthread_barrier_wait(&here->at->barrier);
  return 0;
}

static void be_process(place here, check_rank_fn fn) {
  zero1_comm_options options;
  zero1_comm *comm;
  check__thread_rank = here.rank;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.timeout_seconds = 20;
  CHECK_STATUS(
      zero1_comm_create_node(here.rank, here.world, gather_in_memory, &here, &options, &comm),
      ZERO1_OK);
  fn(here.rank, comm, NULL);
  zero1_comm_destroy(&comm);
  check_nothing_lives();
}

/* This process itself must not have begun with the stand-in yet. */
static void in_processes(int32_t world, check_rank_fn fn) {
  pid_t children[RANKS];
  pthread_barrierattr_t attributes;
  meeting *const at =
      mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  CHECK(!pthread_barrierattr_init(&attributes));
  CHECK(!pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED));
  CHECK(!pthread_barrier_init(&at->barrier, &attributes, (unsigned)world));
  fflush(NULL);
  for (int32_t rank = 0; rank < world; ++rank) {
    children[rank] = fork();
    CHECK(children[rank] >= 0);
    if (children[rank]) continue;
    be_process((place){at, rank, world}, fn);
    check__exit(0);
  }
  for (int32_t rank = 0; rank < world; ++rank) {
    int ended;
    CHECK_EQ(waitpid(children[rank], &ended, 0), children[rank]);
    CHECK(WIFEXITED(ended) && !WEXITSTATUS(ended));
  }
  munmap(at, sizeof *at);
}

static void processes_hand_over_through_memory_handles(void) {
  for (int32_t world = 1; world <= RANKS; ++world) in_processes(world, steps);
}

static void one_dies(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  set_up(&at, comm, 20);
  enqueue_step(&at, 0, 0);
  finish(&at);
  if (rank == 1) {
    usleep(200000); /* the peer's kernel waits already, or nearly */
    _exit(0);
  }
  wait_for_peers(&at);
  CHECK_STATUS(await_failure(&at, &error), ZERO1_ERR_PEER);
  CHECK(says(&error, "rank 1 died"));
  finish(&at);
  CHECK_EQ(step_of(&at).lost, 1);
  tear_down(&at);
}

/* The others are told, close its memory and each other's, and end in time. */
static void a_peer_that_dies_is_missed_by_all(void) {
  in_processes(2, one_dies);
  in_processes(3, one_dies);
}

static void one_dies_idle(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  (void)arg;
  set_up(&at, comm, 20);
  if (rank == 1) _exit(0);
  sleep_ms(50);
  tear_down(&at);
}

static void a_dead_peer_is_not_waited_for_at_the_end(void) {
  in_processes(3, one_dies_idle);
}

/* Nothing is left of a channel or lane that could not be opened: another one can be. */
static void one_has_no_memory(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  if (rank == 1) setenv("ZERO1_STANDIN_MEMORY", "8000000", 1);
  begin(&at, comm, 2048); /* 10 MiB of parameters a rank */
  CHECK_STATUS(open_channel(&at, 20, &error), ZERO1_ERR_MEMORY);
  CHECK(says(&error, rank == 1 ? "free are" : "rank 1: "));
  CHECK(!at.channel);
  zero1__error_clear(&error);
  CHECK_STATUS(open_lane(&at, 20, &error), ZERO1_OK);
  gather(&at, 0);
  tear_down(&at);
}

static void without_memory_on_one_rank_all_fail(void) {
  in_processes(2, one_has_no_memory);
}

static void one_has_no_handles(int32_t rank, zero1_comm *comm, void *arg) {
  rig at;
  zero1__error error = {0};
  (void)arg;
  if (rank == 1) setenv("ZERO1_STANDIN_FAIL", "ipc", 1);
  begin(&at, comm, 1);
  CHECK_STATUS(open_channel(&at, 20, &error), ZERO1_ERR_UNSUPPORTED);
  CHECK(says(&error, "rank 0 cannot reach the memory of rank 1: "));
  CHECK(says(&error, cudaGetErrorString(cudaErrorNotSupported)));
  zero1__error_clear(&error);
  CHECK_STATUS(open_lane(&at, 20, &error), ZERO1_ERR_UNSUPPORTED);
  CHECK(!at.channel && !at.lane);
  tear_down(&at);
}

static void without_memory_handles_the_text_names_the_pair(void) {
  in_processes(2, one_has_no_handles);
  in_processes(3, one_has_no_handles);
}

int main(void) {
  RUN(processes_hand_over_through_memory_handles);
  RUN(a_peer_that_dies_is_missed_by_all);
  RUN(a_dead_peer_is_not_waited_for_at_the_end);
  RUN(without_memory_on_one_rank_all_fail);
  RUN(without_memory_handles_the_text_names_the_pair);
  RUN(ranks_hand_over_in_stream_order);
  RUN(broadcast_brings_the_roots_parameters);
  RUN(a_rank_that_fails_ends_its_own_waits_and_those_of_its_peers);
  RUN(a_wait_ends_with_the_timeout_and_names_the_peer);
  RUN(so_does_a_gather);
  RUN(a_peer_that_leaves_is_missed_by_who_is_in_a_step);
  RUN(who_is_idle_does_not_miss_it_but_begins_nothing_new);
  RUN(a_lane_that_a_peer_has_left_gathers_no_more);
  return check_summary();
}
