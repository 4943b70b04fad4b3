/* One thread reads chunks into a ring, ahead of the caller's, which verifies them and gives them
 * away: so the disk, or the copy out of the page cache, does not wait for checksums.
 *
 *   reading thread    pread -> slot 0, slot 1, ... slot 7, slot 0 ...
 *   caller            slot 0: XXH3, then the sink for each piece in it; slot 0 is free again
 *
 * An element may be cut by the end of a chunk (a range begins at any byte): it is given away with
 * the chunk that it ends in, and its begin is kept in front of that chunk. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_folder.h"
#include "checkpoint_reader.h"
#include "chunk_reader.h"
#include "read_plan.h"

/* ---- the ring ---- */

enum {
  SLOTS = 8,       /* chunks in memory: what is read fits into a processor's last cache */
  LEAD_BYTES = 64, /* before a chunk: the begin of an element that it ends */
  AHEAD = 8        /* chunks before it is read, the kernel is told of a jump */
};
#define SLOT_BYTES ((size_t)(LEAD_BYTES + ZERO1__CHUNK_BYTES))
_Static_assert(SLOTS *(LEAD_BYTES + ZERO1__CHUNK_BYTES) <= ZERO1__READER_BYTES,
               "a run takes more than it may");

typedef struct ring_slot {
  char *data; /* [ZERO1__CHUNK_BYTES], LEAD_BYTES before it are there too */
  int64_t chunk;
  int32_t file;
} ring_slot;

typedef struct reader_run {
  const zero1__reader *reader;
  zero1__read_plan plan;
  int32_t drop_cache;

  /* Of whoever reads. */
  zero1__chunk_walk walk;
  zero1__chunk_walk ahead; /* up to where jumps were told */
  int64_t ahead_count;     /* chunks between the two */
  int32_t open_file;       /* index; -1: none */
  zero1__chunk_reader file;
  zero1__error read_error;

  /* Of the caller's thread. */
  const zero1__wanted *wanted;
  zero1__sink_fn sink;
  void *context;
  int64_t first, next;   /* pieces that the chunk may hold */
  char tail[LEAD_BYTES]; /* of the chunk before */
  int64_t tail_chunk;
  int32_t tail_file;

  char *memory; /* of all slots */
  int slot_count;
  ring_slot slots[SLOTS];
  pthread_mutex_t mutex; /* of what follows */
  pthread_cond_t changed;
  int64_t filled, freed; /* chunks since the begin */
  int32_t ended;         /* nothing more is filled */
  int32_t stopped;       /* nothing more is wanted */
} reader_run;

/* ---- reading ---- */

/* The kernel reads on by itself, and best, where one chunk follows another. It is told of those to
 * which the walk jumps. */
static void look_ahead(reader_run *run) {
  while (run->ahead_count < AHEAD && run->ahead.file == run->open_file) {
    const int64_t last = run->ahead.chunk;
    if (!zero1__chunk_walk_next(&run->ahead) || run->ahead.file != run->open_file) {
      run->ahead.file = -1; /* until the next file */
      return;
    }
    run->ahead_count += 1;
    if (run->ahead.chunk == last + 1) continue;
    zero1__chunk_reader_expect(&run->file, run->ahead.chunk * ZERO1__CHUNK_BYTES,
                               ZERO1__CHUNK_BYTES);
  }
}

static zero1_status open_file(reader_run *run, int32_t index) {
  const zero1__saved_file *const saved = &run->reader->manifest.index.files[index];
  if (run->open_file == index) return ZERO1_OK;
  zero1__chunk_reader_end(&run->file);
  run->open_file = index;
  run->ahead = run->walk;
  run->ahead_count = 0;
  return zero1__chunk_reader_begin(&run->file, run->reader->path, saved->name, saved->bytes,
                                   &run->read_error);
}

