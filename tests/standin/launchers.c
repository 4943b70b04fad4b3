/* The launchers of csrc/kernels_cuda.h over the stand-in runtime: each job is a function of the
 * host that a stream's worker calls at its turn. The arithmetic is that of the host device's
 * kernels. What a real kernel would trust is checked here first: the block table against the
 * layout.
 *
 * What kernels do with atomics of the device is done with atomics here: sums of limbs, flags. All
 * else is plain memory, so that ThreadSanitizer sees whether streams and flags order it. */
#include "kernels_cuda.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "kernels_host.h"
#include "standin.h"
#include "step_rules.h"

_Noreturn static void wrong(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "stand-in kernel: ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  abort();
}

/* ---- loading ---- */

static uint32_t loaded; /* bit d: on device d */

int zero1__cuda_load(void) {
  int device;
  const cudaError_t error = cudaGetDevice(&device);
  if (!error) __atomic_fetch_or(&loaded, 1u << device, __ATOMIC_RELAXED);
  return error;
}

/* Enqueues a task; a kernel that was not loaded before could wait for another one for ever. */
static int launch(zero1__cuda_stream stream, standin_fn fn, const void *task, size_t bytes) {
  int device;
  const cudaError_t error = cudaGetDevice(&device);
  if (error) return error;
  if (!(__atomic_load_n(&loaded, __ATOMIC_RELAXED) >> device & 1))
    wrong("a launch on device %d, for which zero1__cuda_load was never called", device);
  return standin_launch(stream, fn, task, bytes);
}

/* The kernels of the instruction set that the environment names, if there is one. */
static const zero1__kernels *pick_kernels(void) {
  const zero1__kernels *kernels;
  if (zero1__kernels_pick(&kernels, NULL)) wrong("ZERO1_ISA names no kernels of this processor");
  return kernels;
}

/* ---- the block table ---- */

static void check_slot(const zero1__cuda_layout *table, const zero1__layout *layout, int64_t slot) {
  if (memcmp(&table->slots[slot], &layout->slots[slot], sizeof *layout->slots))
    wrong("slot %lld of the layout is another on the device", (long long)slot);
}

static void check_block(const zero1__cuda_layout *table, const zero1__layout *layout,
                        int64_t block) {
  const zero1__cuda_block *mine = &table->blocks[block];
  const int64_t slot = zero1__layout_slot_at(layout, block);
  int64_t numel = 0;
  if (slot < layout->slot_count) {
    const zero1__slot *at = &layout->slots[slot];
    numel = at->numel - (block - at->block_begin) * ZERO1__BLOCK;
    if (numel > ZERO1__BLOCK) numel = ZERO1__BLOCK;
    if (numel < 0) numel = 0;
  }
  if (mine->numel != numel)
    wrong("block %lld has %d elements in the block table, not %lld", (long long)block, mine->numel,
          (long long)numel);
  if (!numel) return;
  if (mine->slot != slot)
    wrong("block %lld is of slot %d in the block table, not %lld", (long long)block, mine->slot,
          (long long)slot);
  check_slot(table, layout, slot);
}

static void check_blocks(const zero1__cuda_layout *table, const zero1__layout *layout,
                         zero1__range blocks) {
  if (blocks.begin < 0 || blocks.begin > blocks.end || blocks.end > layout->trainable_blocks)
    wrong("blocks [%lld, %lld) of %lld", (long long)blocks.begin, (long long)blocks.end,
          (long long)layout->trainable_blocks);
  for (int64_t block = blocks.begin; block < blocks.end; ++block) check_block(table, layout, block);
}

/* ---- reduce, update, master, hash ---- */

/* Limb by limb, as many threads of a GPU do it: nothing is carried here. */
static void add_stats(zero1__stats *into, const zero1__stats *from) {
  for (int32_t k = 0; k < ZERO1__EXACT_LIMBS; ++k)
    if (from->squares.limb[k])
      __atomic_fetch_add(&into->squares.limb[k], from->squares.limb[k], __ATOMIC_RELAXED);
  __atomic_fetch_add(&into->nonfinite_numel, from->nonfinite_numel, __ATOMIC_RELAXED);
  uint64_t lowest = __atomic_load_n(&into->culprit, __ATOMIC_RELAXED);
  while (from->culprit < lowest &&
         !__atomic_compare_exchange_n(&into->culprit, &lowest, from->culprit, 0, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED))
    ;
}

