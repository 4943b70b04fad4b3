#include "lm_data.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lm_random.h"

/* Sets data->text and bytes; false with errno. */
static bool map_file(lm_data *data, const char *path) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  struct stat about;
  void *text = MAP_FAILED;
  if (fstat(file, &about) == 0) {
    data->bytes = about.st_size;
    if (S_ISDIR(about.st_mode)) {
      errno = EISDIR;
    } else if (about.st_size == 0) { /* nothing to map, and too short whatever the context */
      text = NULL;
    } else {
      text = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    }
  }
  const int error = errno;
  close(file);
  errno = error;
  if (text == MAP_FAILED) return false;
  data->text = text;
  return true;
}

bool lm_data_open(lm_data *data, const char *path, int64_t context, char *error,
                  size_t error_bytes) {
  *data = (lm_data){0};
  if (!map_file(data, path)) {
    snprintf(error, error_bytes, "--data: %s: %s", path, strerror(errno));
    return false;
  }
  data->train_bytes = data->bytes - data->bytes / 20;
  if (data->bytes - data->train_bytes < context + 1) {
    snprintf(error, error_bytes,
             "--data: %s has %" PRId64 " bytes; --context %" PRId64 " needs at least %" PRId64
             ", as a twentieth is held out",
             path, data->bytes, context, (context + 1) * 20);
    lm_data_close(data);
    return false;
  }
  return true;
}

void lm_data_close(lm_data *data) {
  if (data->text) munmap((void *)(uintptr_t)data->text, (size_t)data->bytes);
  *data = (lm_data){0};
}

static void copy_window(const uint8_t *text, int64_t context, uint8_t *inputs, uint8_t *targets) {
  memcpy(inputs, text, (size_t)context);
  memcpy(targets, text + 1, (size_t)context);
}

void lm_data_train_batch(const lm_data *data, const lm_draw *draw, int64_t batch, int64_t context,
                         uint8_t *inputs, uint8_t *targets) {
  const double starts = (double)(data->train_bytes - context);
  uint64_t state = lm_random_key(draw->seed, 1, (uint64_t)draw->step, (uint64_t)draw->part);
  for (int64_t i = 0; i < batch; ++i) {
    const int64_t start = (int64_t)(lm_random_uniform(&state) * starts);
    copy_window(data->text + start, context, inputs + i * context, targets + i * context);
  }
}

int64_t lm_data_val_windows(const lm_data *data, int64_t context) {
  return (data->bytes - data->train_bytes - 1) / context;
}

void lm_data_val_window(const lm_data *data, int64_t index, int64_t context, uint8_t *inputs,
                        uint8_t *targets) {
  copy_window(data->text + data->train_bytes + index * context, context, inputs, targets);
}
