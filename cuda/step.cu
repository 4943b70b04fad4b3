// The small kernels of a step: one CTA each, but for pull. csrc/step_rules.h says what the jobs do.
#include "step_rules.h"

#include "common.cuh"
#include "kernels.cuh"

namespace zero1 {
namespace {

// ---- the step's numbers: one thread ----

__global__ void open_step(ZERO1__JOB(zero1__open_job) job) {
  zero1__step_open(&job);
}

__global__ void record_step(ZERO1__JOB(zero1__record_job) job) {
  zero1__step_record(&job);
}

__global__ void check_step(ZERO1__JOB(zero1__check_job) job) {
  zero1__step_check(&job);
}

__global__ void tell_step(ZERO1__JOB(zero1__tell_job) job) {
  zero1__step_tell(&job);
}

// ---- decide ----

constexpr unsigned kDecideThreads = 256;
constexpr int32_t kNearRecords = 64;  // as many as shared memory holds

/** Bytes in words: records hold 64-bit numbers. */
__device__ void copy_words(void *to, const void *from, size_t bytes) {
  for (size_t i = threadIdx.x; i < bytes / sizeof(uint64_t); i += kDecideThreads)
    static_cast<uint64_t *>(to)[i] = static_cast<const uint64_t *>(from)[i];
}

// One thread decides, and would wait for memory a hundred times: the records come nearer first.
__global__ void __launch_bounds__(kDecideThreads, 1)
    decide_step(ZERO1__JOB(zero1__decide_job) given) {
  __shared__ zero1__record near[kNearRecords];
  __shared__ zero1__decide_scratch scratch;
  __shared__ zero1__decide_job job;
  static_assert(sizeof near[0] % sizeof(uint64_t) == 0, "a record is whole words");
  const int32_t count = given.records.count;
  if (threadIdx.x == 0) job = given;
  __syncthreads();
  if (count <= kNearRecords) {
    for (int32_t rank = 0; rank < count; ++rank)
      copy_words(&near[rank], zero1__record_at(&given.records, rank), sizeof near[0]);
    if (threadIdx.x == 0) {
      job.records.first = near;
      job.records.stride = sizeof near[0];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) zero1__step_decide(&job, &scratch);
  __syncthreads();
  if (!zero1__step_prepares(&job)) return;
  for (int64_t group = threadIdx.x; group < job.group_count; group += kDecideThreads)
    zero1__step_scalars(&job, group);
  for (int64_t slot = threadIdx.x; slot < job.slot_count; slot += kDecideThreads)
    zero1__step_absent(&job, slot);
}

// ---- flags ----

constexpr unsigned kFlagThreads = 64;
constexpr uint32_t kPollsPerLook = 64;  // at all that may end a wait but the flag

/** When to stop waiting. `step` may be NULL: the host alone ends the wait. */
struct patience {
  zero1__step *step;
  const uint32_t *give_up;
  int64_t end_ns;
};

__device__ __forceinline__ patience patience_of(zero1__step *step, const uint32_t *give_up,
                                                int64_t timeout_ns) {
  const int64_t begin_ns = now_ns();
  const int64_t end_ns = timeout_ns < INT64_MAX - begin_ns ? begin_ns + timeout_ns : INT64_MAX;
  return {step, give_up, end_ns};
}

/** Whether to wait no more; notes why in the step. */
__device__ __forceinline__ bool is_over(const patience &wait, int32_t peer) {
  if (wait.step && zero1__step_is_lost(wait.step)) return true;
  const bool told = *const_cast<const volatile uint32_t *>(wait.give_up) != 0;
  if (!told && now_ns() < wait.end_ns) return false;
  if (wait.step) zero1__step_lose(wait.step, told ? -1 : peer);
  return true;
}

/** Waits until *flag has come to `value`; false: gave up on `peer`. */
__device__ __forceinline__ bool wait_for(const uint32_t *flag, uint32_t value, const patience &wait,
                                         int32_t peer) {
  for (uint32_t polls = 1; !has_come(load_acquire(flag), value); ++polls) {
    if (polls % kPollsPerLook == 0 && is_over(wait, peer)) return false;
    __nanosleep(polls < kPollsPerLook ? 32 : 256);
  }
  return true;
}

/** The same for all threads of the CTA, also where another stream changes what it reads. */
__device__ __forceinline__ bool all_find(bool condition) {
  return __syncthreads_or(condition) != 0;
}

__global__ void __launch_bounds__(kFlagThreads) post(ZERO1__JOB(zero1__post_job) job) {
  if (zero1__step_is_lost(job.step) || (job.skippable && job.step->verdict.skip)) return;
  const uint32_t epoch = job.step->epoch;
  __threadfence_system();
  for (int32_t i = int32_t(threadIdx.x); i < job.count; i += kFlagThreads)
    store_release(job.flags[i] + job.offset, epoch);
}

__global__ void __launch_bounds__(kFlagThreads)
    await(ZERO1__JOB(zero1__await_job) job, const uint32_t *give_up) {
  if (zero1__step_is_lost(job.step) || (job.skippable && job.step->verdict.skip)) return;
  const uint32_t epoch = job.step->epoch;
  const patience wait = patience_of(job.step, give_up, job.timeout_ns);
  for (int32_t i = int32_t(threadIdx.x); i < job.count; i += kFlagThreads)
    if (!wait_for(job.flags + i * job.stride, epoch, wait, i)) return;
}

__global__ void post_host(uint32_t *flag, uint32_t value) {
  __threadfence_system();
  store_release(flag, value);
}

__global__ void await_host(const uint32_t *flag, uint32_t value, uint32_t *give_up,
                           int64_t timeout_ns) {
  const bool came = wait_for(flag, value, patience_of(nullptr, give_up, timeout_ns), -1);
  if (!came && load_acquire(give_up) == 0) store_release(give_up, uint32_t(ZERO1__CUDA_GAVE_UP));
}

// ---- mail ----

constexpr unsigned kMailThreads = 256;

/** 16 bytes that another device may have written since this kernel began. */
__device__ __forceinline__ uint4 load_fresh(const uint4 *from) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

/** Sends this rank's message to every mailbox, its own too; `slots`: where those of this parity
 *  begin in a mailbox. */
__device__ __forceinline__ void send_mail(const zero1__mail_job &job, size_t slots) {
  const size_t words = job.bytes / sizeof(uint4);
  const size_t place = slots + size_t(job.rank) * job.bytes;
  for (int32_t peer = 0; peer < job.count; ++peer) {
    uint4 *to = reinterpret_cast<uint4 *>(in_global(job.mailboxes[peer]) + place);
    for (size_t i = threadIdx.x; i < words; i += kMailThreads)
      to[i] = static_cast<const uint4 *>(job.mine)[i];
  }
}

__global__ void __launch_bounds__(kMailThreads, 1)
    mail(ZERO1__JOB(zero1__mail_job) job, const uint32_t *give_up) {
  if (all_find(zero1__step_is_lost(job.step))) return;
  const uint32_t sequence = *job.sequence + 1;
  const size_t slots = (sequence & 1) * size_t(job.count) * job.bytes;
  const size_t flags = 2 * size_t(job.count) * job.bytes;
  const char *own = job.mailboxes[job.rank];
  send_mail(job, slots);
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) *job.sequence = sequence;
  for (int32_t peer = int32_t(threadIdx.x); peer < job.count; peer += kMailThreads)
    store_release(reinterpret_cast<uint32_t *>(job.mailboxes[peer] + flags) + job.rank, sequence);
  const patience wait = patience_of(job.step, give_up, job.timeout_ns);
  bool lost = false;
  for (int32_t peer = int32_t(threadIdx.x); peer < job.count && !lost; peer += kMailThreads)
    lost = !wait_for(reinterpret_cast<const uint32_t *>(own + flags) + peer, sequence, wait, peer);
  if (all_find(lost)) return;
  __threadfence_system();  // what one thread has acquired, all of them read
  const uint4 *from = reinterpret_cast<const uint4 *>(own + slots);
  const size_t words = size_t(job.count) * job.bytes / sizeof(uint4);
  for (size_t i = threadIdx.x; i < words; i += kMailThreads)
    static_cast<uint4 *>(job.all)[i] = load_fresh(from + i);
}

// ---- pull: blockIdx.y is the peer ----

constexpr unsigned kPullThreads = 256;
constexpr int kPullResident = 4;
constexpr int kPullWords = 4;  // of 16 bytes, of each thread in flight

__global__ void __launch_bounds__(kPullThreads, kPullResident)
    pull(ZERO1__JOB(zero1__pull_job) job) {
  if (job.step->verdict.skip || zero1__step_is_lost(job.step)) return;
  // Each rank begins with its next neighbour, so that they do not all read the same one's memory.
  const int32_t peer = (job.rank + 1 + int32_t(blockIdx.y)) % job.count;
  const size_t begin = job.begin + size_t(peer) * job.shard_bytes;
  const size_t words = job.shard_bytes / sizeof(uint4);
  const uint4 *from = reinterpret_cast<const uint4 *>(
      static_cast<const char *>(in_global(job.params[peer])) + begin);
  uint4 *to =
      reinterpret_cast<uint4 *>(static_cast<char *>(in_global(job.params[job.rank])) + begin);
  const size_t stride = size_t(gridDim.x) * kPullThreads;
  size_t i = size_t(blockIdx.x) * kPullThreads + threadIdx.x;
  for (; i + (kPullWords - 1) * stride < words; i += kPullWords * stride) {
    uint4 word[kPullWords];
#pragma unroll
    for (int k = 0; k < kPullWords; ++k) word[k] = __ldcg(from + i + k * stride);
#pragma unroll
    for (int k = 0; k < kPullWords; ++k) to[i + k * stride] = word[k];
  }
  for (; i < words; i += stride) to[i] = __ldcg(from + i);
}

// ---- write ----

constexpr unsigned kWriteThreads = 256;

struct written {
  unsigned char bytes[ZERO1__CUDA_WRITE_BYTES];
};

__global__ void __launch_bounds__(kWriteThreads)
    write(unsigned char *to, ZERO1__JOB(written) from, uint32_t bytes) {
  for (uint32_t i = threadIdx.x; i < bytes; i += kWriteThreads) to[i] = from.bytes[i];
}

}  // namespace
}  // namespace zero1

