/* Threads take chunks in the order of the files, a few at a time, and compare them; whoever compares
 * a file's last one looks at its header. A failure ends the taking. What comes before it in order
 * was taken before it, and is looked at to its end: so the first failure in order is always found,
 * and it alone is told. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "checkpoint_folder.h"
#include "checkpoint_reader.h"
#include "chunk_reader.h"
#include "clock.h"
#include "safetensors.h"

#define CLAIM_CHUNKS 16      /* so that each thread reads on, as the kernel likes it */
#define PROGRESS_NS 50000000 /* between two calls */
#define THREADS_MAX 1024

typedef struct verification {
  const zero1__reader *reader;
  uint64_t total_bytes;
  int64_t *left; /* [file_count] chunks that were not right yet; owned */

  pthread_mutex_t mutex;           /* of what follows */
  int64_t file, chunk;             /* the next to be taken */
  uint64_t bytes;                  /* that are right */
  int32_t stopped;                 /* nothing more is taken */
  zero1__error error;              /* of the first failure in order, */
  int64_t error_file, error_chunk; /* and its place: INT64_MAX is the header's */

  pthread_mutex_t progress_mutex; /* of what follows; taken without the other */
  zero1_progress_fn progress;
  void *context;
  int64_t progress_ns; /* when it was called */
  int32_t aborted;
} verification;

typedef struct verify_worker {
  verification *of;
  pthread_t thread;
  char *data; /* [ZERO1__CHUNK_BYTES] owned */
  zero1__chunk_reader file;
  int64_t open_file; /* index; -1: none */
} verify_worker;

/* ---- what the threads share ---- */

/* Chunks [begin, end) of a file; of one without bytes none, but it is looked at. */
typedef struct claim {
  int64_t file, begin, end;
} claim;

static int take_claim(verification *of, claim *taken) {
  const zero1__index *const index = &of->reader->manifest.index;
  pthread_mutex_lock(&of->mutex);
  const int found = !of->stopped && of->file < index->file_count;
  if (found) {
    const int64_t count = zero1__chunk_count(index->files[of->file].bytes);
    const int64_t left = count - of->chunk;
    taken->file = of->file;
    taken->begin = of->chunk;
    taken->end = of->chunk + (left < CLAIM_CHUNKS ? left : CLAIM_CHUNKS);
    of->chunk = taken->end;
    if (of->chunk == count) {
      of->file += 1;
      of->chunk = 0;
    }
  }
  pthread_mutex_unlock(&of->mutex);
  return found;
}

static void note_failure(verification *of, int64_t file, int64_t chunk, const zero1__error *error) {
  pthread_mutex_lock(&of->mutex);
  of->stopped = 1;
  if (!of->error.status || file < of->error_file ||
      (file == of->error_file && chunk < of->error_chunk)) {
    of->error = *error;
    of->error_file = file;
    of->error_chunk = chunk;
  }
  pthread_mutex_unlock(&of->mutex);
}

/* Counts chunks that are right; returns whether they were the file's last. */
static int note_right(verification *of, const claim *taken, uint64_t bytes) {
  pthread_mutex_lock(&of->mutex);
  of->bytes += bytes;
  of->left[taken->file] -= taken->end - taken->begin;
  const int last = of->left[taken->file] == 0;
  pthread_mutex_unlock(&of->mutex);
  return last;
}

/* A thread that finds another one in there goes on: that one tells enough. */
static void tell_progress(verification *of) {
  if (!of->progress || pthread_mutex_trylock(&of->progress_mutex)) return;
  const int64_t now_ns = zero1__now_ns();
  if (!of->aborted && (!of->progress_ns || now_ns - of->progress_ns >= PROGRESS_NS)) {
    pthread_mutex_lock(&of->mutex);
    const uint64_t bytes = of->bytes;
    pthread_mutex_unlock(&of->mutex);
    of->progress_ns = now_ns;
    of->aborted = of->progress(of->context, bytes, of->total_bytes) != 0;
    if (of->aborted) {
      pthread_mutex_lock(&of->mutex);
      of->stopped = 1;
      pthread_mutex_unlock(&of->mutex);
    }
  }
  pthread_mutex_unlock(&of->progress_mutex);
}

/* ---- one thread ---- */

static zero1_status open_file(verify_worker *worker, int64_t index, zero1__error *error) {
  const zero1__reader *const reader = worker->of->reader;
  const zero1__saved_file *const saved = &reader->manifest.index.files[index];
  if (worker->open_file == index) return ZERO1_OK;
  zero1__chunk_reader_end(&worker->file);
  worker->open_file = -1; /* one that could not be opened is tried again, and fails alike */
  const zero1_status status =
      zero1__chunk_reader_begin(&worker->file, reader->path, saved->name, saved->bytes, error);
  if (status)
    zero1__chunk_reader_end(&worker->file);
  else
    worker->open_file = index;
  return status;
}

static zero1_status verify_chunk(verify_worker *worker, const zero1__saved_file *saved,
                                 int64_t chunk, zero1__error *error) {
  const zero1_status status =
      zero1__chunk_reader_read(&worker->file, chunk * ZERO1__CHUNK_BYTES,
                               zero1__chunk_bytes(saved->bytes, chunk), worker->data, error);
  if (status) return status;
  return zero1__chunk_verify(worker->of->reader->path, saved, chunk, worker->data, error);
}

/* Bytes from a file's begin to its header's end, as far as there are any. More than a reader of
 * safetensors takes are not looked at: then the header is cut, which is told. */
