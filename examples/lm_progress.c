#include "lm_progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double lm_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Open MPI gives its ranks a terminal of their own whatever mpirun writes to, so that isatty alone
 * would be fooled: mpirun's own output decides. */
static bool on_terminal(void) {
  if (!isatty(STDOUT_FILENO)) return false;
  if (!getenv("OMPI_COMM_WORLD_SIZE")) return true;
  char link[64], target[256];
  snprintf(link, sizeof link, "/proc/%ld/fd/1", (long)getppid());
  const ssize_t bytes = readlink(link, target, sizeof target - 1);
  if (bytes < 0) return false;
  target[bytes] = '\0';
  return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0;
}

static const char columns[] =
    "step,loss,val_loss,grad_norm,lr,tokens_per_s,exposed_percent,seconds,sent_bytes\n";

enum { SECONDS_COLUMN = 7 };

bool lm_progress_open(lm_progress *progress, const lm_options *options) {
  *progress = (lm_progress){.log_every = options->log_every};
  progress->in_place = options->progress == LM_PROGRESS_LINE ||
                       (options->progress == LM_PROGRESS_AUTO && on_terminal());
  progress->csv = fopen(options->log, options->resume ? "a+" : "w");
  if (!progress->csv) return false;
  if (!options->resume) fputs(columns, progress->csv);
  return true;
}

/* Whether the line is a whole row of a step up to `step`. */
static bool row_stays(const char *line, int64_t step, double *seconds) {
  char *end;
  const long long row_step = strtoll(line, &end, 10);
  if (*end != ',' || !strchr(line, '\n') || row_step > step) return false;
  const char *field = line;
  for (int i = 0; i < SECONDS_COLUMN && field; ++i) {
    field = strchr(field, ',');
    if (field) ++field;
  }
  if (!field) return false;
  *seconds = strtod(field, NULL);
  return true;
}

bool lm_progress_resume(lm_progress *progress, int64_t step, double *seconds) {
  char *line = NULL;
  size_t line_bytes = 0;
  off_t stays = 0;
  *seconds = 0;
  rewind(progress->csv);
  while (getline(&line, &line_bytes, progress->csv) > 0) {
    if (stays == 0 ? strcmp(line, columns) != 0 : !row_stays(line, step, seconds)) break;
    stays = ftello(progress->csv);
  }
  free(line);
  if (ferror(progress->csv) || ftruncate(fileno(progress->csv), stays) != 0 ||
      fseeko(progress->csv, stays, SEEK_SET) != 0) {
    return false;
  }
  if (stays == 0) fputs(columns, progress->csv);
  return true;
}

void lm_progress_flush(lm_progress *progress) {
  fflush(progress->csv); /* what fails here, closing reports */
}

void lm_progress_break(const lm_progress *progress) {
  if (progress->in_place) fputs("\r\033[K", stdout);
}

static void write_number(FILE *csv, int digits, double number) {
  fputc(',', csv);
  if (!isnan(number)) fprintf(csv, "%.*g", digits, number);
}

static void write_row(FILE *csv, const lm_record *record) {
  fprintf(csv, "%" PRId64, record->step);
  write_number(csv, 7, record->loss);
  write_number(csv, 7, record->val_loss);
  write_number(csv, 6, record->grad_norm);
  write_number(csv, 6, record->lr);
  write_number(csv, 6, record->tokens_per_s);
  write_number(csv, 3, record->exposed_percent);
  write_number(csv, 6, record->seconds);
  fprintf(csv, ",%" PRId64 "\n", record->sent_bytes);
}

void lm_progress_begin(lm_progress *progress, double val_loss) {
  write_row(progress->csv, &(lm_record){.loss = NAN,
                                        .val_loss = val_loss,
                                        .grad_norm = NAN,
                                        .lr = NAN,
                                        .tokens_per_s = NAN,
                                        .exposed_percent = NAN});
  printf("held-out loss before training: %.4f nats per byte\n", val_loss);
}

static void write_line(const lm_progress *progress, const lm_record *record) {
  const int left = record->seconds_left > 0 ? (int)(record->seconds_left + 0.5) : 0;
  printf("step %5" PRId64
         "  loss %.4f  norm %6.3f  lr %.2e  %6.0f tokens/s  exposed %4.1f%%  "
         "left %d:%02d",
         record->step, record->loss, record->grad_norm, record->lr, progress->tokens_per_s,
         progress->exposed_percent, left / 60, left % 60);
  if (record->skipped) fputs("  skipped: not finite", stdout);
  if (!isnan(record->val_loss)) printf("  held-out %.4f", record->val_loss);
}

