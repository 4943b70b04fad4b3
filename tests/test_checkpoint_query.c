// sanitizers: address undefined thread
/* A checkpoint without an optimizer: what it says of itself, its values in any data type, and
 * verifying it. */
#include "check.h"
#include "checkpoint_case.h"
#include "zero1/checkpoint.h"

static zero1_checkpoint *open_case(const checkpoint_case *it) {
  zero1_checkpoint *checkpoint;
  char text[400];
  const zero1_status status = zero1_checkpoint_open(it->path, &checkpoint, text, sizeof text);
  if (status) fprintf(stderr, "%s\n", text);
  CHECK(status == ZERO1_OK && checkpoint && !text[0]);
  return checkpoint;
}

static void check_error(const zero1_checkpoint *checkpoint, const char *part) {
  const char *const text = zero1_checkpoint_last_error(checkpoint);
  if (!strstr(text, part)) fprintf(stderr, "'%s' lacks '%s'\n", text, part);
  CHECK(strstr(text, part) != NULL);
}

/* ---- opening ---- */

static void a_root_opens_as_its_latest_checkpoint(void) {
  checkpoint_case it;
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  char path[256], text[400];
  case_make(&it, ZERO1_DTYPE_BF16);
  CHECK_STATUS(zero1_checkpoint_latest(it.root, path, sizeof path, text, sizeof text), ZERO1_OK);
  CHECK(!strcmp(path, it.path) && !text[0]);
  CHECK_STATUS(zero1_checkpoint_latest(it.root, path, strlen(it.path), text, sizeof text),
               ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_open(it.root, &checkpoint, NULL, 0), ZERO1_OK);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, sizeof info), ZERO1_OK);
  CHECK(!strcmp(info.path, it.path));
  zero1_checkpoint_close(&checkpoint);
  CHECK(checkpoint == NULL);
  zero1_checkpoint_close(&checkpoint);
  zero1_checkpoint_close(NULL);
  case_remove(&it);
}

static void what_cannot_be_opened_is_told(void) {
  zero1_checkpoint *checkpoint = (zero1_checkpoint *)1;
  checkpoint_case it;
  char path[256], text[400], latest[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  case_path(&it, "nothing", path);
  CHECK_STATUS(zero1_checkpoint_open(path, &checkpoint, text, sizeof text), ZERO1_ERR_NOT_FOUND);
  CHECK(!checkpoint && !strncmp(text, path, strlen(path)));
  CHECK_STATUS(zero1_checkpoint_open(NULL, &checkpoint, text, sizeof text), ZERO1_ERR_INVALID);
  CHECK(!strcmp(text, "dir is NULL"));
  CHECK_STATUS(zero1_checkpoint_open(it.path, NULL, text, 4), ZERO1_ERR_INVALID);
  CHECK(!strcmp(text, "che"));
  CHECK_STATUS(zero1_checkpoint_latest(path, latest, sizeof latest, text, sizeof text),
               ZERO1_ERR_NOT_FOUND);
  CHECK_STATUS(zero1_checkpoint_latest(NULL, latest, sizeof latest, text, sizeof text),
               ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_latest(it.root, NULL, 10, NULL, 0), ZERO1_ERR_INVALID);
  case_path(&it, ZERO1__MANIFEST_NAME, path);
  case_flip(path, 500);
  CHECK_STATUS(zero1_checkpoint_open(it.path, &checkpoint, text, sizeof text), ZERO1_ERR_CORRUPT);
  CHECK(!checkpoint && !strncmp(text, path, strlen(path)));
  case_remove(&it);
}

/* ---- what it says of itself ---- */

static void info_says_what_the_manifest_does(void) {
  checkpoint_case it;
  zero1_checkpoint_info info;
  struct stat manifest;
  char path[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *checkpoint = open_case(&it);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, sizeof info), ZERO1_OK);
  CHECK(info.size == sizeof info && !strcmp(info.path, it.path));
  CHECK(info.count == 120 && info.attempts == 121 && info.world_size == CASE_FILES);
  CHECK(info.param_dtype == ZERO1_DTYPE_BF16 && info.format_version == ZERO1__MANIFEST_VERSION);
  CHECK(info.has_residual == 1 && info.param_count == 4 && info.group_count == 2);
  CHECK(info.file_count == CASE_FILES && info.metadata_count == 2);
  CHECK(info.grad_scale == 0.25 && info.max_grad_norm == 1.5 && info.skip_grad_norm == 0);
  case_path(&it, ZERO1__MANIFEST_NAME, path);
  CHECK(!stat(path, &manifest));
  uint64_t bytes = (uint64_t)manifest.st_size;
  for (int64_t i = 0; i < CASE_FILES; ++i) {
    const char *name;
    uint64_t of_file;
    CHECK_STATUS(zero1_checkpoint_file(checkpoint, i, &name, &of_file), ZERO1_OK);
    CHECK(!strcmp(name, it.manifest.index.files[i].name));
    CHECK_EQ(of_file, it.manifest.index.files[i].bytes);
    bytes += of_file;
  }
  CHECK_EQ(info.bytes, bytes);
  zero1_checkpoint_close(&checkpoint);
  case_remove(&it);
}

