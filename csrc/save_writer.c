#include "save_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

void zero1__save_writer_begin(zero1__save_writer *writer, const zero1_optimizer *optimizer,
                              const zero1__snapshot *snapshot, const char *folder, void *staging) {
  memset(writer, 0, sizeof *writer);
  writer->optimizer = optimizer;
  writer->snapshot = snapshot;
  writer->folder = folder;
  writer->walk.optimizer = optimizer;
  writer->file.descriptor = -1;
  writer->staging = staging;
}

void zero1__save_writer_end(zero1__save_writer *writer) {
  if (!writer->optimizer) return;
  zero1__chunk_file_end(&writer->file);
  zero1__index_end(&writer->index);
  memset(writer, 0, sizeof *writer);
}

/* ---- a file's begin ---- */

static int next_range(zero1__save_writer *writer) {
  if (!writer->has_next) writer->has_next = zero1__save_walk_next(&writer->walk, &writer->next);
  return writer->has_next;
}

static int64_t range_bytes(const zero1__save_writer *writer, const zero1__saved_range *range) {
  return (range->end - range->begin) * (int64_t)zero1__saved_each(writer->optimizer, range->state);
}

static zero1_status add_tensor(zero1__save_writer *writer, zero1__safetensors *header,
                               const zero1__saved_range *range, zero1__error *error) {
  const zero1_optimizer *optimizer = writer->optimizer;
  const char *param = optimizer->registry.names[range->param];
  const int64_t numel = range->end - range->begin;
  const size_t room = strlen(param) + 100;
  char *name = malloc(room);
  if (!name) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a tensor's name");
  zero1__safetensors_name(param, range->state, range->begin, range->end, name, room);
  const zero1_status status = zero1__safetensors_add(
      header, name, zero1__saved_dtype(range->state, optimizer->settings.config.param_dtype),
      &numel, 1, error);
  free(name);
  return status;
}

/* The ranges that go into the next file, from the walk into the header and the index. */
static zero1_status fill_header(zero1__save_writer *writer, zero1__safetensors *header,
                                zero1__error *error) {
  const int32_t file = (int32_t)writer->index.file_count;
  zero1_status status = ZERO1_OK;
  while (!status && next_range(writer) && header->bytes < ZERO1__HEADER_BYTES) {
    zero1__saved_range range = writer->next;
    range.file = file;
    range.offset = header->data_bytes;
    status = add_tensor(writer, header, &range, error);
    if (!status) status = zero1__index_add_range(&writer->index, &range, error);
    writer->has_next = 0;
  }
  return status;
}

static zero1_status begin_file(zero1__save_writer *writer, zero1__error *error) {
  const zero1_comm *comm = writer->optimizer->comm;
  zero1__index *index = &writer->index;
  const int64_t first = index->range_count;
  char name[64], path[4096];
  zero1__safetensors header;
  snprintf(name, sizeof name, "rank-%05d-of-%05d-%05lld.safetensors", comm->rank, comm->world_size,
           (long long)index->file_count);
  if (snprintf(path, sizeof path, "%s/%s", writer->folder, name) >= (int)sizeof path)
    return zero1__fail(error, ZERO1_ERR_INVALID, "this path is too long: %.200s", writer->folder);
  zero1_status status = zero1__safetensors_begin(&header, NULL, 0, error);
  if (!status) status = fill_header(writer, &header, error);
  if (!status) status = zero1__safetensors_finish(&header, error);
  const int64_t bytes = status ? 0 : (int64_t)header.bytes + header.data_bytes;
  for (int64_t i = first; i < index->range_count && !status; ++i)
    index->ranges[i].offset += (int64_t)header.bytes;
  if (!status) status = zero1__index_add_file(index, name, comm->rank, bytes, error);
  if (!status)
    status = zero1__chunk_file_begin(&writer->file, path, index->files[index->file_count - 1].xxh3,
                                     zero1__chunk_count(bytes), error);
  if (!status)
    status = zero1__chunk_file_add(&writer->file, header.text, (int64_t)header.bytes, error);
  if (!status) status = zero1__chunk_file_flush(&writer->file, error);
  zero1__safetensors_end(&header);
  writer->bytes += bytes;
  writer->writing = !status;
  return status;
}

static zero1_status end_file(zero1__save_writer *writer, zero1__error *error) {
  const zero1_status status = zero1__chunk_file_finish(&writer->file, error);
  writer->hash_ns += writer->file.hash_ns;
  zero1__chunk_file_end(&writer->file);
  writer->writing = 0;
  return status;
}

/* ---- its data ---- */

/* Through staging, piece by piece; nothing but the copy is waited for. */
static zero1_status write_from_device(zero1__save_writer *writer, const char *from, int64_t bytes,
                                      zero1__error *error) {
  zero1__device *device = writer->optimizer->device;
  zero1_status status = ZERO1_OK;
  for (int64_t at = 0; at < bytes && !status; at += (int64_t)ZERO1__STAGING_BYTES) {
    const int64_t count =
        bytes - at < (int64_t)ZERO1__STAGING_BYTES ? bytes - at : (int64_t)ZERO1__STAGING_BYTES;
    device->ops->transfer(device, writer->staging, from + at, (size_t)count);
    status = device->ops->check(device, error);
    if (!status) status = zero1__chunk_file_add(&writer->file, writer->staging, count, error);
    if (!status) status = zero1__chunk_file_flush(&writer->file, error);
  }
  return status;
}

static zero1_status write_range(zero1__save_writer *writer, const zero1__saved_range *range,
                                zero1__error *error) {
  int32_t on_host;
  const int64_t bytes = range_bytes(writer, range);
  const void *from = zero1__saved_bytes(writer->optimizer, writer->snapshot, range, &on_host);
  return on_host ? zero1__chunk_file_add(&writer->file, from, bytes, error)
                 : write_from_device(writer, from, bytes, error);
}

zero1_status zero1__save_writer_run(zero1__save_writer *writer, int64_t bucket,
                                    zero1__error *error) {
  zero1__index *index = &writer->index;
  zero1_status status = ZERO1_OK;
  while (!status) {
    if (writer->written < index->range_count) {
      const zero1__saved_range *range = &index->ranges[writer->written];
      if (zero1__saved_bucket(writer->optimizer, range) < bucket) break;
      status = write_range(writer, range, error);
      writer->written += 1;
    } else if (writer->writing) {
      status = end_file(writer, error);
    } else if (next_range(writer) || !index->file_count) { /* no rank is without a file */
      if (writer->has_next && zero1__saved_bucket(writer->optimizer, &writer->next) < bucket) break;
      status = begin_file(writer, error);
    } else {
      break;
    }
  }
  if (!status && writer->writing) status = zero1__chunk_file_flush(&writer->file, error);
  return status;
}