using namespace zero1;

extern "C" {

int zero1__cuda_load(void) {
  return first_of(load_reduce(), load_update(), load_master_hash(), load(open_step),
                  load(record_step), load(check_step), load(decide_step), load(tell_step),
                  load(post), load(await), load(post_host), load(await_host), load(mail),
                  load(pull), load(write));
}

int zero1__cuda_open(const zero1__open_job *job, zero1__cuda_stream stream) {
  return launch(open_step, 1, 1, stream, *job);
}

int zero1__cuda_record(const zero1__record_job *job, zero1__cuda_stream stream) {
  return launch(record_step, 1, 1, stream, *job);
}

int zero1__cuda_check(const zero1__check_job *job, zero1__cuda_stream stream) {
  return launch(check_step, 1, 1, stream, *job);
}

int zero1__cuda_decide(const zero1__decide_job *job, zero1__cuda_stream stream) {
  return launch(decide_step, 1, kDecideThreads, stream, *job);
}

int zero1__cuda_tell(const zero1__tell_job *job, zero1__cuda_stream stream) {
  return launch(tell_step, 1, 1, stream, *job);
}

int zero1__cuda_post(const zero1__post_job *job, zero1__cuda_stream stream) {
  return launch(post, 1, kFlagThreads, stream, *job);
}

int zero1__cuda_await(const zero1__await_job *job, const uint32_t *give_up,
                      zero1__cuda_stream stream) {
  return launch(await, 1, kFlagThreads, stream, *job, give_up);
}

int zero1__cuda_mail(const zero1__mail_job *job, const uint32_t *give_up,
                     zero1__cuda_stream stream) {
  return launch(mail, 1, kMailThreads, stream, *job, give_up);
}

int zero1__cuda_pull(const zero1__pull_job *job, zero1__cuda_stream stream) {
  const int64_t words = int64_t(job->shard_bytes / sizeof(uint4));
  const int64_t per_cta = kPullThreads * kPullWords;
  unsigned ctas = 0, peers = unsigned(job->count - 1);
  if (words == 0 || peers == 0) return cudaSuccess;
  const int status = grid_of((words + per_cta - 1) / per_cta * peers, kPullResident, &ctas);
  if (status != cudaSuccess) return status;
  return launch(pull, dim3((ctas + peers - 1) / peers, peers), kPullThreads, stream, *job);
}

int zero1__cuda_post_host(uint32_t *flag, uint32_t value, zero1__cuda_stream stream) {
  return launch(post_host, 1, 1, stream, flag, value);
}

int zero1__cuda_await_host(const uint32_t *flag, uint32_t value, uint32_t *give_up,
                           int64_t timeout_ns, zero1__cuda_stream stream) {
  return launch(await_host, 1, 1, stream, flag, value, give_up, timeout_ns);
}

int zero1__cuda_write(void *to, const void *from, size_t bytes, zero1__cuda_stream stream) {
  written copy = {};
  if (bytes > sizeof copy) return cudaErrorInvalidValue;
  memcpy(copy.bytes, from, bytes);
  return launch(write, 1, kWriteThreads, stream, to, copy, uint32_t(bytes));
}

}  // extern "C"
