#include "export_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "checkpoint_state.h"
#include "clock.h"
#include "dtype.h"
#include "safetensors.h"
#include "save_file.h"

#define PIECE_NUMEL ((int64_t)1 << 20)
#define HEADER_MAX 100000000 /* what readers take */
#define PROGRESS_NS 50000000 /* between two calls */

/* All files, of which one is being written. */
typedef struct writing {
  zero1__export_plan *plan;
  const zero1__export_file *file;
  int fd;
  void *piece; /* [PIECE_NUMEL] elements; owned */
  zero1_progress_fn progress;
  void *context;
  int64_t progress_ns; /* when it was called */
  uint64_t done;       /* bytes of all files */
} writing;

static zero1_status tell_progress(writing *self, int is_last, zero1__error *error) {
  const int64_t now_ns = zero1__now_ns();
  if (!self->progress) return ZERO1_OK;
  if (!is_last && self->progress_ns && now_ns - self->progress_ns < PROGRESS_NS) return ZERO1_OK;
  self->progress_ns = now_ns;
  if (!self->progress(self->context, self->done, (uint64_t)self->plan->total_bytes))
    return ZERO1_OK;
  return zero1__fail_at(error, ZERO1_ERR_ABORTED, self->plan->reader->path,
                        "exporting it was stopped by the caller");
}

static zero1_status write_bytes(const writing *self, const void *data, size_t bytes,
                                zero1__error *error) {
  return zero1__write_all(self->fd, self->file->path, data, bytes, error);
}

/* Of parameters it is what PyTorch's and Hugging Face's readers look for; of another state its name. */
static zero1_status begin_header(const writing *self, zero1__safetensors *header,
                                 zero1__error *error) {
  const int32_t state = self->plan->state;
  const zero1_pair metadata[] = {{.key = "format", .value = "pt"},
                                 {.key = "state", .value = zero1__state_name(state)}};
  return zero1__safetensors_begin(header, metadata, state <= ZERO1_STATE_MASTER_PARAM ? 1 : 2,
                                  error);
}

static zero1_status write_header(const writing *self, zero1__error *error) {
  const zero1__registry *const params = &self->plan->reader->manifest.params;
  zero1__safetensors header;
  zero1_status status = begin_header(self, &header, error);
  for (int64_t i = self->file->begin; i < self->file->end && !status; ++i)
    if (zero1__export_has(self->plan, i))
      status = zero1__safetensors_add(&header, params->names[i], self->plan->dtype,
                                      params->shapes[i], params->ndim[i], error);
  if (!status) status = zero1__safetensors_finish(&header, error);
  if (!status && header.bytes > HEADER_MAX)
    status = zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                         "%s: its header of %zu bytes is more than readers take", self->file->path,
                         header.bytes);
  if (!status) status = write_bytes(self, header.text, header.bytes, error);
  zero1__safetensors_end(&header);
  return status;
}

static zero1_status write_param(writing *self, int64_t index, zero1__error *error) {
  const zero1__export_plan *const plan = self->plan;
  const size_t element = zero1__dtype_bytes(plan->dtype);
  const int64_t numel = plan->reader->manifest.params.numel[index];
  zero1_status status = ZERO1_OK;
  for (int64_t begin = 0; begin < numel && !status; begin += PIECE_NUMEL) {
    const int64_t count = numel - begin < PIECE_NUMEL ? numel - begin : PIECE_NUMEL;
    const zero1__state_request request = {index,         plan->state, plan->rank, begin,
                                          begin + count, plan->dtype, self->piece};
    status = zero1__state_read(plan->reader, &request, error);
    if (!status) status = write_bytes(self, self->piece, (size_t)count * element, error);
    self->done += (uint64_t)count * element;
    if (!status) status = tell_progress(self, 0, error);
  }
  return status;
}

static zero1_status write_file(writing *self, zero1__export_file *file, zero1__error *error) {
  self->file = file;
  self->fd = open(file->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (self->fd < 0) return zero1__fail_io(error, file->part, "making it", errno);
  file->is_written = 1;
  zero1_status status = write_header(self, error);
  for (int64_t i = file->begin; i < file->end && !status; ++i)
    if (zero1__export_has(self->plan, i)) status = write_param(self, i, error);
  if (!status) status = zero1__flush_file(self->fd, file->path, error);
  const zero1_status closed = zero1__close_file(self->fd, file->path, error);
  return status ? status : closed;
}

zero1_status zero1__export_write(zero1__export_plan *plan, zero1_progress_fn progress,
                                 void *context, zero1__error *error) {
  writing self = {.plan = plan, .progress = progress, .context = context};
  self.piece = malloc((size_t)PIECE_NUMEL * zero1__dtype_bytes(plan->dtype));
  if (!self.piece) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a piece to write");
  zero1_status status = ZERO1_OK;
  for (int64_t i = 0; i < plan->file_count && !status; ++i)
    status = write_file(&self, &plan->files[i], error);
  if (!status) status = tell_progress(&self, 1, error);
  free(self.piece);
  return status;
}

void zero1__export_remove_parts(zero1__export_plan *plan) {
  for (int64_t i = 0; i < plan->file_count; ++i) {
    if (plan->files[i].is_written) unlink(plan->files[i].part);
    plan->files[i].is_written = 0;
  }
}