typedef struct reduce_task {
  zero1__cuda_layout table;
  zero1__reduce_job job;
  const zero1__kernels *kernels;
} reduce_task;

static void run_reduce(void *args) {
  reduce_task *task = args;
  zero1__reduce_job *job = &task->job;
  zero1__stats found;
  if (job->lost && __atomic_load_n(job->lost, __ATOMIC_RELAXED)) return;
  check_blocks(&task->table, job->layout, job->blocks);
  job->sources.contributions = job->sources.visible;
  zero1__stats_clear(&found);
  task->kernels->reduce(job, job->blocks, &found);
  if (job->stats) add_stats(job->stats, &found);
}

int zero1__cuda_reduce(const zero1__cuda_layout *layout, const zero1__reduce_job *job,
                       zero1__cuda_stream stream) {
  const reduce_task task = {*layout, *job, pick_kernels()};
  return launch(stream, run_reduce, &task, sizeof task);
}

typedef struct update_task {
  zero1__cuda_layout table;
  zero1__update_job job;
  const zero1__kernels *kernels;
} update_task;

static void run_update(void *args) {
  update_task *task = args;
  zero1__update_job *job = &task->job;
  zero1__stats found;
  if (job->verdict->skip) return;
  check_blocks(&task->table, job->layout, job->blocks);
  job->sources.contributions = job->sources.visible;
  zero1__stats_clear(&found);
  task->kernels->update(job, job->blocks, job->stats ? &found : NULL);
  if (job->stats) add_stats(job->stats, &found);
}

int zero1__cuda_update(const zero1__cuda_layout *layout, const zero1__update_job *job,
                       zero1__cuda_stream stream) {
  const update_task task = {*layout, *job, pick_kernels()};
  return launch(stream, run_update, &task, sizeof task);
}

typedef struct master_task {
  zero1__cuda_layout table;
  zero1__master_job job;
  const zero1__kernels *kernels;
} master_task;

static void run_master(void *args) {
  const master_task *task = args;
  check_blocks(&task->table, task->job.layout, task->job.blocks);
  task->kernels->master(&task->job, task->job.blocks);
}

int zero1__cuda_master(const zero1__cuda_layout *layout, const zero1__master_job *job,
                       zero1__cuda_stream stream) {
  const master_task task = {*layout, *job, pick_kernels()};
  return launch(stream, run_master, &task, sizeof task);
}

typedef struct round_task {
  zero1__cuda_layout table;
  zero1__round_job job;
  const zero1__kernels *kernels;
} round_task;

static void run_round(void *args) {
  const round_task *task = args;
  check_blocks(&task->table, task->job.layout, task->job.blocks);
  task->kernels->round_params(&task->job, task->job.blocks);
}

int zero1__cuda_round_params(const zero1__cuda_layout *layout, const zero1__round_job *job,
                             zero1__cuda_stream stream) {
  const round_task task = {*layout, *job, pick_kernels()};
  return launch(stream, run_round, &task, sizeof task);
}

typedef struct hash_task {
  zero1__hash_job job;
  const zero1__kernels *kernels;
} hash_task;

static void run_hash(void *args) {
  const hash_task *task = args;
  const uint64_t hash = task->kernels->hash(&task->job, task->job.elements);
  __atomic_fetch_add(task->job.hash, hash, __ATOMIC_RELAXED);
}

int zero1__cuda_hash(const zero1__hash_job *job, zero1__cuda_stream stream) {
  const hash_task task = {*job, pick_kernels()};
  return launch(stream, run_hash, &task, sizeof task);
}

/* ---- a step's numbers ---- */

static void run_open(void *args) {
  zero1__step_open(args);
}

int zero1__cuda_open(const zero1__open_job *job, zero1__cuda_stream stream) {
  return launch(stream, run_open, job, sizeof *job);
}

static void run_record(void *args) {
  zero1__step_record(args);
}

int zero1__cuda_record(const zero1__record_job *job, zero1__cuda_stream stream) {
  return launch(stream, run_record, job, sizeof *job);
}

static void run_check(void *args) {
  zero1__step_check(args);
}

