#include "bench_saved.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "bench_plain_file.h"
#include "bench_world.h"
#include "checkpoint_folder.h"
#include "manifest.h"

static void require_done(const bench_saved *saved, const char *what, zero1_status status) {
  bench_require(!status, "rank %d: %s: %s", saved->subject->rank, what,
                zero1_optimizer_last_error(saved->subject->optimizer));
}

/* ---- the state ---- */

static uint64_t add_floats(uint64_t so_far, const float *values, int64_t count) {
  return XXH3_64bits_withSeed(values, (size_t)count * sizeof *values, so_far);
}

/* Of every bit that this rank has: its masters and moments, and all parameters. */
static uint64_t state_of(const bench_saved *saved) {
  const bench_subject *subject = saved->subject;
  const size_t each = subject->param_dtype == ZERO1_DTYPE_BF16 ? 2 : 4;
  int64_t count = 0;
  uint64_t sum = 0;
  require_done(saved, "owned", zero1_optimizer_owned_count(subject->optimizer, &count));
  zero1_owned *owned = bench_alloc((size_t)count, sizeof *owned);
  require_done(saved, "owned",
               zero1_optimizer_owned(subject->optimizer, 0, count, owned, sizeof *owned));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t numel = owned[i].end - owned[i].begin;
    sum = add_floats(sum, owned[i].master_param, numel);
    sum = add_floats(sum, owned[i].exp_avg, numel);
    sum = add_floats(sum, owned[i].exp_avg_sq, numel);
  }
  for (int64_t i = 0; i < subject->tensors; ++i) {
    const int64_t numel = bench_tensor_begin(subject, i + 1) - bench_tensor_begin(subject, i);
    sum = XXH3_64bits_withSeed(subject->params[i], (size_t)numel * each, sum);
  }
  free(owned);
  return sum;
}

/* ---- files ---- */

/* This rank's file `k` of the checkpoint that is there; 0: it has no such file. */
static int file_of(const bench_saved *saved, int k, char path[PATH_MAX]) {
  snprintf(path, PATH_MAX, "%.*s/latest/rank-%05d-of-%05d-%05d.safetensors",
           (int)sizeof saved->folder, saved->root, saved->subject->rank, saved->subject->world_size,
           k);
  return access(path, F_OK) == 0;
}

/* The bytes of a checkpoint's files of this rank, one after the other. */
static void read_files(bench_saved *saved) {
  char path[PATH_MAX];
  size_t at = 0;
  for (int k = 0; file_of(saved, k, path); ++k) saved->bytes += bench_file_bytes(path);
  bench_require(saved->bytes > 0, "%s: a checkpoint without a file of this rank", path);
  saved->data = bench_alloc(saved->bytes, 1);
  for (int k = 0; file_of(saved, k, path); ++k) {
    const size_t bytes = bench_file_bytes(path);
    bench_plain_read(path, (char *)saved->data + at, bytes);
    at += bytes;
  }
}

static void folder_of_plain(const bench_saved *saved, char path[PATH_MAX]) {
  snprintf(path, PATH_MAX, "%s/plain", saved->folder);
}

static void remove_tree(const bench_saved *saved, const char *path) {
  zero1__error error;
  zero1__error_clear(&error);
  if (saved->subject->rank == 0) {
    bench_require(!zero1__remove_tree(path, &error), "%s", error.text);
    sync();
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

void bench_saved_clear(const bench_saved *saved) {
  remove_tree(saved, saved->root);
}

void bench_saved_clear_plain(const bench_saved *saved) {
  char path[PATH_MAX];
  folder_of_plain(saved, path);
  remove_tree(saved, path);
}

/* ---- life ---- */

void bench_saved_open(bench_saved *saved, bench_subject *subject, const char *dir) {
  *saved = (bench_saved){.subject = subject};
  bench_require(strlen(dir) + 32 < sizeof saved->folder, "--dir: %s is too long", dir);
  snprintf(saved->folder, sizeof saved->folder, "%s/bench_checkpoint.XXXXXX", dir);
  if (subject->rank == 0) bench_require(mkdtemp(saved->folder) != NULL, "--dir: %s: %m", dir);
  MPI_Bcast(saved->folder, (int)sizeof saved->folder, MPI_CHAR, 0, MPI_COMM_WORLD);
  snprintf(saved->root, sizeof saved->root, "%s/root", saved->folder);
  snprintf(saved->plain, sizeof saved->plain, "%s/plain/rank-%05d", saved->folder, subject->rank);
  bench_saved_save(saved);
  read_files(saved);
}

void bench_saved_close(bench_saved *saved) {
  remove_tree(saved, saved->folder);
  free(saved->data);
}

/* ---- written ---- */

double bench_saved_write_plain(const bench_saved *saved) {
  char folder[PATH_MAX];
  folder_of_plain(saved, folder);
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  if (saved->subject->rank == 0) bench_require(!mkdir(folder, 0755), "%s: %m", folder);
  MPI_Barrier(MPI_COMM_WORLD);
  bench_plain_write(saved->plain, saved->data, saved->bytes);
  MPI_Barrier(MPI_COMM_WORLD);
  if (saved->subject->rank == 0) {
    bench_flush_folder(folder);
    bench_flush_folder(saved->folder);
  }
  return bench_max(bench_ms_since(begin_ns));
}

double bench_saved_save(bench_saved *saved) {
  saved->state = state_of(saved);
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  require_done(saved, "save", zero1_checkpoint_save(saved->subject->optimizer, saved->root, NULL));
  return bench_max(bench_ms_since(begin_ns));
}

double bench_saved_begin(bench_saved *saved, int32_t mode) {
  zero1_save_options options;
  zero1_save_options_init(&options, sizeof options);
  options.mode = mode;
  saved->state = state_of(saved);
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  require_done(saved, "save_async",
               zero1_checkpoint_save_async(saved->subject->optimizer, saved->root, &options));
  return bench_ms_since(begin_ns);
}

void bench_saved_wait(const bench_saved *saved) {
  require_done(saved, "wait", zero1_checkpoint_wait(saved->subject->optimizer));
  MPI_Barrier(MPI_COMM_WORLD);
}

zero1_save_report bench_saved_report(const bench_saved *saved) {
  zero1_save_report report;
  require_done(saved, "report",
               zero1_checkpoint_report(saved->subject->optimizer, &report, sizeof report));
  return report;
}

/* ---- read ---- */

void bench_saved_drop(const bench_saved *saved, double *plain, double *checkpoint) {
  char path[PATH_MAX];
  double most = 0;
  for (int k = 0; file_of(saved, k, path); ++k) {
    bench_drop_cached(path);
    const double part = bench_cached_part(path);
    if (part > most) most = part;
  }
  bench_drop_cached(saved->plain);
  *plain = bench_max(bench_cached_part(saved->plain));
  *checkpoint = bench_max(most);
}

double bench_saved_read_plain(const bench_saved *saved) {
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  bench_plain_read(saved->plain, saved->data, saved->bytes);
  return bench_max(bench_ms_since(begin_ns));
}

double bench_saved_load(bench_saved *saved) {
  const int rank = saved->subject->rank;
  bench_require(state_of(saved) != saved->state,
                "rank %d: training has changed nothing: a load would show nothing", rank);
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  require_done(saved, "load", zero1_checkpoint_load(saved->subject->optimizer, saved->root, NULL));
  const double load_ms = bench_max(bench_ms_since(begin_ns));
  bench_require(state_of(saved) == saved->state,
                "wrong result: rank %d: what was loaded is not what was saved", rank);
  return load_ms;
}
