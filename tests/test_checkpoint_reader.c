// sanitizers: address undefined thread
// wrap: pread
/* Reading a checkpoint: whatever way it was split and is asked for, the values are those that were
 * saved; each chunk is read once, and what is damaged is named and not given away. */
#include <errno.h>
#include <stdatomic.h>

#include "check.h"
#include "checkpoint_case.h"
#include "checkpoint_reader.h"

/* ---- reads, as they come from the kernel ---- */

enum { WHOLE, SHORT, INTERRUPTED, BROKEN };
static _Atomic int pread_kind;
static _Atomic int64_t pread_bytes, pread_calls;

ssize_t __real_pread(int descriptor, void *data, size_t bytes, off_t offset);
ssize_t __wrap_pread(int descriptor, void *data, size_t bytes, off_t offset);

ssize_t __wrap_pread(int descriptor, void *data, size_t bytes, off_t offset) {
  const int64_t call = atomic_fetch_add(&pread_calls, 1);
  const int kind = atomic_load(&pread_kind);
  if (kind == BROKEN && call == 5) {
    errno = EIO;
    return -1;
  }
  if (kind == INTERRUPTED && call % 2 == 0) {
    errno = EINTR;
    return -1;
  }
  const size_t most = kind == SHORT && bytes > 65537 ? 65537 : bytes;
  const ssize_t taken = __real_pread(descriptor, data, most, offset);
  if (taken > 0) atomic_fetch_add(&pread_bytes, taken);
  return taken;
}

static void set_pread(int kind) {
  atomic_store(&pread_kind, kind);
  atomic_store(&pread_calls, 0);
  atomic_store(&pread_bytes, 0);
}

/* ---- a sink that compares ---- */

typedef struct sunk {
  const checkpoint_case *it;
  uint8_t *seen[64]; /* by tag: [end - begin] how often an element came */
  int64_t pieces, stop_at;
} sunk;

static zero1_status sink(void *context, const zero1__wanted *wanted, int64_t begin, int64_t count,
                         const void *data, zero1__error *error) {
  sunk *const to = context;
  const int narrow = zero1__saved_dtype(wanted->state, to->it->manifest.param_dtype) != 0;
  CHECK(count > 0 && begin >= wanted->begin && begin + count <= wanted->end);
  if (++to->pieces == to->stop_at) return zero1__fail(error, ZERO1_ERR_STATE, "enough");
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = 0;
    uint16_t half = 0;
    if (narrow) {
      memcpy(&half, (const char *)data + 2 * i, 2);
      CHECK_EQ(half, case_half(begin + i));
    } else {
      memcpy(&bits, (const char *)data + 4 * i, 4);
      if (wanted->state == ZERO1_STATE_PARAM)
        CHECK_EQ(bits, case_bits(MASK, ZERO1_STATE_PARAM, 0, begin + i));
      else
        CHECK_EQ(bits,
                 case_bits(wanted->param, wanted->state,
                           wanted->state == ZERO1_STATE_RESIDUAL ? wanted->rank : 0, begin + i));
    }
    to->seen[wanted->tag][begin + i - wanted->begin] += 1;
  }
  return ZERO1_OK;
}

/* Runs the reader; where that succeeds each wanted element has come once. */
static zero1_status run(const checkpoint_case *it, const zero1__reader *reader,
                        zero1__wanted *wanted, int64_t count, int32_t drop, zero1__error *error) {
  sunk to = {.it = it};
  CHECK(count <= 64);
  for (int64_t i = 0; i < count; ++i) {
    wanted[i].tag = i;
    to.seen[i] = calloc((size_t)(wanted[i].end - wanted[i].begin) + 1, 1);
    CHECK(to.seen[i] != NULL);
  }
  const zero1_status status = zero1__reader_run(reader, wanted, count, drop, sink, &to, error);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < wanted[i].end - wanted[i].begin; ++j)
      CHECK(status ? to.seen[i][j] <= 1 : to.seen[i][j] == 1);
    free(to.seen[i]);
  }
  return status;
}

