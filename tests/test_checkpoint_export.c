// sanitizers: address undefined
/* States of a checkpoint as safetensors files: the same bytes as zero1_checkpoint_read gives. */
#include <jansson.h>

#include "check.h"
#include "checkpoint_case.h"
#include "zero1/checkpoint.h"

typedef struct scene {
  checkpoint_case of;
  zero1_checkpoint *checkpoint;
  zero1_export_options options;
  char out[256]; /* a folder beside the checkpoint; not made */
} scene;

static void scene_begin(scene *it, int32_t param_dtype) {
  case_make(&it->of, param_dtype);
  CHECK_STATUS(zero1_checkpoint_open(it->of.path, &it->checkpoint, NULL, 0), ZERO1_OK);
  CHECK_STATUS(zero1_export_options_init(&it->options, sizeof it->options), ZERO1_OK);
  snprintf(it->out, sizeof it->out, "%s/out", it->of.root);
}

static void scene_end(scene *it) {
  zero1_checkpoint_close(&it->checkpoint);
  case_remove(&it->of);
}

static zero1_status export_it(scene *it, int64_t *file_count, uint64_t *bytes) {
  const zero1_status status =
      zero1_checkpoint_export(it->checkpoint, it->out, &it->options, NULL, NULL, file_count, bytes);
  if (status == ZERO1_ERR_IO) fprintf(stderr, "%s\n", zero1_checkpoint_last_error(it->checkpoint));
  return status;
}

static void refused(scene *it, zero1_status status, const char *part) {
  CHECK_STATUS(export_it(it, NULL, NULL), status);
  const char *const text = zero1_checkpoint_last_error(it->checkpoint);
  if (!strstr(text, part)) fprintf(stderr, "'%s' lacks '%s'\n", text, part);
  CHECK(strstr(text, part) != NULL);
  CHECK(!folder_has(it->of.root, "out"));
}

/* ---- reading what was written ---- */

typedef struct exported {
  char *data; /* of the whole file; owned */
  size_t bytes;
  json_t *header; /* owned */
} exported;

static void exported_begin(exported *file, const scene *it, const char *name) {
  char path[512];
  zero1__error error = {0};
  snprintf(path, sizeof path, "%s/%s", it->out, name);
  CHECK_STATUS(zero1__load_file(path, &file->data, &file->bytes, &error), ZERO1_OK);
  file->header = json_loadb(file->data + ZERO1__HEADER_LENGTH_BYTES,
                            (size_t)zero1__header_length(file->data), 0, NULL);
  CHECK(file->header != NULL);
}

static void exported_end(exported *file) {
  json_decref(file->header);
  free(file->data);
}

/* Whether a tensor's bytes in a file are those that are read of the state. */
static void check_tensor(const exported *file, const scene *it, int64_t param, int32_t dtype) {
  const zero1__registry *const params = &it->of.manifest.params;
  const json_t *const entry = json_object_get(file->header, params->names[param]);
  const json_t *const offsets = json_object_get(entry, "data_offsets");
  const json_t *const shape = json_object_get(entry, "shape");
  CHECK(entry && json_array_size(shape) == (size_t)params->ndim[param]);
  for (int32_t i = 0; i < params->ndim[param]; ++i)
    CHECK(json_integer_value(json_array_get(shape, (size_t)i)) == params->shapes[param][i]);
  CHECK(!strcmp(json_string_value(json_object_get(entry, "dtype")), zero1__dtype_name(dtype)));
  const size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0)),
               end = (size_t)json_integer_value(json_array_get(offsets, 1)),
               bytes = (size_t)params->numel[param] * zero1__dtype_bytes(dtype),
               data = ZERO1__HEADER_LENGTH_BYTES + (size_t)zero1__header_length(file->data);
  CHECK(end - begin == bytes && data + end <= file->bytes);
  char *const read = malloc(bytes + 1);
  CHECK(read != NULL);
  CHECK_STATUS(zero1_checkpoint_read(it->checkpoint, param, it->options.state, it->options.rank, 0,
                                     params->numel[param], dtype, read),
               ZERO1_OK);
  CHECK(!memcmp(read, file->data + data + begin, bytes));
  free(read);
}

/* ---- tests ---- */

static void every_state_is_written_as_it_is_read(void) {
  static const char *const names[] = {"model.safetensors", "model.safetensors",
                                      "exp_avg.safetensors", "exp_avg_sq.safetensors",
                                      "residual-rank-00002.safetensors"};
  for (int32_t param_dtype = ZERO1_DTYPE_FP32; param_dtype <= ZERO1_DTYPE_BF16; ++param_dtype) {
    scene it;
    scene_begin(&it, param_dtype);
    for (int32_t state = ZERO1_STATE_PARAM; state <= ZERO1_STATE_RESIDUAL; ++state) {
      const int32_t dtype = state == ZERO1_STATE_PARAM ? param_dtype : ZERO1_DTYPE_FP32;
      const int has_mask = state <= ZERO1_STATE_MASTER_PARAM;
      const int64_t numel = CASE_WIDE + 1 + (has_mask ? CASE_MASK : 0);
      int64_t file_count = -1;
      uint64_t bytes = 0;
      exported file;
      it.options.state = state;
      it.options.rank = 2;
      it.options.force = state == ZERO1_STATE_MASTER_PARAM; /* there is a model already */
      CHECK_STATUS(export_it(&it, &file_count, &bytes), ZERO1_OK);
      CHECK_EQ(file_count, 1);
      CHECK_EQ(bytes, numel * (int64_t)zero1__dtype_bytes(dtype));
      exported_begin(&file, &it, names[state]);
      CHECK_EQ(json_object_size(file.header), has_mask ? 5 : 4); /* the metadata, too */
      for (int64_t param = WIDE; param <= BIAS; ++param)
        if (param != MASK || has_mask) check_tensor(&file, &it, param, dtype);
      const json_t *const metadata = json_object_get(file.header, ZERO1__HEADER_METADATA);
      const char *const said = json_string_value(json_object_get(metadata, "state"));
      CHECK(has_mask ? !said : said && !strcmp(said, zero1__state_name(state)));
      exported_end(&file);
    }
    CHECK_EQ(folder_count(it.out), 4); /* side by side */
    scene_end(&it);
  }
}