static void an_older_callers_struct_gets_what_it_has_room_for(void) {
  checkpoint_case it;
  zero1_checkpoint_info info;
  zero1_group group;
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *checkpoint = open_case(&it);
  memset(&info, 0xff, sizeof info);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, 24), ZERO1_OK);
  CHECK(info.size == 24 && info.count == 120 && info.attempts == -1);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, sizeof info + 1), ZERO1_ERR_VERSION);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, 4), ZERO1_ERR_VERSION);
  check_error(checkpoint, "info is given, with 4 bytes");
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, NULL, sizeof info), ZERO1_ERR_INVALID);
  check_error(checkpoint, "info is NULL");
  CHECK_STATUS(zero1_checkpoint_group(checkpoint, 1, &group, 16), ZERO1_OK);
  CHECK(group.size == 16 && group.lr == 0.125);
  CHECK_STATUS(zero1_checkpoint_group(checkpoint, 1, &group, sizeof group + 1), ZERO1_ERR_VERSION);
  CHECK_STATUS(zero1_checkpoint_group(checkpoint, 1, NULL, sizeof group), ZERO1_ERR_INVALID);
  zero1_checkpoint_close(&checkpoint);
  case_remove(&it);
}

static void parameters_and_pairs_are_those_that_were_saved(void) {
  checkpoint_case it;
  zero1_param_spec spec;
  zero1_pair pair;
  int64_t index;
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *checkpoint = open_case(&it);
  CHECK_STATUS(zero1_checkpoint_param(checkpoint, WIDE, &spec, sizeof spec), ZERO1_OK);
  CHECK(!strcmp(spec.name, "wide") && spec.ndim == 2 && spec.group == 0 && spec.flags == 0);
  CHECK(spec.shape[0] == 400 && spec.shape[1] == 1000);
  CHECK_STATUS(zero1_checkpoint_param(checkpoint, BIAS, &spec, sizeof spec), ZERO1_OK);
  CHECK(!strcmp(spec.name, "bias") && spec.ndim == 0 && !spec.shape && spec.group == 1);
  CHECK_STATUS(zero1_checkpoint_param(checkpoint, MASK, &spec, sizeof spec), ZERO1_OK);
  CHECK_EQ(spec.flags, ZERO1_PARAM_FROZEN);
  CHECK_STATUS(zero1_checkpoint_find(checkpoint, "none", &index), ZERO1_OK);
  CHECK_EQ(index, NONE);
  CHECK_STATUS(zero1_checkpoint_metadata(checkpoint, -1, 0, &pair), ZERO1_OK);
  CHECK(!strcmp(pair.key, "data") && !strcmp(pair.value, "17"));
  CHECK_STATUS(zero1_checkpoint_metadata(checkpoint, 2, 0, &pair), ZERO1_OK);
  CHECK(!strcmp(pair.key, "seed") && !strcmp(pair.value, "1 2 3"));
  CHECK(!strcmp(zero1_checkpoint_value(checkpoint, -1, "note"), ""));
  CHECK(!strcmp(zero1_checkpoint_value(checkpoint, 2, "seed"), "1 2 3"));
  CHECK(!zero1_checkpoint_value(checkpoint, 1, "seed"));
  CHECK(!zero1_checkpoint_value(checkpoint, 3, "seed"));
  CHECK(!zero1_checkpoint_value(checkpoint, -1, NULL));
  CHECK(!zero1_checkpoint_value(NULL, -1, "data"));
  zero1_checkpoint_close(&checkpoint);
  case_remove(&it);
}