int zero1__cuda_check(const zero1__check_job *job, zero1__cuda_stream stream) {
  return launch(stream, run_check, job, sizeof *job);
}

static void run_decide(void *args) {
  const zero1__decide_job *job = args;
  zero1__decide_scratch scratch;
  zero1__step_decide(job, &scratch);
  if (!zero1__step_prepares(job)) return;
  for (int64_t group = 0; group < job->group_count; ++group) zero1__step_scalars(job, group);
  for (int64_t slot = 0; slot < job->slot_count; ++slot) zero1__step_absent(job, slot);
}

int zero1__cuda_decide(const zero1__decide_job *job, zero1__cuda_stream stream) {
  return launch(stream, run_decide, job, sizeof *job);
}

static void run_tell(void *args) {
  zero1__step_tell(args);
}

int zero1__cuda_tell(const zero1__tell_job *job, zero1__cuda_stream stream) {
  return launch(stream, run_tell, job, sizeof *job);
}

/* ---- flags ---- */

typedef enum wait_end { WAIT_REACHED, WAIT_TOLD, WAIT_TIMEOUT, WAIT_DEAD } wait_end;

static void pause_between_looks(int64_t looks) {
  const struct timespec nap = {0, 50000};
  if (looks < 100)
    sched_yield();
  else
    nanosleep(&nap, NULL);
}

/* Until *flag has come to `value`. timeout_ns 0: as long as it takes. */
static wait_end wait_for_flag(const uint32_t *flag, uint32_t value, const uint32_t *give_up,
                              int64_t timeout_ns) {
  const int64_t begin_ns = zero1__now_ns();
  for (int64_t looks = 0;; ++looks) {
    const uint32_t seen = __atomic_load_n(flag, __ATOMIC_ACQUIRE);
    if ((int32_t)(seen - value) >= 0) return WAIT_REACHED;
    if (__atomic_load_n(give_up, __ATOMIC_RELAXED)) return WAIT_TOLD;
    if (standin_device_failed()) return WAIT_DEAD; /* a kernel would be gone */
    if (timeout_ns && zero1__now_ns() - begin_ns > timeout_ns) return WAIT_TIMEOUT;
    pause_between_looks(looks);
  }
}

static int is_lost(const zero1__step *step) {
  return __atomic_load_n(&step->lost, __ATOMIC_ACQUIRE) != 0;
}