/* All that is saved, as rank `rank` of `world` would want it, in no good order. */
static int64_t want_part(zero1__wanted *wanted, int32_t rank, int32_t world) {
  const int64_t begin = (int64_t)CASE_WIDE * rank / world + (rank > 0);
  const int64_t end = (int64_t)CASE_WIDE * (rank + 1) / world + (rank + 1 < world);
  int64_t count = 0;
  for (int32_t state = ZERO1_STATE_EXP_AVG_SQ; state >= ZERO1_STATE_MASTER_PARAM; --state) {
    wanted[count++] = (zero1__wanted){BIAS, state, 0, 0, 1, 0};
    wanted[count++] = (zero1__wanted){WIDE, state, 0, begin, end, 0};
  }
  wanted[count++] = (zero1__wanted){MASK, ZERO1_STATE_PARAM, 0, 0, CASE_MASK, 0};
  wanted[count++] = (zero1__wanted){NONE, ZERO1_STATE_EXP_AVG, 0, 0, 0, 0};
  for (int32_t r = 0; r < CASE_FILES; ++r) {
    wanted[count++] = (zero1__wanted){WIDE, ZERO1_STATE_RESIDUAL, r, begin, end, 0};
    wanted[count++] = (zero1__wanted){BIAS, ZERO1_STATE_RESIDUAL, r, 0, 1, 0};
  }
  return count;
}

static int64_t bytes_of_files(const checkpoint_case *it) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < CASE_FILES; ++i) bytes += it->manifest.index.files[i].bytes;
  return bytes;
}

static void open_reader(const checkpoint_case *it, zero1__reader *reader) {
  zero1__error error = {0};
  const zero1_status status = zero1__reader_begin(reader, it->path, &error);
  if (status) fprintf(stderr, "%s\n", error.text);
  CHECK_STATUS(status, ZERO1_OK);
}

/* ---- values ---- */

static void any_split_gives_the_values_that_were_saved(void) {
  for (int32_t dtype = ZERO1_DTYPE_FP32; dtype <= ZERO1_DTYPE_BF16; ++dtype) {
    checkpoint_case it;
    zero1__reader reader;
    zero1__wanted wanted[64];
    case_make(&it, dtype);
    open_reader(&it, &reader);
    for (int32_t world = 1; world <= 5; world += 2)
      for (int32_t rank = 0; rank < world; ++rank) {
        const int64_t count = want_part(wanted, rank, world);
        CHECK_STATUS(run(&it, &reader, wanted, count, rank % 2, NULL), ZERO1_OK);
      }
    zero1__reader_end(&reader);
    case_remove(&it);
  }
}

/* A long range, and short ones that lie in it, begin where it does, and end where it does. */
static void the_same_elements_may_be_wanted_many_times(void) {
  checkpoint_case it;
  zero1__reader reader;
  zero1__wanted wanted[64];
  case_make(&it, ZERO1_DTYPE_BF16);
  open_reader(&it, &reader);
  for (int i = 0; i < 60; ++i)
    wanted[i] =
        (zero1__wanted){WIDE, ZERO1_STATE_RESIDUAL, 1, 5000 * i, 5000 * i + 13001 * (i % 8), 0};
  wanted[60] = (zero1__wanted){WIDE, ZERO1_STATE_RESIDUAL, 1, 0, CASE_WIDE, 0};
  wanted[61] = wanted[60];
  wanted[62] = (zero1__wanted){WIDE, ZERO1_STATE_RESIDUAL, 1, CASE_WIDE - 1, CASE_WIDE, 0};
  wanted[63] = (zero1__wanted){WIDE, ZERO1_STATE_RESIDUAL, 1, 0, 1, 0};
  CHECK_STATUS(run(&it, &reader, wanted, 64, 0, NULL), ZERO1_OK);
  zero1__reader_end(&reader);
  case_remove(&it);
}