/* Reads the chunk that the walk has come to. */
static zero1_status fill(reader_run *run, ring_slot *slot) {
  const int64_t offset = run->walk.chunk * ZERO1__CHUNK_BYTES;
  slot->file = run->walk.file;
  slot->chunk = run->walk.chunk;
  zero1_status status = open_file(run, slot->file);
  if (status) return status;
  if (run->ahead_count > 0) run->ahead_count -= 1;
  look_ahead(run);
  const int64_t bytes = zero1__chunk_bytes(run->file.bytes, slot->chunk);
  status = zero1__chunk_reader_read(&run->file, offset, bytes, slot->data, &run->read_error);
  if (run->drop_cache) zero1__chunk_reader_drop(&run->file, offset, bytes);
  return status;
}

static int wait_for_room(reader_run *run) {
  pthread_mutex_lock(&run->mutex);
  while (!run->stopped && run->filled - run->freed == run->slot_count)
    pthread_cond_wait(&run->changed, &run->mutex);
  const int go_on = !run->stopped;
  pthread_mutex_unlock(&run->mutex);
  return go_on;
}

/* `filled` is written by this thread alone, so it may look at it without the mutex. */
static void *read_ahead(void *argument) {
  reader_run *const run = argument;
  while (wait_for_room(run) && zero1__chunk_walk_next(&run->walk)) {
    if (fill(run, &run->slots[run->filled % run->slot_count])) break;
    pthread_mutex_lock(&run->mutex);
    run->filled += 1;
    pthread_cond_signal(&run->changed);
    pthread_mutex_unlock(&run->mutex);
  }
  zero1__chunk_reader_end(&run->file);
  pthread_mutex_lock(&run->mutex);
  run->ended = 1;
  pthread_cond_signal(&run->changed);
  pthread_mutex_unlock(&run->mutex);
  return NULL;
}

/* ---- giving away ---- */

/* Moves the pieces that go on behind byte `end` to the end of those that were begun. The thread that
 * reads is never behind: it looks at none of these any more. */
static void keep_unfinished(reader_run *run, int64_t end) {
  zero1__piece *const pieces = run->plan.pieces;
  int64_t keep = run->next;
  for (int64_t i = run->next; i-- > run->first;)
    if (zero1__piece_end(&pieces[i]) > end) pieces[--keep] = pieces[i];
  run->first = keep;
}

/* Gives away the elements that end in a chunk. */
static zero1_status give(reader_run *run, const ring_slot *slot, zero1__error *error) {
  const zero1__piece *const pieces = run->plan.pieces;
  const int64_t begin = slot->chunk * ZERO1__CHUNK_BYTES;
  const int64_t end = begin + ZERO1__CHUNK_BYTES;
  zero1_status status = ZERO1_OK;
  while (run->next < run->plan.count && pieces[run->next].file == slot->file &&
         pieces[run->next].offset < end)
    run->next += 1;
  for (int64_t i = run->first; i < run->next && !status; ++i) {
    const zero1__piece *const piece = &pieces[i];
    const int64_t from = zero1__piece_until(piece, begin), to = zero1__piece_until(piece, end);
    if (from == to) continue;
    status = run->sink(run->context, &run->wanted[piece->wanted], piece->begin + from, to - from,
                       slot->data + (piece->offset + from * piece->element_bytes - begin), error);
  }
  keep_unfinished(run, end);
  return status;
}

static zero1_status take(reader_run *run, const ring_slot *slot, zero1__error *error) {
  const zero1__saved_file *const saved = &run->reader->manifest.index.files[slot->file];
  const zero1_status status =
      zero1__chunk_verify(run->reader->path, saved, slot->chunk, slot->data, error);
  if (status) return status;
  if (run->tail_file == slot->file && run->tail_chunk + 1 == slot->chunk)
    memcpy(slot->data - LEAD_BYTES, run->tail, LEAD_BYTES);
  memcpy(run->tail, slot->data + ZERO1__CHUNK_BYTES - LEAD_BYTES, LEAD_BYTES);
  run->tail_file = slot->file;
  run->tail_chunk = slot->chunk;
  return give(run, slot, error);
}