static void what_is_not_there_is_refused(void) {
  checkpoint_case it;
  zero1_param_spec spec;
  zero1_group group;
  zero1_pair pair;
  const char *name = "";
  uint64_t bytes;
  int64_t index = 7;
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *c = open_case(&it);
  CHECK(!strcmp(zero1_checkpoint_last_error(c), ""));
  CHECK_STATUS(zero1_checkpoint_param(c, 4, &spec, sizeof spec), ZERO1_ERR_INVALID);
  check_error(c, "there is no parameter 4: it has 4");
  CHECK_STATUS(zero1_checkpoint_param(c, -1, &spec, sizeof spec), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_param(c, 0, NULL, sizeof spec), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_param(c, 0, &spec, sizeof spec - 8), ZERO1_ERR_VERSION);
  CHECK_STATUS(zero1_checkpoint_find(c, "wid", &index), ZERO1_ERR_INVALID);
  CHECK_EQ(index, -1);
  check_error(c, "there is no parameter 'wid'");
  CHECK_STATUS(zero1_checkpoint_find(c, NULL, &index), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_find(c, "wide", NULL), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_group(c, 2, &group, sizeof group), ZERO1_ERR_INVALID);
  check_error(c, "there is no group 2: it has 2");
  CHECK_STATUS(zero1_checkpoint_metadata(c, -1, 2, &pair), ZERO1_ERR_INVALID);
  check_error(c, "there is no pair 2: it has 2");
  CHECK_STATUS(zero1_checkpoint_metadata(c, 3, 0, &pair), ZERO1_ERR_INVALID);
  check_error(c, "there is no rank 3: it has 3");
  CHECK_STATUS(zero1_checkpoint_metadata(c, -2, 0, &pair), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_metadata(c, -1, 0, NULL), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_file(c, 3, &name, &bytes), ZERO1_ERR_INVALID);
  CHECK(name == NULL);
  CHECK_STATUS(zero1_checkpoint_file(c, 0, NULL, &bytes), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_file(c, 0, &name, NULL), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_get_info(NULL, NULL, 0), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_find(NULL, "wide", &index), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_verify(NULL, 1, NULL, NULL), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_read(NULL, 0, 0, 0, 0, 0, 0, NULL), ZERO1_ERR_INVALID);
  CHECK(zero1_checkpoint_last_error(NULL) != NULL);
  zero1_checkpoint_close(&c);
  case_remove(&it);
}

/* ---- values ---- */

/* What element i of a state is, by the rules: bits in `dtype`. */
static uint32_t expected_bits(int32_t param_dtype, int64_t param, int32_t state, int32_t rank,
                              int64_t i, int32_t dtype) {
  const int frozen = param == MASK;
  float value;
  if (frozen && param_dtype == ZERO1_DTYPE_BF16) {
    if (dtype == ZERO1_DTYPE_BF16) return case_half(i); /* NaNs too, as they are */
    return zero1__bits(zero1__bf16_to_fp32(case_half(i)));
  }
  const int32_t saved = frozen                       ? ZERO1_STATE_PARAM
                        : state == ZERO1_STATE_PARAM ? ZERO1_STATE_MASTER_PARAM
                                                     : state;
  const uint32_t bits = case_bits(param, saved, state == ZERO1_STATE_RESIDUAL ? rank : 0, i);
  value = zero1__from_bits(bits);
  if (dtype == ZERO1_DTYPE_BF16) return zero1__fp32_to_bf16(value);
  if (!frozen && state == ZERO1_STATE_PARAM && param_dtype == ZERO1_DTYPE_BF16)
    return zero1__bits(zero1__round_to_bf16(value));
  return bits;
}