static void a_chunk_is_read_once_and_one_that_nobody_wants_never(void) {
  checkpoint_case it;
  zero1__reader reader;
  zero1__wanted wanted[64];
  char path[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  open_reader(&it, &reader);
  const int64_t count = want_part(wanted, 0, 1);
  set_pread(WHOLE);
  CHECK_STATUS(run(&it, &reader, wanted, count, 0, NULL), ZERO1_OK);
  CHECK_EQ(pread_bytes, bytes_of_files(&it));
  /* "mask" is in the first chunk of file 0: two ranges of it take that one chunk, and damage
   * elsewhere is not seen. */
  wanted[0] = (zero1__wanted){MASK, ZERO1_STATE_PARAM, 0, 0, 7, 0};
  wanted[1] = (zero1__wanted){MASK, ZERO1_STATE_PARAM, 0, 200, CASE_MASK, 0};
  case_file_path(&it, 0, path);
  case_flip(path, ZERO1__CHUNK_BYTES);
  case_file_path(&it, 1, path);
  CHECK(!unlink(path));
  set_pread(WHOLE);
  CHECK_STATUS(run(&it, &reader, wanted, 2, 1, NULL), ZERO1_OK);
  CHECK_EQ(pread_bytes, ZERO1__CHUNK_BYTES);
  set_pread(WHOLE);
  CHECK_STATUS(run(&it, &reader, wanted, 0, 0, NULL), ZERO1_OK);
  CHECK_EQ(pread_calls, 0);
  zero1__reader_end(&reader);
  case_remove(&it);
}

static void short_and_interrupted_reads_are_gone_on_with(void) {
  checkpoint_case it;
  zero1__reader reader;
  zero1__wanted wanted[64];
  case_make(&it, ZERO1_DTYPE_BF16);
  for (int kind = SHORT; kind <= INTERRUPTED; ++kind) {
    set_pread(kind);
    open_reader(&it, &reader);
    CHECK_STATUS(run(&it, &reader, wanted, want_part(wanted, 0, 1), 0, NULL), ZERO1_OK);
    CHECK_STATUS(zero1__reader_verify(&reader, 2, NULL, NULL, NULL), ZERO1_OK);
    zero1__reader_end(&reader);
  }
  set_pread(WHOLE);
  case_remove(&it);
}

/* ---- failures ---- */

/* The error is this status, and its text begins with this path. */
static void check_named(const zero1__error *error, zero1_status status, zero1_status expected,
                        const char *path) {
  const int named = !strncmp(error->text, path, strlen(path)) && error->text[strlen(path)] == ':';
  if (status != expected || !named)
    fprintf(stderr, "status %d, not %d, of %s: %s\n", status, expected, path, error->text);
  CHECK(status == expected && named && error->status == expected);
}

/* Reading all, and verifying with 1, 2 and 4 threads, all name file `file`. */
static void check_damaged(const checkpoint_case *it, int64_t file) {
  zero1__reader reader;
  zero1__wanted wanted[64];
  char path[256];
  case_file_path(it, file, path);
  open_reader(it, &reader);
  zero1__error error = {0};
  zero1_status status = run(it, &reader, wanted, want_part(wanted, 0, 1), 1, &error);
  check_named(&error, status, ZERO1_ERR_CORRUPT, path);
  for (int32_t threads = 1; threads <= 4; threads *= 2) {
    zero1__error_clear(&error);
    status = zero1__reader_verify(&reader, threads, NULL, NULL, &error);
    check_named(&error, status, ZERO1_ERR_CORRUPT, path);
  }
  zero1__reader_end(&reader);
}

static void a_byte_that_differs_is_found_wherever_it_is(void) {
  checkpoint_case it;
  char path[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  for (int64_t file = 0; file < CASE_FILES; ++file) {
    const int64_t bytes = it.manifest.index.files[file].bytes;
    const int64_t places[] = {0,
                              8,
                              ZERO1__CHUNK_BYTES - 1,
                              ZERO1__CHUNK_BYTES,
                              bytes / ZERO1__CHUNK_BYTES * ZERO1__CHUNK_BYTES,
                              bytes - 1};
    case_file_path(&it, file, path);
    for (size_t i = 0; i < sizeof places / sizeof *places; ++i) {
      case_flip(path, places[i]);
      check_damaged(&it, file);
      case_flip(path, places[i]);
    }
  }
  case_remove(&it);
}

typedef void (*damage_fn)(const char *path, const char *aside);

static void cut_a_byte(const char *path, const char *aside) {
  struct stat info;
  (void)aside;
  CHECK(!stat(path, &info) && !truncate(path, info.st_size - 1));
}

static void cut_all(const char *path, const char *aside) {
  (void)aside;
  CHECK(!truncate(path, 0));
}

static void add_a_byte(const char *path, const char *aside) {
  struct stat info;
  (void)aside;
  CHECK(!stat(path, &info) && !truncate(path, info.st_size + 1));
}

static void take_away(const char *path, const char *aside) {
  CHECK(!rename(path, aside));
}

static void make_folder(const char *path, const char *aside) {
  CHECK(!rename(path, aside) && !mkdir(path, 0777));
}

/* Even one to the right bytes. */
static void make_link(const char *path, const char *aside) {
  CHECK(!rename(path, aside) && !symlink(aside, path));
}

static void make_fifo(const char *path, const char *aside) {
  CHECK(!rename(path, aside) && !mkfifo(path, 0666));
}

static void make_link_to_itself(const char *path, const char *aside) {
  CHECK(!rename(path, aside) && !symlink(path, path));
}

static const damage_fn damages[] = {cut_a_byte,  cut_all,   add_a_byte, take_away,
                                    make_folder, make_link, make_fifo,  make_link_to_itself};
enum { DAMAGES = sizeof damages / sizeof *damages };

static void a_file_that_is_not_what_was_written_is_named(void) {
  for (int i = 0; i < DAMAGES; ++i) {
    checkpoint_case it;
    char path[256], aside[256];
    case_make(&it, ZERO1_DTYPE_BF16);
    case_file_path(&it, i % CASE_FILES, path);
    case_path(&it, "aside", aside);
    damages[i](path, aside);
    check_damaged(&it, i % CASE_FILES);
    case_remove(&it);
  }
}

static void two_files_that_changed_places_are_found(void) {
  checkpoint_case it;
  char first[256], second[256], aside[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  case_file_path(&it, 1, first);
  case_file_path(&it, 2, second);
  case_path(&it, "aside", aside);
  CHECK(!rename(first, aside) && !rename(second, first) && !rename(aside, second));
  check_damaged(&it, 1);
  case_remove(&it);
}

/* Opens what cannot be opened. */
static void check_refused(const char *folder, zero1_status expected, const char *path) {
  zero1__reader reader;
  zero1__error error = {0};
  const zero1_status status = zero1__reader_begin(&reader, folder, &error);
  check_named(&error, status, expected, path);
  zero1__reader_end(&reader);
}

static void a_manifest_that_is_not_what_was_written_is_named(void) {
  for (int i = 0; i <= DAMAGES; ++i) {
    checkpoint_case it;
    char path[256], aside[256];
    case_make(&it, ZERO1_DTYPE_BF16);
    case_path(&it, ZERO1__MANIFEST_NAME, path);
    case_path(&it, "aside", aside);
    if (i < DAMAGES)
      damages[i](path, aside);
    else
      case_flip(path, 1000);
    check_refused(it.path, ZERO1_ERR_CORRUPT, path);
    case_remove(&it);
  }
}

static void a_manifest_of_more_than_4_gib_is_not_read(void) {
  checkpoint_case it;
  char path[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  case_path(&it, ZERO1__MANIFEST_NAME, path);
  if (truncate(path, ((off_t)4 << 30) + 1)) SKIP("no file of 4 GiB can be made");
  set_pread(WHOLE);
  check_refused(it.path, ZERO1_ERR_CORRUPT, path);
  CHECK_EQ(pread_calls, 0);
  case_remove(&it);
}

static void a_folder_that_is_not_there_is_not_found(void) {
  checkpoint_case it;
  char path[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  case_path(&it, "nothing", path);
  check_refused(path, ZERO1_ERR_NOT_FOUND, path);
  case_path(&it, ZERO1__MANIFEST_NAME, path); /* a file */
  check_refused(path, ZERO1_ERR_NOT_FOUND, path);
  case_path(&it, ZERO1__MANIFEST_NAME "/nothing", path);
  check_refused(path, ZERO1_ERR_NOT_FOUND, path);
  case_remove(&it);
}

static void a_read_that_fails_is_told_with_its_reason(void) {
  checkpoint_case it;
  zero1__reader reader;
  zero1__wanted wanted[64];
  zero1__error error = {0};
  char path[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  case_file_path(&it, 1, path); /* file 0 takes three calls; five, with its header */
  open_reader(&it, &reader);
  CHECK_EQ(zero1__chunk_count(it.manifest.index.files[0].bytes), 3);
  set_pread(BROKEN);
  zero1_status status = run(&it, &reader, wanted, want_part(wanted, 0, 1), 0, &error);
  check_named(&error, status, ZERO1_ERR_IO, path);
  CHECK(strstr(error.text, strerror(EIO)) != NULL);
  set_pread(BROKEN); /* verifying reads a length and a header, too */
  zero1__error_clear(&error);
  case_file_path(&it, 1, path);
  status = zero1__reader_verify(&reader, 1, NULL, NULL, &error);
  check_named(&error, status, ZERO1_ERR_IO, path);
  set_pread(WHOLE);
  zero1__reader_end(&reader);
  case_remove(&it);
}

static void a_sink_that_fails_ends_the_run(void) {
  checkpoint_case it;
  zero1__reader reader;
  zero1__wanted wanted = {WIDE, ZERO1_STATE_RESIDUAL, 0, 0, CASE_WIDE, 0};
  zero1__error error = {0};
  case_make(&it, ZERO1_DTYPE_BF16);
  open_reader(&it, &reader);
  sunk to = {.it = &it, .stop_at = 1};
  CHECK_STATUS(zero1__reader_run(&reader, &wanted, 1, 0, sink, &to, &error), ZERO1_ERR_STATE);
  CHECK(!strcmp(error.text, "enough") && to.pieces == 1);
  zero1__reader_end(&reader);
  case_remove(&it);
}

static void what_is_not_saved_cannot_be_wanted(void) {
  static const zero1__wanted wrong[] = {
      {-1, ZERO1_STATE_PARAM, 0, 0, 0, 0},
      {4, ZERO1_STATE_PARAM, 0, 0, 0, 0},
      {WIDE, ZERO1_STATE_EXP_AVG, 0, -1, 1, 0},
      {WIDE, ZERO1_STATE_EXP_AVG, 0, 0, CASE_WIDE + 1, 0},
      {WIDE, ZERO1_STATE_EXP_AVG, 0, 2, 1, 0},
      {WIDE, ZERO1_STATE_PARAM, 0, 0, 1, 0}, /* of frozen ones alone */
      {WIDE, 9, 0, 0, 1, 0},
      {MASK, ZERO1_STATE_EXP_AVG, 0, 0, 1, 0},
      {WIDE, ZERO1_STATE_RESIDUAL, CASE_FILES, 0, 1, 0},
      {WIDE, ZERO1_STATE_RESIDUAL, -1, 0, 1, 0}};
  checkpoint_case it;
  zero1__reader reader;
  case_make(&it, ZERO1_DTYPE_BF16);
  open_reader(&it, &reader);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
    sunk to = {.it = &it};
    zero1__error error = {0};
    const zero1_status status = zero1__reader_run(&reader, &wrong[i], 1, 0, sink, &to, &error);
    check_named(&error, status, ZERO1_ERR_INVALID, it.path);
    CHECK_EQ(to.pieces, 0);
  }
  zero1__reader_end(&reader);
  case_remove(&it);
}

int main(void) {
  RUN(any_split_gives_the_values_that_were_saved);
  RUN(the_same_elements_may_be_wanted_many_times);
  RUN(a_chunk_is_read_once_and_one_that_nobody_wants_never);
  RUN(short_and_interrupted_reads_are_gone_on_with);
  RUN(a_byte_that_differs_is_found_wherever_it_is);
  RUN(a_file_that_is_not_what_was_written_is_named);
  RUN(two_files_that_changed_places_are_found);
  RUN(a_manifest_that_is_not_what_was_written_is_named);
  RUN(a_folder_that_is_not_there_is_not_found);
  RUN(a_read_that_fails_is_told_with_its_reason);
  RUN(a_sink_that_fails_ends_the_run);
  RUN(what_is_not_saved_cannot_be_wanted);
  RUN(a_manifest_of_more_than_4_gib_is_not_read);
  return check_summary();
}