void lm_progress_record(lm_progress *progress, const lm_record *record) {
  write_row(progress->csv, record);
  const double weight = progress->tokens_per_s > 0 ? 0.1 : 1;
  progress->tokens_per_s += weight * (record->tokens_per_s - progress->tokens_per_s);
  progress->exposed_percent += weight * (record->exposed_percent - progress->exposed_percent);

  const bool stays = !isnan(record->val_loss) || record->skipped;
  const double now = lm_seconds();
  if (progress->in_place) { /* ten times a second is as much as an eye takes in */
    if (!stays && now - progress->last_drawn < 0.1) return;
    progress->last_drawn = now;
    fputs("\r\033[K", stdout);
    write_line(progress, record);
    if (stays) fputc('\n', stdout);
  } else if (stays || record->step % progress->log_every == 0) {
    write_line(progress, record);
    fputc('\n', stdout);
  }
  fflush(stdout);
}

bool lm_progress_close(lm_progress *progress) {
  if (!progress->csv) return true;
  const bool written = !ferror(progress->csv);
  const bool closed = fclose(progress->csv) == 0;
  progress->csv = NULL;
  return written && closed;
}

/* ---- the header ---- */

static const char *dtype_name(int64_t dtype) {
  return dtype == ZERO1_DTYPE_BF16 ? "bf16" : "fp32";
}

static const char *wire_name(int64_t wire, int64_t dtype) {
  static const char *const names[] = {"", "fp32", "bf16", "int8"}; /* in the order of ZERO1_WIRE_ */
  return wire == ZERO1_WIRE_AS_IN_MEMORY ? dtype_name(dtype) : names[wire];
}

static double mib(double bytes) {
  return bytes / (1 << 20);
}

/* What one rank would hold if every rank kept all of the state. */
static void print_memory(const lm_setting *setting) {
  zero1_memory memory = {.size = sizeof memory};
  if (zero1_optimizer_memory(setting->optimizer, &memory, sizeof memory)) return;
  const double numel = (double)setting->param_numel;
  const bool narrow_params = setting->options->param_dtype == ZERO1_DTYPE_BF16;
  const bool narrow_wire = setting->options->param_wire == ZERO1_WIRE_BF16;
  const double params = numel * (narrow_params ? 2 : 4);
  const double grads = numel * (setting->options->grad_dtype == ZERO1_DTYPE_BF16 ? 2 : 4);
  const double master = narrow_params || narrow_wire ? numel * 4 : 0;
  printf(
      "memory   MiB per rank  parameters  gradients    masters    moments  workspace      total\n");
  printf("         unsharded     %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n", mib(params),
         mib(grads), mib(master), mib(numel * 8), 0.0, mib(params + grads + master + numel * 8));
  printf("         zero1         %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n",
         mib((double)memory.params_bytes),
         mib((double)(memory.grads_bytes + memory.grad_shard_bytes + memory.residual_bytes)),
         mib((double)memory.master_bytes),
         mib((double)(memory.exp_avg_bytes + memory.exp_avg_sq_bytes)),
         mib((double)memory.workspace_bytes), mib((double)memory.total_bytes));
  printf("         and %.2f for the model's activations\n", mib((double)setting->activation_bytes));
}

void lm_print_header(const lm_setting *setting) {
  const lm_options *const options = setting->options;
  const int32_t ranks = zero1_comm_world_size(setting->comm);
  printf("text     %s: %" PRId64 " bytes to train on, %" PRId64 " held out\n", options->data,
         setting->data->train_bytes, setting->data->bytes - setting->data->train_bytes);
  printf("model    %" PRId64 " layers, dim %" PRId64 ", %" PRId64 " heads, hidden %" PRId64
         ", context %" PRId64 ": %" PRId64 " parameters\n",
         options->layers, options->dim, options->heads, options->hidden, options->context,
         setting->param_numel);
  printf("ranks    %" PRId32 " (%s, %" PRId32
         " per node), %d thread%s each; %s parameters, %s "
         "gradients\n",
         ranks, zero1_comm_backend(setting->comm), zero1_comm_ranks_per_node(setting->comm),
         setting->threads, setting->threads == 1 ? "" : "s", dtype_name(options->param_dtype),
         dtype_name(options->grad_dtype));
  printf("wire     %s parameters, %s gradients\n",
         wire_name(options->param_wire, options->param_dtype),
         wire_name(options->grad_wire, options->grad_dtype));
  if (setting->device->kind == LM_DEVICE_CUDA)
    printf("gpu      %s (rank 0)\n", setting->device->name);
  printf("step     %" PRId32 " ranks x %" PRId64 " passes x %" PRId64 " sequences x %" PRId64
         " bytes = %" PRId64 " bytes\n",
         ranks, options->accumulate, options->batch, options->context,
         ranks * options->accumulate * options->batch * options->context);
  print_memory(setting);
  putchar('\n');
  fflush(stdout);
}
