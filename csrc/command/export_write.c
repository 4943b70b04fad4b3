#include "export_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "command.h"
#include "dtype.h"
#include "interrupt.h"
#include "safetensors.h"
#include "save_file.h"

#define PIECE_NUMEL ((int64_t)1 << 20)
#define HEADER_MAX 100000000 /* what readers take */

/* A file that is being written. */
typedef struct writing {
  export_plan *plan;
  const export_file *file;
  int fd;
  void *piece; /* [PIECE_NUMEL] elements */
  progress *bar;
  uint64_t *done; /* bytes of all files */
} writing;

static zero1_status write_bytes(const writing *self, const void *data, size_t bytes,
                                zero1__error *error) {
  return zero1__write_all(self->fd, self->file->path, data, bytes, error);
}

static zero1_status fail_read(const export_plan *plan, zero1_status status, zero1__error *error) {
  return zero1__fail(error, status, "%s", zero1_checkpoint_last_error(plan->checkpoint));
}

static zero1_status write_header(const writing *self, zero1__error *error) {
  static const zero1_pair format = {.key = "format", .value = "pt"};
  zero1__safetensors header;
  zero1_param_spec spec;
  zero1_status status = zero1__safetensors_begin(&header, &format, 1, error);
  for (int64_t i = self->file->begin; i < self->file->end && !status; ++i) {
    status = zero1_checkpoint_param(self->plan->checkpoint, i, &spec, sizeof spec);
    if (status)
      fail_read(self->plan, status, error);
    else
      status = zero1__safetensors_add(&header, spec.name, self->plan->dtype, spec.shape, spec.ndim,
                                      error);
  }
  if (!status) status = zero1__safetensors_finish(&header, error);
  if (!status && header.bytes > HEADER_MAX)
    status = zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                         "%s: its header of %zu bytes is more than readers take: give a folder",
                         self->file->path, header.bytes);
  if (!status) status = write_bytes(self, header.text, header.bytes, error);
  zero1__safetensors_end(&header);
  return status;
}

/* Masters: in fp32 they hold more than the parameters, in bf16 they round to them. */
static zero1_status write_param(const writing *self, int64_t index, zero1__error *error) {
  const export_plan *const plan = self->plan;
  const size_t element = zero1__dtype_bytes(plan->dtype);
  zero1_param_spec spec;
  zero1_status status = zero1_checkpoint_param(plan->checkpoint, index, &spec, sizeof spec);
  if (status) return fail_read(plan, status, error);
  const int64_t numel = command_numel(&spec);
  for (int64_t begin = 0; begin < numel; begin += PIECE_NUMEL) {
    const int64_t count = numel - begin < PIECE_NUMEL ? numel - begin : PIECE_NUMEL;
    if (interrupt_seen()) return zero1__fail(error, ZERO1_ERR_ABORTED, "interrupted");
    status = zero1_checkpoint_read(plan->checkpoint, index, ZERO1_STATE_MASTER_PARAM, 0, begin,
                                   begin + count, plan->dtype, self->piece);
    if (status) return fail_read(plan, status, error);
    status = write_bytes(self, self->piece, (size_t)count * element, error);
    if (status) return status;
    *self->done += (uint64_t)count * element;
    progress_show(self->bar, *self->done, (uint64_t)plan->total_bytes);
  }
  return ZERO1_OK;
}

static zero1_status write_file(writing *self, export_file *file, zero1__error *error) {
  self->file = file;
  self->fd = open(file->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (self->fd < 0) return zero1__fail_io(error, file->part, "making it", errno);
  file->is_written = 1;
  zero1_status status = write_header(self, error);
  for (int64_t i = file->begin; i < file->end && !status; ++i) status = write_param(self, i, error);
  if (!status) status = zero1__flush_file(self->fd, file->path, error);
  const zero1_status closed = zero1__close_file(self->fd, file->path, error);
  return status ? status : closed;
}

zero1_status export_write(export_plan *plan, progress *bar, zero1__error *error) {
  uint64_t done = 0;
  writing self = {.plan = plan, .bar = bar, .done = &done};
  self.piece = malloc((size_t)PIECE_NUMEL * zero1__dtype_bytes(plan->dtype));
  if (!self.piece) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a piece to write");
  zero1_status status = ZERO1_OK;
  for (int64_t i = 0; i < plan->file_count && !status; ++i)
    status = write_file(&self, &plan->files[i], error);
  free(self.piece);
  return status;
}

void export_remove_parts(export_plan *plan) {
  for (int64_t i = 0; i < plan->file_count; ++i) {
    if (plan->files[i].is_written) unlink(plan->files[i].part);
    plan->files[i].is_written = 0;
  }
}