static void a_state_is_replaced_alone(void) {
  scene it;
  int64_t file_count;
  scene_begin(&it, ZERO1_DTYPE_FP32);
  CHECK_STATUS(export_it(&it, NULL, NULL), ZERO1_OK);
  it.options.state = ZERO1_STATE_EXP_AVG;
  it.options.max_bytes = 8;
  CHECK_STATUS(export_it(&it, &file_count, NULL), ZERO1_OK);
  CHECK_EQ(file_count, 2); /* {wide, none}, {bias} */
  CHECK_EQ(folder_count(it.out), 4);
  CHECK(folder_has(it.out, "exp_avg-00001-of-00002.safetensors"));
  CHECK(folder_has(it.out, "exp_avg.safetensors.index.json"));
  CHECK_STATUS(export_it(&it, NULL, NULL), ZERO1_ERR_IO);
  it.options.force = 1;
  it.options.max_bytes = 0;
  CHECK_STATUS(export_it(&it, &file_count, NULL), ZERO1_OK);
  CHECK_EQ(file_count, 1);
  CHECK_EQ(folder_count(it.out), 2);
  CHECK(folder_has(it.out, "exp_avg.safetensors") && folder_has(it.out, "model.safetensors"));
  scene_end(&it);
}

static void what_cannot_be_exported_is_refused_and_leaves_nothing(void) {
  scene it;
  scene_begin(&it, ZERO1_DTYPE_BF16);
  it.options.state = 5;
  refused(&it, ZERO1_ERR_INVALID, "there is no state 5");
  it.options.state = -1;
  refused(&it, ZERO1_ERR_INVALID, "there is no state -1");
  it.options.state = ZERO1_STATE_RESIDUAL;
  it.options.rank = CASE_FILES;
  refused(&it, ZERO1_ERR_INVALID, "rank 3 of 3");
  it.options.state = ZERO1_STATE_PARAM;
  it.options.dtype = 2;
  refused(&it, ZERO1_ERR_INVALID, "there is no dtype 2");
  it.options.dtype = -1;
  it.options.max_bytes = -1;
  refused(&it, ZERO1_ERR_INVALID, "max_bytes is -1");
  it.options.max_bytes = 0;
  it.options.size += 1;
  refused(&it, ZERO1_ERR_VERSION, "zero1_export_options");
  CHECK_STATUS(zero1_checkpoint_export(it.checkpoint, NULL, NULL, NULL, NULL, NULL, NULL),
               ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_export(it.checkpoint, "", NULL, NULL, NULL, NULL, NULL),
               ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_export(NULL, it.out, NULL, NULL, NULL, NULL, NULL),
               ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_export_options_init(NULL, sizeof it.options), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_export_options_init(&it.options, 4), ZERO1_ERR_VERSION);
  scene_end(&it);
}

typedef struct told {
  uint64_t bytes, total_bytes;
  int32_t stops;
} told;

static int32_t tell(void *context, uint64_t bytes, uint64_t total_bytes) {
  told *const self = context;
  CHECK(bytes >= self->bytes && bytes <= total_bytes);
  self->bytes = bytes;
  self->total_bytes = total_bytes;
  return self->stops;
}

static void progress_is_told_to_the_end_and_stops_it(void) {
  scene it;
  told seen = {.stops = 1};
  uint64_t bytes;
  scene_begin(&it, ZERO1_DTYPE_FP32);
  CHECK_STATUS(zero1_checkpoint_export(it.checkpoint, it.out, NULL, tell, &seen, NULL, NULL),
               ZERO1_ERR_ABORTED);
  CHECK(strstr(zero1_checkpoint_last_error(it.checkpoint), "stopped by the caller"));
  CHECK(!folder_has(it.of.root, "out"));
  seen = (told){0};
  CHECK_STATUS(zero1_checkpoint_export(it.checkpoint, it.out, NULL, tell, &seen, NULL, &bytes),
               ZERO1_OK);
  CHECK(seen.bytes == bytes && seen.total_bytes == bytes && bytes > 0);
  scene_end(&it);
}

int main(void) {
  RUN(every_state_is_written_as_it_is_read);
  RUN(a_state_is_replaced_alone);
  RUN(what_cannot_be_exported_is_refused_and_leaves_nothing);
  RUN(progress_is_told_to_the_end_and_stops_it);
  return check_summary();
}
