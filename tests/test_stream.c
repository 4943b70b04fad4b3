// sanitizers: address undefined thread
/* Streams, events, flags and pools of the host: what device_ops.h promises of them. */
#include "check.h"

#include <string.h>
#include <time.h>

#include "clock.h"
#include "device_ops.h"
#include "flag.h"
#include "pool.h"
#include "stream_host.h"

static void sleep_ms(int64_t ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static zero1__stream *make_stream(int inline_calls) {
  zero1__stream *stream;
  CHECK_STATUS(zero1__stream_create(inline_calls, &stream, NULL), ZERO1_OK);
  return stream;
}

static zero1__event *make_event(void) {
  zero1__event *event;
  CHECK_STATUS(zero1__event_create(&event, NULL), ZERO1_OK);
  return event;
}

/* ---- streams ---- */

/* Plain memory: the stream's order is all that keeps its tasks apart. */
typedef struct journal {
  int64_t count;
  int64_t values[5000];
} journal;

static void append(void *context, const void *args) {
  journal *const log = context;
  memcpy(&log->values[log->count++], args, sizeof(int64_t));
}

static void append_late(void *context, const void *args) {
  sleep_ms(20);
  append(context, args);
}

static void push(zero1__stream *stream, zero1__host_fn fn, journal *log, int64_t value) {
  zero1__stream_push(stream, fn, log, &value, sizeof value);
}

static void check_ascending(const journal *log, int64_t count) {
  CHECK_EQ(log->count, count);
  for (int64_t i = 0; i < count; ++i) CHECK_EQ(log->values[i], i);
}

static void tasks_run_in_order(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  for (int inline_calls = 0; inline_calls <= 1; ++inline_calls) {
    log->count = 0;
    zero1__stream *const stream = make_stream(inline_calls);
    for (int64_t i = 0; i < 100; ++i) push(stream, append, log, i);
    zero1__stream_destroy(stream); /* runs what is enqueued */
    check_ascending(log, 100);
  }
  free(log);
}

/* 1024 fit: whoever enqueues one more waits, and none is lost. */
static void a_full_queue_waits(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  zero1__stream *const stream = make_stream(0);
  push(stream, append_late, log, 0);
  for (int64_t i = 1; i < 5000; ++i) push(stream, append, log, i);
  zero1__stream_destroy(stream);
  check_ascending(log, 5000);
  free(log);
}

static void wait_for_flag(void *context, const void *args) {
  (void)args;
  CHECK(zero1__flag_wait(context, 1, 10000000000));
}

/* The first task waits for what the caller does after it has pushed them all. */
static void pushing_does_not_wait(void) {
  zero1__flag flag = 0;
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  zero1__stream *const stream = make_stream(0);
  zero1__event *const event = make_event();
  zero1__stream_push(stream, wait_for_flag, &flag, NULL, 0);
  for (int64_t i = 0; i < 1000; ++i) push(stream, append, log, i);
  zero1__event_record(event, stream);
  zero1__flag_post(&flag, 1);
  zero1__event_sync(event);
  check_ascending(log, 1000);
  zero1__stream_destroy(stream);
  zero1__event_destroy(event);
  free(log);
}

static void a_stream_is_waited_for(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  for (int inline_calls = 0; inline_calls <= 1; ++inline_calls) {
    log->count = 0;
    zero1__stream *const stream = make_stream(inline_calls);
    zero1__stream_sync(stream);
    push(stream, append_late, log, 0);
    push(stream, append, log, 1);
    zero1__stream_sync(stream);
    check_ascending(log, 2);
    zero1__stream_destroy(stream);
  }
  free(log);
}

/* An inline stream has no thread: its tasks have run when push returns, on the pusher's thread. */
static void note_thread(void *context, const void *args) {
  (void)args;
  *(pthread_t *)context = pthread_self();
}

static void inline_calls_run_at_once_and_here(void) {
  pthread_t ran_on;
  zero1__stream *const here = make_stream(1), *const there = make_stream(0);
  zero1__stream_push(here, note_thread, &ran_on, NULL, 0);
  CHECK(pthread_equal(ran_on, pthread_self()));
  zero1__stream_push(there, note_thread, &ran_on, NULL, 0);
  zero1__stream_destroy(there);
  CHECK(!pthread_equal(ran_on, pthread_self()));
  zero1__stream_destroy(here);
  zero1__stream_destroy(NULL);
}

static void a_task_has_its_own_copy_of_args(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  zero1__stream *const stream = make_stream(0);
  struct {
    int64_t value;
    char rest[ZERO1__TASK_BYTES - sizeof(int64_t)];
  } args = {0, {0}};
  push(stream, append_late, log, 0);
  args.value = 1;
  zero1__stream_push(stream, append, log, &args, sizeof args);
  args.value = 99;
  zero1__stream_destroy(stream);
  check_ascending(log, 2);
  free(log);
}

/* ---- events ---- */

static void an_event_that_was_never_recorded_holds_nobody(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  zero1__event *const event = make_event();
  zero1__stream *const stream = make_stream(0), *const here = make_stream(1);
  zero1__event_sync(event);
  zero1__stream_wait(stream, event);
  zero1__stream_wait(here, event);
  push(stream, append, log, 0);
  zero1__stream_destroy(stream);
  zero1__stream_destroy(here);
  check_ascending(log, 1);
  zero1__event_destroy(event);
  free(log);
}

/* Stream `second` reads what `first` has written without a lock: the event alone orders them. */
static void a_stream_goes_on_after_another_one(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  zero1__event *const event = make_event();
  zero1__stream *const first = make_stream(0), *const second = make_stream(0);
  push(first, append_late, log, 0);
  push(first, append, log, 1);
  zero1__event_record(event, first);
  zero1__stream_wait(second, event);
  push(second, append, log, 2);
  zero1__stream_destroy(second);
  check_ascending(log, 3);
  zero1__stream_destroy(first);
  zero1__event_destroy(event);
  free(log);
}

/* A wait is for the record that was enqueued last before it: neither an earlier nor a later one. */
static void an_event_may_be_recorded_again(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  zero1__event *const event = make_event(), *const gate = make_event();
  zero1__stream *const first = make_stream(0), *const second = make_stream(0);
  zero1__event_record(event, first);
  zero1__event_sync(event); /* done once already */
  push(first, append_late, log, 0);
  zero1__event_record(event, first);
  zero1__stream_wait(second, event); /* for the second record */
  push(second, append, log, 1);
  zero1__event_record(gate, second);
  zero1__stream_wait(first, gate); /* so that the third record needs the wait to be over */
  push(first, append, log, 2);
  zero1__event_record(event, first);
  zero1__event_sync(event);
  check_ascending(log, 3);
  zero1__stream_destroy(first);
  zero1__stream_destroy(second);
  zero1__event_destroy(event);
  zero1__event_destroy(gate);
  free(log);
}

static void an_inline_stream_waits_here(void) {
  journal *const log = calloc(1, sizeof *log);
  CHECK(log);
  zero1__event *const event = make_event(), *const back = make_event();
  zero1__stream *const there = make_stream(0), *const here = make_stream(1);
  push(there, append_late, log, 0);
  zero1__event_record(event, there);
  zero1__stream_wait(here, event);
  push(here, append, log, 1);
  zero1__event_record(back, here);
  zero1__stream_wait(there, back);
  push(there, append, log, 2);
  zero1__stream_destroy(there);
  check_ascending(log, 3);
  zero1__stream_destroy(here);
  zero1__event_destroy(event);
  zero1__event_destroy(back);
  free(log);
}

/* Round and round, far more often than a queue is long. */
static void streams_hand_over_in_a_ring(void) {
  enum { STREAMS = 4, ROUNDS = 1000 };
  journal *const log = calloc(1, sizeof *log);
  zero1__stream *streams[STREAMS];
  zero1__event *events[STREAMS];
  CHECK(log);
  for (int i = 0; i < STREAMS; ++i) {
    streams[i] = make_stream(0);
    events[i] = make_event();
  }
  for (int64_t i = 0; i < (int64_t)STREAMS * ROUNDS; ++i) {
    zero1__stream_wait(streams[i % STREAMS], events[(i + STREAMS - 1) % STREAMS]);
    push(streams[i % STREAMS], append, log, i);
    zero1__event_record(events[i % STREAMS], streams[i % STREAMS]);
  }
  for (int i = 0; i < STREAMS; ++i) zero1__event_sync(events[i]);
  check_ascending(log, (int64_t)STREAMS * ROUNDS);
  for (int i = 0; i < STREAMS; ++i) zero1__stream_destroy(streams[i]);
  for (int i = 0; i < STREAMS; ++i) zero1__event_destroy(events[i]);
  free(log);
}

/* ---- flags ---- */

static void a_flag_reaches_its_value_and_what_is_before(void) {
  zero1__flag flag = 0;
  CHECK(zero1__flag_reached(&flag, 0));
  CHECK(!zero1__flag_reached(&flag, 1));
  zero1__flag_post(&flag, 7);
  CHECK(zero1__flag_reached(&flag, 6) && zero1__flag_reached(&flag, 7));
  CHECK(!zero1__flag_reached(&flag, 8));
  CHECK(zero1__flag_wait(&flag, 7, 0));
}

/* 2^32 - 1, 0, 1: epochs go on after the wrap. */
static void epochs_wrap_around(void) {
  zero1__flag flag = 0;
  zero1__flag_post(&flag, UINT32_MAX);
  CHECK(zero1__flag_reached(&flag, UINT32_MAX));
  CHECK(!zero1__flag_reached(&flag, 0));
  CHECK(!zero1__flag_wait(&flag, 1, 1000000));
  zero1__flag_post(&flag, 1);
  CHECK(zero1__flag_reached(&flag, 0) && zero1__flag_reached(&flag, UINT32_MAX));
}

static void a_wait_ends_with_its_time(void) {
  zero1__flag flag = 0;
  const int64_t begin_ns = zero1__now_ns();
  CHECK(!zero1__flag_wait(&flag, 1, 30000000));
  const int64_t waited_ns = zero1__now_ns() - begin_ns;
  CHECK(waited_ns >= 30000000);
  CHECK(waited_ns < 5000000000);
}

typedef struct posted {
  zero1__flag flag;
  int64_t value; /* plain: the flag alone orders it */
} posted;

/* Two flags, so that each has one writer. */
typedef struct pair {
  posted there, back;
} pair;

static void *echo(void *context) {
  pair *const both = context;
  for (uint32_t epoch = 1; epoch <= 200; ++epoch) {
    CHECK(zero1__flag_wait(&both->there.flag, epoch, 10000000000));
    CHECK_EQ(both->there.value, epoch);
    both->back.value = both->there.value * 2;
    if (epoch % 50 == 0) sleep_ms(2); /* long enough for the other side to fall asleep */
    zero1__flag_post(&both->back.flag, epoch);
  }
  return NULL;
}

static void a_flag_hands_over_what_was_written_before(void) {
  pair both = {{0, 0}, {0, 0}};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, echo, &both) == 0);
  for (uint32_t epoch = 1; epoch <= 200; ++epoch) {
    both.there.value = epoch;
    zero1__flag_post(&both.there.flag, epoch);
    CHECK(zero1__flag_wait(&both.back.flag, epoch, 10000000000));
    CHECK_EQ(both.back.value, 2 * epoch);
  }
  CHECK(pthread_join(thread, NULL) == 0);
}