/* The first one counts: streams may give up at the same time. */
static void lose(zero1__step *step, int32_t peer) {
  int32_t nobody = 0;
  if (__atomic_compare_exchange_n(&step->lost, &nobody, 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
    step->lost_peer = peer;
}

/* Waits for [count] flags to come to `value`; 0: given up, and the step knows. */
static int wait_for_flags(zero1__step *step, const uint32_t *flags, int64_t stride, int32_t count,
                          uint32_t value, const uint32_t *give_up, int64_t timeout_ns) {
  if (is_lost(step)) return 0;
  for (int32_t i = 0; i < count; ++i) {
    const wait_end end = wait_for_flag(flags + i * stride, value, give_up, timeout_ns);
    if (end == WAIT_REACHED) continue;
    if (end != WAIT_DEAD) lose(step, end == WAIT_TIMEOUT ? i : -1);
    return 0;
  }
  return 1;
}

static void run_post(void *args) {
  const zero1__post_job *job = args;
  if (job->skippable && job->step->verdict.skip) return;
  for (int32_t i = 0; i < job->count; ++i)
    __atomic_store_n(job->flags[i] + job->offset, job->step->epoch, __ATOMIC_RELEASE);
}

int zero1__cuda_post(const zero1__post_job *job, zero1__cuda_stream stream) {
  return launch(stream, run_post, job, sizeof *job);
}

typedef struct await_task {
  zero1__await_job job;
  const uint32_t *give_up;
} await_task;

static void run_await(void *args) {
  const await_task *task = args;
  const zero1__await_job *job = &task->job;
  if (job->skippable && job->step->verdict.skip) return;
  wait_for_flags(job->step, job->flags, job->stride, job->count, job->step->epoch, task->give_up,
                 job->timeout_ns);
}

int zero1__cuda_await(const zero1__await_job *job, const uint32_t *give_up,
                      zero1__cuda_stream stream) {
  const await_task task = {*job, give_up};
  return launch(stream, run_await, &task, sizeof task);
}

/* ---- between ranks ---- */

typedef struct mail_task {
  zero1__mail_job job;
  const uint32_t *give_up;
} mail_task;

static uint32_t *mailbox_flags(const zero1__mail_job *job, int32_t rank) {
  return (uint32_t *)(void *)(job->mailboxes[rank] + 2 * job->bytes * (size_t)job->count);
}

static void run_mail(void *args) {
  const mail_task *task = args;
  const zero1__mail_job *job = &task->job;
  const uint32_t sequence = ++*job->sequence;
  const size_t all_bytes = job->bytes * (size_t)job->count;
  const size_t half = sequence % 2 * all_bytes;
  for (int32_t i = 0; i < job->count; ++i) {
    memcpy(job->mailboxes[i] + half + (size_t)job->rank * job->bytes, job->mine, job->bytes);
    __atomic_store_n(mailbox_flags(job, i) + job->rank, sequence, __ATOMIC_RELEASE);
  }
  if (wait_for_flags(job->step, mailbox_flags(job, job->rank), 1, job->count, sequence,
                     task->give_up, job->timeout_ns))
    memcpy(job->all, job->mailboxes[job->rank] + half, all_bytes);
}

int zero1__cuda_mail(const zero1__mail_job *job, const uint32_t *give_up,
                     zero1__cuda_stream stream) {
  const mail_task task = {*job, give_up};
  if (job->bytes % 16) wrong("mail of %zu bytes: no multiple of 16", job->bytes);
  return launch(stream, run_mail, &task, sizeof task);
}

static void run_pull(void *args) {
  const zero1__pull_job *job = args;
  if (job->step->verdict.skip || is_lost(job->step)) return;
  for (int32_t peer = 0; peer < job->count; ++peer) {
    const size_t at = job->begin + (size_t)peer * job->shard_bytes;
    if (peer == job->rank) continue;
    memcpy((char *)job->params[job->rank] + at, (const char *)job->params[peer] + at,
           job->shard_bytes);
  }
}

int zero1__cuda_pull(const zero1__pull_job *job, zero1__cuda_stream stream) {
  if (job->begin % 16 || job->shard_bytes % 16)
    wrong("a pull of %zu bytes at %zu: no multiples of 16", job->shard_bytes, job->begin);
  return launch(stream, run_pull, job, sizeof *job);
}

/* ---- between a stream and the host ---- */

typedef struct host_flag_task {
  uint32_t *flag, *give_up;
  int64_t timeout_ns;
  uint32_t value;
} host_flag_task;

static void run_post_host(void *args) {
  const host_flag_task *task = args;
  __atomic_store_n(task->flag, task->value, __ATOMIC_RELEASE);
}

int zero1__cuda_post_host(uint32_t *flag, uint32_t value, zero1__cuda_stream stream) {
  const host_flag_task task = {.flag = flag, .value = value};
  return launch(stream, run_post_host, &task, sizeof task);
}

static void run_await_host(void *args) {
  const host_flag_task *task = args;
  if (wait_for_flag(task->flag, task->value, task->give_up, task->timeout_ns) == WAIT_TIMEOUT)
    __atomic_store_n(task->give_up, ZERO1__CUDA_GAVE_UP, __ATOMIC_RELEASE);
}

int zero1__cuda_await_host(const uint32_t *flag, uint32_t value, uint32_t *give_up,
                           int64_t timeout_ns, zero1__cuda_stream stream) {
  const host_flag_task task = {(uint32_t *)(uintptr_t)flag, give_up, timeout_ns, value};
  return launch(stream, run_await_host, &task, sizeof task);
}

typedef struct write_task {
  void *to;
  size_t bytes;
  unsigned char data[ZERO1__CUDA_WRITE_BYTES];
} write_task;

static void run_write(void *args) {
  const write_task *task = args;
  memcpy(task->to, task->data, task->bytes);
}

int zero1__cuda_write(void *to, const void *from, size_t bytes, zero1__cuda_stream stream) {
  write_task task = {.to = to, .bytes = bytes};
  if (bytes > sizeof task.data) wrong("a write of %zu bytes", bytes);
  memcpy(task.data, from, bytes);
  return launch(stream, run_write, &task, offsetof(write_task, data) + bytes);
}
