#include "checkpoint_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint_folder.h"
#include "chunk_reader.h"

#define MANIFEST_MAX ((int64_t)4 << 30)

static zero1_status check_folder(const char *path, zero1__error *error) {
  struct stat info;
  if (stat(path, &info)) {
    if (errno != ENOENT && errno != ENOTDIR) return zero1__fail_io(error, path, "opening", errno);
    return zero1__fail_at(error, ZERO1_ERR_NOT_FOUND, path, "there is no such folder");
  }
  if (S_ISDIR(info.st_mode)) return ZERO1_OK;
  return zero1__fail_at(error, ZERO1_ERR_NOT_FOUND, path, "it is no folder");
}

static zero1_status read_manifest(zero1__reader *reader, const zero1__chunk_reader *file,
                                  zero1__error *error) {
  if (file->bytes > MANIFEST_MAX)
    return zero1__fail_at(error, ZERO1_ERR_CORRUPT, file->path, "it has %lld bytes: too many",
                          (long long)file->bytes);
  char *const text = malloc((size_t)file->bytes + 1);
  if (!text)
    return zero1__fail_at(error, ZERO1_ERR_MEMORY, file->path, "no memory for its %lld bytes",
                          (long long)file->bytes);
  text[file->bytes] = 0;
  zero1_status status = zero1__chunk_reader_read(file, 0, file->bytes, text, error);
  if (!status)
    status = zero1__manifest_read(file->path, text, (size_t)file->bytes, &reader->manifest, error);
  free(text);
  reader->manifest_bytes = file->bytes;
  return status;
}

static int32_t has_residual(const zero1__index *index) {
  for (int64_t i = 0; i < index->range_count; ++i)
    if (index->ranges[i].state == ZERO1_STATE_RESIDUAL) return 1;
  return 0;
}

zero1_status zero1__reader_begin(zero1__reader *reader, const char *path, zero1__error *error) {
  zero1__chunk_reader file = {0};
  memset(reader, 0, sizeof *reader);
  zero1_status status = check_folder(path, error);
  if (status) return status;
  reader->path = strdup(path);
  if (!reader->path) return zero1__fail_at(error, ZERO1_ERR_MEMORY, path, "no memory for its path");
  status = zero1__chunk_reader_begin(&file, path, ZERO1__MANIFEST_NAME, -1, error);
  if (!status) status = read_manifest(reader, &file, error);
  zero1__chunk_reader_end(&file);
  if (status) return status;
  reader->has_residual = has_residual(&reader->manifest.index);
  reader->order = zero1__index_by_state(&reader->manifest.index, error);
  return reader->order ? ZERO1_OK : ZERO1_ERR_MEMORY;
}

void zero1__reader_end(zero1__reader *reader) {
  zero1__manifest_end(&reader->manifest);
  free(reader->order);
  free(reader->path);
  memset(reader, 0, sizeof *reader);
}