static void check_read(zero1_checkpoint *checkpoint, int32_t param_dtype, int64_t param,
                       int32_t state, int32_t rank, int64_t begin, int64_t end) {
  for (int32_t dtype = ZERO1_DTYPE_FP32; dtype <= ZERO1_DTYPE_BF16; ++dtype) {
    const size_t each = dtype == ZERO1_DTYPE_BF16 ? 2 : 4, bytes = (size_t)(end - begin) * each;
    unsigned char *const out = malloc(bytes + 4);
    CHECK(out != NULL);
    memset(out + bytes, 0x5a, 4);
    CHECK_STATUS(zero1_checkpoint_read(checkpoint, param, state, rank, begin, end, dtype,
                                       bytes ? out : NULL),
                 ZERO1_OK);
    for (int64_t i = begin; i < end; ++i) {
      uint32_t bits = 0;
      memcpy(&bits, out + (size_t)(i - begin) * each, each); /* little endian */
      CHECK_EQ(bits, expected_bits(param_dtype, param, state, rank, i, dtype));
    }
    for (int i = 0; i < 4; ++i) CHECK(out[bytes + (size_t)i] == 0x5a);
    free(out);
  }
}

static void a_state_is_read_in_either_data_type(void) {
  for (int32_t param_dtype = ZERO1_DTYPE_FP32; param_dtype <= ZERO1_DTYPE_BF16; ++param_dtype) {
    checkpoint_case it;
    case_make(&it, param_dtype);
    zero1_checkpoint *c = open_case(&it);
    for (int32_t state = ZERO1_STATE_PARAM; state <= ZERO1_STATE_RESIDUAL; ++state) {
      check_read(c, param_dtype, WIDE, state, 1, 0, CASE_WIDE);
      check_read(c, param_dtype, WIDE, state, 2, 99998, 260003);
      check_read(c, param_dtype, WIDE, state, 0, 262143 - 80, 262145);
      check_read(c, param_dtype, WIDE, state, 0, 999, 1000);
      check_read(c, param_dtype, WIDE, state, 0, 5, 5);
      check_read(c, param_dtype, BIAS, state, 1, 0, 1);
      check_read(c, param_dtype, NONE, state, 1, 0, 0);
    }
    check_read(c, param_dtype, MASK, ZERO1_STATE_PARAM, 0, 0, CASE_MASK);
    check_read(c, param_dtype, MASK, ZERO1_STATE_MASTER_PARAM, 0, 1, CASE_MASK);
    zero1_checkpoint_close(&c);
    case_remove(&it);
  }
}