/* ---- pools ---- */

typedef struct work {
  int64_t parts[8], others[8];
} work;

static void do_part(void *context, int32_t thread, int32_t threads) {
  work *const at = context;
  at->parts[thread] += 1;
  at->others[thread] = threads;
}

static void every_thread_of_a_pool_does_its_part(void) {
  for (int32_t threads = 1; threads <= 4; ++threads) {
    zero1__pool *pool;
    work at = {{0}, {0}};
    CHECK_STATUS(zero1__pool_create(threads, &pool, NULL), ZERO1_OK);
    CHECK_EQ(zero1__pool_threads(pool), threads);
    for (int round = 1; round <= 300; ++round) {
      zero1__pool_run(pool, do_part, &at);
      for (int32_t i = 0; i < 8; ++i) {
        CHECK_EQ(at.parts[i], i < threads ? round : 0);
        CHECK_EQ(at.others[i], i < threads ? threads : 0);
      }
    }
    zero1__pool_destroy(pool);
  }
  zero1__pool_destroy(NULL);
}

static void a_pool_that_never_ran_ends(void) {
  zero1__pool *pool;
  CHECK_STATUS(zero1__pool_create(3, &pool, NULL), ZERO1_OK);
  zero1__pool_destroy(pool);
}

/* ---- the device's table ---- */