static zero1_status header_bytes(const verify_worker *worker, int64_t *bytes, zero1__error *error) {
  const uint64_t most = (uint64_t)128 << 20;
  unsigned char begin[ZERO1__HEADER_LENGTH_BYTES];
  *bytes = worker->file.bytes;
  if (worker->file.bytes < (int64_t)sizeof begin) return ZERO1_OK;
  const zero1_status status =
      zero1__chunk_reader_read(&worker->file, 0, (int64_t)sizeof begin, begin, error);
  if (status) return status;
  const uint64_t length = zero1__header_length(begin);
  const int64_t wanted = (int64_t)((length < most ? length : most) + sizeof begin);
  if (wanted < *bytes) *bytes = wanted;
  return ZERO1_OK;
}

static zero1_status verify_header(const verify_worker *worker, zero1__error *error) {
  const zero1__manifest *const manifest = &worker->of->reader->manifest;
  int64_t bytes;
  zero1_status status = header_bytes(worker, &bytes, error);
  if (status) return status;
  char *const text = malloc((size_t)bytes + 1);
  if (!text)
    return zero1__fail_at(error, ZERO1_ERR_MEMORY, worker->file.path,
                          "no memory for its header of %lld bytes", (long long)bytes);
  status = zero1__chunk_reader_read(&worker->file, 0, bytes, text, error);
  if (!status)
    status = zero1__safetensors_check(worker->file.path, text, (size_t)bytes, manifest,
                                      (int32_t)worker->open_file, error);
  free(text);
  return status;
}

static void verify_claim(verify_worker *worker, const claim *taken) {
  verification *const of = worker->of;
  const zero1__saved_file *const saved = &of->reader->manifest.index.files[taken->file];
  uint64_t bytes = 0;
  zero1__error error = {0};
  int64_t chunk = taken->begin;
  zero1_status status = open_file(worker, taken->file, &error);
  for (; chunk < taken->end && !status; ++chunk) {
    status = verify_chunk(worker, saved, chunk, &error);
    bytes += (uint64_t)zero1__chunk_bytes(saved->bytes, chunk);
  }
  if (!status && note_right(of, taken, bytes)) {
    chunk = INT64_MAX;
    status = verify_header(worker, &error);
  }
  if (status) note_failure(of, taken->file, chunk, &error);
}

static void *verify_files(void *argument) {
  verify_worker *const worker = argument;
  for (claim taken; take_claim(worker->of, &taken);) {
    verify_claim(worker, &taken);
    tell_progress(worker->of);
  }
  zero1__chunk_reader_end(&worker->file);
  return NULL;
}

/* ---- all of them ---- */

/* As many threads as can be had; the caller's is one of them. */
static void run_workers(verify_worker *workers, int32_t count) {
  sigset_t all, before;
  int32_t begun = 1;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* a program's signals are not for these */
  while (begun < count &&
         !pthread_create(&workers[begun].thread, NULL, verify_files, &workers[begun]))
    begun += 1;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  verify_files(&workers[0]);
  for (int32_t i = 1; i < begun; ++i) pthread_join(workers[i].thread, NULL);
}

static zero1_status outcome(verification *of, zero1__error *error) {
  const char *const path = of->reader->path;
  if (of->error.status) return zero1__fail(error, of->error.status, "%s", of->error.text);
  if (!of->aborted && of->progress)
    of->aborted = of->progress(of->context, of->bytes, of->total_bytes) != 0;
  if (!of->aborted) return ZERO1_OK;
  return zero1__fail_at(error, ZERO1_ERR_ABORTED, path, "verifying it was stopped by the caller");
}

static zero1_status make_workers(verification *of, verify_worker **workers, int32_t threads,
                                 zero1__error *error) {
  const zero1__index *const index = &of->reader->manifest.index;
  int32_t have = 0;
  of->left = malloc(((size_t)index->file_count + 1) * sizeof *of->left);
  *workers = calloc((size_t)threads, sizeof **workers);
  for (; *workers && have < threads; ++have) {
    (*workers)[have] = (verify_worker){.of = of, .open_file = -1};
    (*workers)[have].data = malloc((size_t)ZERO1__CHUNK_BYTES);
    if (!(*workers)[have].data) break;
  }
  if (!of->left || have < threads)
    return zero1__fail_at(error, ZERO1_ERR_MEMORY, of->reader->path,
                          "no memory to verify with %d threads", threads);
  for (int64_t i = 0; i < index->file_count; ++i) {
    of->left[i] = zero1__chunk_count(index->files[i].bytes);
    of->total_bytes += (uint64_t)index->files[i].bytes;
  }
  return ZERO1_OK;
}

zero1_status zero1__reader_verify(const zero1__reader *reader, int32_t threads,
                                  zero1_progress_fn progress, void *context, zero1__error *error) {
  verification of = {.reader = reader, .progress = progress, .context = context};
  verify_worker *workers = NULL;
  const int32_t count = threads < THREADS_MAX ? threads : THREADS_MAX;
  if (threads < 1)
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path, "threads is %d: below 1",
                          threads);
  pthread_mutex_init(&of.mutex, NULL);
  pthread_mutex_init(&of.progress_mutex, NULL);
  zero1_status status = make_workers(&of, &workers, count, error);
  if (!status) {
    run_workers(workers, count);
    status = outcome(&of, error);
  }
  pthread_mutex_destroy(&of.progress_mutex);
  pthread_mutex_destroy(&of.mutex);
  for (int32_t i = 0; workers && i < count; ++i) free(workers[i].data);
  free(workers);
  free(of.left);
  return status;
}