static void reading_what_is_not_there_is_refused(void) {
  checkpoint_case it;
  float out[4];
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *c = open_case(&it);
  CHECK_STATUS(zero1_checkpoint_read(c, MASK, ZERO1_STATE_EXP_AVG, 0, 0, 1, 0, out),
               ZERO1_ERR_INVALID);
  check_error(c, "parameter 'mask' is frozen, and has no exp_avg");
  CHECK_STATUS(zero1_checkpoint_read(c, MASK, ZERO1_STATE_RESIDUAL, 0, 0, 1, 0, out),
               ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_read(c, 4, ZERO1_STATE_PARAM, 0, 0, 1, 0, out), ZERO1_ERR_INVALID);
  check_error(c, "there is no parameter 4");
  CHECK_STATUS(zero1_checkpoint_read(c, WIDE, 5, 0, 0, 1, 0, out), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_read(c, WIDE, -1, 0, 0, 1, 0, out), ZERO1_ERR_INVALID);
  check_error(c, "there is no state -1");
  CHECK_STATUS(zero1_checkpoint_read(c, WIDE, 0, 0, 0, 1, 2, out), ZERO1_ERR_INVALID);
  check_error(c, "there is no dtype 2");
  CHECK_STATUS(zero1_checkpoint_read(c, WIDE, 0, 0, 0, 1, 0, NULL), ZERO1_ERR_INVALID);
  check_error(c, "out is NULL");
  CHECK_STATUS(zero1_checkpoint_read(c, BIAS, 0, 0, 0, 2, 0, out), ZERO1_ERR_INVALID);
  check_error(c, "elements [0, 2) of parameter 'bias', which has 1");
  CHECK_STATUS(zero1_checkpoint_read(c, BIAS, 0, 0, 1, 0, 0, out), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_read(c, WIDE, ZERO1_STATE_RESIDUAL, 3, 0, 1, 0, out),
               ZERO1_ERR_INVALID);
  check_error(c, "rank 3 of 3");
  zero1_checkpoint_close(&c);
  case_remove(&it);
}

/* ---- several threads, one handle ---- */

typedef struct reading {
  zero1_checkpoint *checkpoint;
  pthread_t thread;
  int index;
} reading;

/* Half of them read what is damaged. */
static void *read_often(void *argument) {
  const reading *const self = argument;
  float *const out = malloc(CASE_WIDE * sizeof *out);
  CHECK(out != NULL);
  for (int i = 0; i < 4; ++i) {
    const zero1_status status =
        zero1_checkpoint_read(self->checkpoint, WIDE, ZERO1_STATE_RESIDUAL, self->index % 2, 0,
                              CASE_WIDE, ZERO1_DTYPE_FP32, out);
    CHECK_STATUS(status, self->index % 2 ? ZERO1_ERR_CORRUPT : ZERO1_OK);
    if (!status) CHECK_EQ(zero1__bits(out[77]), case_bits(WIDE, ZERO1_STATE_RESIDUAL, 0, 77));
  }
  free(out);
  return NULL;
}