/* The oldest slot that is filled, or NULL at the end. */
static ring_slot *await_slot(reader_run *run) {
  pthread_mutex_lock(&run->mutex);
  while (!run->ended && run->filled == run->freed) pthread_cond_wait(&run->changed, &run->mutex);
  ring_slot *const slot =
      run->filled > run->freed ? &run->slots[run->freed % run->slot_count] : NULL;
  pthread_mutex_unlock(&run->mutex);
  return slot;
}

static void free_slot(reader_run *run, int32_t stop) {
  pthread_mutex_lock(&run->mutex);
  run->freed += 1;
  run->stopped = stop;
  pthread_cond_signal(&run->changed);
  pthread_mutex_unlock(&run->mutex);
}

/* ---- a run ---- */

static zero1_status pass_on(const zero1__error *from, zero1__error *error) {
  return from->status ? zero1__fail(error, from->status, "%s", from->text) : ZERO1_OK;
}

static zero1_status run_alone(reader_run *run, zero1__error *error) {
  zero1_status status = ZERO1_OK;
  while (!status && zero1__chunk_walk_next(&run->walk)) {
    status = fill(run, &run->slots[0]) ? pass_on(&run->read_error, error)
                                       : take(run, &run->slots[0], error);
  }
  zero1__chunk_reader_end(&run->file);
  return status;
}

static zero1_status take_all(reader_run *run, zero1__error *error) {
  zero1_status status = ZERO1_OK;
  for (ring_slot *slot; !status && (slot = await_slot(run));) {
    status = take(run, slot, error);
    free_slot(run, status != ZERO1_OK);
  }
  return status;
}

/* A signal of the program's is none of this thread's business. Returns 0 where it has begun. */
static int start(reader_run *run, pthread_t *thread) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failure = pthread_create(thread, NULL, read_ahead, run);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return failure;
}

/* Without a thread it is slower, and as right. */
static zero1_status run_with_thread(reader_run *run, zero1__error *error) {
  pthread_t thread;
  pthread_mutex_init(&run->mutex, NULL);
  pthread_cond_init(&run->changed, NULL);
  const int alone = start(run, &thread);
  zero1_status status = alone ? run_alone(run, error) : take_all(run, error);
  if (!alone) pthread_join(thread, NULL);
  if (!alone && !status) status = pass_on(&run->read_error, error);
  pthread_cond_destroy(&run->changed);
  pthread_mutex_destroy(&run->mutex);
  return status;
}

/* One slot for each chunk, SLOTS at most. */
static zero1_status make_slots(reader_run *run, zero1__error *error) {
  zero1__chunk_walk walk = run->walk;
  while (run->slot_count < SLOTS && zero1__chunk_walk_next(&walk)) run->slot_count += 1;
  if (!run->slot_count) return ZERO1_OK;
  run->memory = aligned_alloc(LEAD_BYTES, (size_t)run->slot_count * SLOT_BYTES);
  if (!run->memory)
    return zero1__fail_at(error, ZERO1_ERR_MEMORY, run->reader->path, "no memory to read %d chunks",
                          run->slot_count);
  for (int i = 0; i < run->slot_count; ++i)
    run->slots[i].data = run->memory + (size_t)i * SLOT_BYTES + LEAD_BYTES;
  return ZERO1_OK;
}

zero1_status zero1__reader_run(const zero1__reader *reader, const zero1__wanted *wanted,
                               int64_t wanted_count, int32_t drop_cache, zero1__sink_fn sink,
                               void *context, zero1__error *error) {
  reader_run run = {.reader = reader,
                    .drop_cache = drop_cache,
                    .open_file = -1,
                    .wanted = wanted,
                    .sink = sink,
                    .context = context,
                    .tail_file = -1};
  zero1_status status = zero1__read_plan_begin(&run.plan, reader, wanted, wanted_count, error);
  run.walk = zero1__chunk_walk_begin(&run.plan);
  if (!status) status = make_slots(&run, error);
  if (!status) status = run.slot_count < 3 ? run_alone(&run, error) : run_with_thread(&run, error);
  zero1__read_plan_end(&run.plan);
  free(run.memory);
  return status;
}