static void a_caller_is_a_stream(void) {
  zero1__device *device;
  pthread_t ran_on;
  CHECK_STATUS(zero1__device_host_create(2, &device, NULL), ZERO1_OK);
  zero1__stream *const caller = device->ops->stream_of_caller(device, NULL, NULL);
  CHECK(caller);
  CHECK(caller == device->ops->stream_of_caller(device, ZERO1_STREAM_DEFAULT, NULL));
  zero1__error error;
  zero1__error_clear(&error);
  CHECK(!device->ops->stream_of_caller(device, device, &error));
  CHECK_STATUS(error.status, ZERO1_ERR_INVALID);
  device->ops->host_call(device, caller, note_thread, &ran_on, NULL, 0);
  CHECK(pthread_equal(ran_on, pthread_self()));
  device->ops->destroy(device);
}

static void memory_is_zeroed_and_on_a_page(void) {
  zero1__device *device;
  void *memory;
  CHECK_STATUS(zero1__device_host_create(1, &device, NULL), ZERO1_OK);
  CHECK_STATUS(device->ops->memory_alloc(device, 10000, &memory, NULL), ZERO1_OK);
  CHECK_EQ((uintptr_t)memory % 4096, 0);
  for (int i = 0; i < 10000; ++i) CHECK_EQ(((char *)memory)[i], 0);
  memset(memory, 1, 10000);
  device->ops->zero(device, device->ops->stream_of_caller(device, NULL, NULL), memory, 9999);
  CHECK_EQ(((char *)memory)[9998], 0);
  CHECK_EQ(((char *)memory)[9999], 1);
  const char three[] = {1, 2, 3};
  device->ops->transfer(device, memory, three, 3);
  device->ops->transfer(device, memory, NULL, 0);
  CHECK_EQ(((char *)memory)[2], 3);
  device->ops->memory_free(device, memory, 10000);
  CHECK_STATUS(device->ops->pinned_alloc(device, 10000, &memory, NULL), ZERO1_OK);
  CHECK_EQ(((char *)memory)[9999], 0);
  device->ops->pinned_free(device, memory, 10000);
  CHECK_STATUS(device->ops->memory_alloc(device, 0, &memory, NULL), ZERO1_OK);
  CHECK(!memory);
  device->ops->memory_free(device, memory, 0);
  device->ops->destroy(device);
}

int main(void) {
  RUN(tasks_run_in_order);
  RUN(a_full_queue_waits);
  RUN(pushing_does_not_wait);
  RUN(a_stream_is_waited_for);
  RUN(inline_calls_run_at_once_and_here);
  RUN(a_task_has_its_own_copy_of_args);
  RUN(an_event_that_was_never_recorded_holds_nobody);
  RUN(a_stream_goes_on_after_another_one);
  RUN(an_event_may_be_recorded_again);
  RUN(an_inline_stream_waits_here);
  RUN(streams_hand_over_in_a_ring);
  RUN(a_flag_reaches_its_value_and_what_is_before);
  RUN(epochs_wrap_around);
  RUN(a_wait_ends_with_its_time);
  RUN(a_flag_hands_over_what_was_written_before);
  RUN(every_thread_of_a_pool_does_its_part);
  RUN(a_pool_that_never_ran_ends);
  RUN(a_caller_is_a_stream);
  RUN(memory_is_zeroed_and_on_a_page);
  return check_summary();
}