static void several_threads_read_through_one_handle(void) {
  checkpoint_case it;
  reading readings[4];
  char path[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *checkpoint = open_case(&it);
  case_file_path(&it, 1, path);
  case_flip(path, it.manifest.index.files[1].bytes - 1);
  for (int i = 0; i < 4; ++i) {
    readings[i].checkpoint = checkpoint;
    readings[i].index = i;
    CHECK(!pthread_create(&readings[i].thread, NULL, read_often, &readings[i]));
  }
  for (int i = 0; i < 4; ++i) CHECK(!pthread_join(readings[i].thread, NULL));
  check_error(checkpoint, path);
  zero1_checkpoint_close(&checkpoint);
  case_remove(&it);
}

/* ---- verifying ---- */

typedef struct telling {
  int calls, stop_at, slow;
  uint64_t bytes, total_bytes;
} telling;

/* By one thread at a time, so nothing here is atomic. */
static int32_t tell(void *context, uint64_t bytes, uint64_t total_bytes) {
  telling *const told = context;
  CHECK(bytes >= told->bytes && bytes <= total_bytes);
  told->calls += 1;
  told->bytes = bytes;
  told->total_bytes = total_bytes;
  if (told->slow) usleep(100000);
  return told->calls == told->stop_at;
}

static void verifying_what_is_right_reads_all_of_it(void) {
  checkpoint_case it;
  char path[256];
  uint64_t bytes = 0;
  case_make(&it, ZERO1_DTYPE_BF16);
  case_path(&it, "notes.txt", path); /* somebody's own: no damage */
  case_write(path, "x", 1);
  zero1_checkpoint *c = open_case(&it);
  for (int64_t i = 0; i < CASE_FILES; ++i) bytes += (uint64_t)it.manifest.index.files[i].bytes;
  for (int32_t threads = 1; threads <= 64; threads *= 2) {
    telling told = {.slow = threads == 2};
    CHECK_STATUS(zero1_checkpoint_verify(c, threads, tell, &told), ZERO1_OK);
    CHECK(told.calls >= 2 && told.bytes == bytes && told.total_bytes == bytes);
    CHECK_STATUS(zero1_checkpoint_verify(c, threads, NULL, NULL), ZERO1_OK);
  }
  CHECK_STATUS(zero1_checkpoint_verify(c, 0, NULL, NULL), ZERO1_ERR_INVALID);
  check_error(c, "threads is 0");
  zero1_checkpoint_close(&c);
  case_remove(&it);
}

static void verifying_ends_when_progress_says_so(void) {
  checkpoint_case it;
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *c = open_case(&it);
  for (int32_t threads = 1; threads <= 4; threads *= 2)
    for (int stop_at = 1; stop_at <= 2; ++stop_at) { /* at once; at the end, or before it */
      telling told = {.stop_at = stop_at};
      CHECK_STATUS(zero1_checkpoint_verify(c, threads, tell, &told), ZERO1_ERR_ABORTED);
      CHECK_EQ(told.calls, stop_at);
    }
  zero1_checkpoint_close(&c);
  case_remove(&it);
}

/* Whichever thread is first. */
static void the_first_damaged_file_is_named(void) {
  checkpoint_case it;
  char first[256], second[256];
  case_make(&it, ZERO1_DTYPE_BF16);
  zero1_checkpoint *c = open_case(&it);
  case_file_path(&it, 1, first);
  case_file_path(&it, 2, second);
  case_flip(first, it.manifest.index.files[1].bytes - 1);
  CHECK(!unlink(second));
  for (int round = 0; round < 50; ++round)
    for (int32_t threads = 1; threads <= 4; threads *= 2) {
      CHECK_STATUS(zero1_checkpoint_verify(c, threads, NULL, NULL), ZERO1_ERR_CORRUPT);
      check_error(c, first);
    }
  zero1_checkpoint_close(&c);
  case_remove(&it);
}

/* Its checksums are right: it was written so. */
static void a_header_that_says_something_else_is_found(void) {
  for (int32_t file = 0; file < CASE_FILES; ++file) {
    checkpoint_case it;
    char path[256];
    float out;
    case_make_with(&it, ZERO1_DTYPE_BF16, file);
    zero1_checkpoint *c = open_case(&it);
    case_file_path(&it, file, path);
    for (int32_t threads = 1; threads <= 4; threads *= 2) {
      CHECK_STATUS(zero1_checkpoint_verify(c, threads, NULL, NULL), ZERO1_ERR_CORRUPT);
      check_error(c, path);
      check_error(c, "header");
    }
    CHECK_STATUS(zero1_checkpoint_read(c, BIAS, 1, 0, 0, 1, ZERO1_DTYPE_FP32, &out), ZERO1_OK);
    zero1_checkpoint_close(&c);
    case_remove(&it);
  }
}

int main(void) {
  RUN(a_root_opens_as_its_latest_checkpoint);
  RUN(what_cannot_be_opened_is_told);
  RUN(info_says_what_the_manifest_does);
  RUN(an_older_callers_struct_gets_what_it_has_room_for);
  RUN(parameters_and_pairs_are_those_that_were_saved);
  RUN(what_is_not_there_is_refused);
  RUN(a_state_is_read_in_either_data_type);
  RUN(reading_what_is_not_there_is_refused);
  RUN(several_threads_read_through_one_handle);
  RUN(verifying_what_is_right_reads_all_of_it);
  RUN(verifying_ends_when_progress_says_so);
  RUN(the_first_damaged_file_is_named);
  RUN(a_header_that_says_something_else_is_found);
  return check_summary();
}
