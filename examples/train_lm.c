/* Trains a byte-level transformer on a text file, data-parallel over MPI ranks, its optimizer
 * sharded by zero1. `train_lm --help` tells about the options; docs of a step: zero1/zero1.h. */
#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "lm_data.h"
#include "lm_model.h"
#include "lm_options.h"
#include "lm_progress.h"
#include "lm_random.h"
#include "lm_sample.h"
#include "lm_sharded.h"

enum { ERROR_BYTES = 512 };

/* A step whose results are not known yet. */
typedef struct pending {
  bool any;
  int64_t step;
  double lr;
  MPI_Request request;
  double mine[2], sums[2]; /* loss; part of the run that is over, as rank 0's clock sees it */
} pending;

typedef struct trainer {
  lm_options options;
  int rank, ranks, threads;
  lm_data data;
  zero1_comm *comm;
  lm_sharded sharded;
  lm_tensors tensors;
  lm_model model;
  uint8_t *inputs, *targets; /* [batch, context] */
  lm_progress progress;      /* rank 0's */
  pending pending;
  double started, last_finished; /* seconds */
  double part_done;              /* of the run, 0 to 1: the same on every rank */
  char error[ERROR_BYTES];
} trainer;

/* True where all ranks are; else the lowest rank that is not tells its t->error. Collective. */
static bool agree(trainer *t, bool ok) {
  int mine = ok ? t->ranks : t->rank, lowest = t->ranks;
  MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (lowest == t->rank) fprintf(stderr, "train_lm: %s\n", t->error);
  return lowest == t->ranks;
}

/* This rank cannot go on in the middle of the run: neither peers in the library nor peers in MPI
 * are left waiting. */
_Noreturn static void give_up(trainer *t, const char *what) {
  const char *const detail = zero1_optimizer_last_error(t->sharded.optimizer);
  const zero1_status status = t->sharded.status;
  fflush(stdout);
  fprintf(stderr, "train_lm: rank %d: %s: %s: %s\n", t->rank, what, zero1_status_string(status),
          detail);
  zero1_optimizer_abort(t->sharded.optimizer, what);
  MPI_Abort(MPI_COMM_WORLD, 1);
  abort();
}

static void must(trainer *t, zero1_status status, const char *what) {
  if (!status) return;
  if (!t->sharded.status) t->sharded.status = status;
  give_up(t, what);
}

/* ---- setting up ---- */

static lm_config model_config(const lm_options *options) {
  return (lm_config){.layers = options->layers,
                     .dim = options->dim,
                     .heads = options->heads,
                     .hidden = options->hidden,
                     .context = options->context,
                     .batch = options->batch};
}

static void fill_groups(const lm_options *options, zero1_group groups[LM_GROUP_COUNT]) {
  for (int i = 0; i < LM_GROUP_COUNT; ++i) {
    zero1_group_init(&groups[i], sizeof groups[i]);
    groups[i].lr = options->lr;
    groups[i].beta1 = options->beta1;
    groups[i].beta2 = options->beta2;
    groups[i].weight_decay = i == LM_GROUP_MATRIX ? options->weight_decay : 0;
  }
}

static zero1_status open_sharded(trainer *t) {
  const lm_options *const options = &t->options;
  zero1_group groups[LM_GROUP_COUNT];
  fill_groups(options, groups);
  zero1_config config;
  const zero1_status status = zero1_config_init(&config, sizeof config);
  if (status) return status;
  config.param_dtype = (int32_t)options->param_dtype;
  config.grad_dtype = (int32_t)options->grad_dtype;
  config.share_params = (int32_t)options->share_params;
  config.bucket_numel = options->bucket_numel;
  config.threads = t->threads;
  config.overlap = (int32_t)options->overlap;
  config.max_grad_norm = options->clip;
  config.groups = groups;
  config.group_bytes = sizeof *groups;
  config.group_count = LM_GROUP_COUNT;
  const lm_config model = model_config(options);
  return lm_sharded_open(&t->sharded, t->comm, &model, &config, options->accumulate);
}

/* The cores that the node's ranks may run on, bound to them or not, over the number of ranks. */
static int choose_threads(const lm_options *options) {
  if (options->threads) return (int)options->threads;
  MPI_Comm node;
  int neighbours;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(0, sizeof cores, &cores);
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  MPI_Comm_size(node, &neighbours);
  MPI_Allreduce(MPI_IN_PLACE, &cores, sizeof cores, MPI_BYTE, MPI_BOR, node);
  MPI_Comm_free(&node);
  const int threads = CPU_COUNT(&cores) / neighbours;
  return threads > 1 ? threads : 1;
}

static bool open_memory(trainer *t) {
  const lm_config config = model_config(&t->options);
  const size_t batch_bytes = (size_t)(t->options.batch * t->options.context);
  t->inputs = malloc(batch_bytes);
  t->targets = malloc(batch_bytes);
  if (lm_model_init(&t->model, &config) && t->inputs && t->targets) return true;
  snprintf(t->error, sizeof t->error, "rank %d: no memory for activations: %.1f MiB needed",
           t->rank, (double)lm_model_bytes(&config) / (1 << 20));
  return false;
}

static bool open_log(trainer *t) {
  if (t->rank != 0 || lm_progress_open(&t->progress, &t->options)) return true;
  snprintf(t->error, sizeof t->error, "--log: %s: %s", t->options.log, strerror(errno));
  return false;
}

static bool open_library(trainer *t) {
  zero1_comm_options options;
  zero1_comm_options_init(&options, sizeof options);
  options.ranks_per_node = (int32_t)t->options.ranks_per_node;
  options.error_text = t->error;
  options.error_bytes = sizeof t->error;
  if (zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &t->comm)) return false;
  const zero1_status status = open_sharded(t);
  if (status) {
    snprintf(t->error, sizeof t->error, "%s: %s", zero1_status_string(status),
             zero1_comm_last_error(t->comm));
    return false;
  }
  t->tensors = lm_sharded_tensors(&t->sharded);
  return true;
}

/* Each part on all ranks before the next, so that no rank is left alone in a collective call. */
static bool open_all(trainer *t) {
  const lm_options *const options = &t->options;
  if (!agree(t,
             lm_data_open(&t->data, options->data, options->context, t->error, sizeof t->error)) ||
      !agree(t, open_log(t)) || !agree(t, open_memory(t))) {
    return false;
  }
  t->threads = choose_threads(options);
  openblas_set_num_threads(t->threads);
  return agree(t, open_library(t));
}

static bool close_all(trainer *t) {
  bool ok = lm_progress_close(&t->progress);
  if (!ok) {
    snprintf(t->error, sizeof t->error, "--log: %s could not be written", t->options.log);
  }
  ok = agree(t, ok);
  lm_sharded_close(&t->sharded);
  zero1_comm_destroy(&t->comm);
  lm_model_free(&t->model);
  lm_data_close(&t->data);
  free(t->inputs);
  free(t->targets);
  return ok;
}

/* ---- validation ---- */

/* Mean loss over `windows` held-out windows, spread evenly, the batches dealt out to the ranks. */
static double validate(trainer *t, int64_t windows) {
  const int64_t batch = t->options.batch, context = t->options.context;
  const int64_t all = lm_data_val_windows(&t->data, context);
  if (windows > all) windows = all;
  double sums[2] = {0, 0}, totals[2];
  for (int64_t begin = t->rank * batch; begin < windows; begin += t->ranks * batch) {
    const int64_t rows = windows - begin < batch ? windows - begin : batch;
    for (int64_t i = 0; i < rows; ++i) {
      lm_data_val_window(&t->data, (begin + i) * all / windows, context, t->inputs + i * context,
                         t->targets + i * context);
    }
    const lm_batch part = {
        .batch = rows, .length = context, .inputs = t->inputs, .targets = t->targets};
    double loss;
    if (!lm_forward(&t->model, &t->tensors, &part, &loss)) give_up(t, "validation");
    sums[0] += loss * (double)rows;
    sums[1] += (double)rows;
  }
  MPI_Allreduce(sums, totals, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  return totals[0] / totals[1];
}

/* ---- a step ---- */

static double part_of_run(const trainer *t, int64_t steps_done) {
  const double limit = t->options.time_limit;
  const double by_steps = (double)steps_done / (double)t->options.steps;
  const double by_time = limit > 0 ? (lm_seconds() - t->started) / limit : 0;
  return fmin(1, fmax(by_steps, by_time));
}

static double learning_rate(const trainer *t, int64_t step) {
  const lm_options *const options = &t->options;
  const double warm =
      step < options->warmup ? (double)(step + 1) / (double)(options->warmup + 1) : 1;
  const double cosine = 0.5 + 0.5 * cos(3.141592653589793 * t->part_done);
  return warm * (options->min_lr + (options->lr - options->min_lr) * cosine);
}

/* Waits for the step that is under way and reports it. Collective. */
static void finish_pending(trainer *t, double val_loss) {
  pending *const p = &t->pending;
  if (!p->any) return;
  p->any = false;
  const double waited_from = lm_seconds();
  MPI_Wait(&p->request, MPI_STATUS_IGNORE);
  const double waited = lm_seconds() - waited_from;
  zero1_info info = {.size = sizeof info};
  must(t, zero1_optimizer_info(t->sharded.optimizer, &info, sizeof info), "step");
  t->part_done = p->sums[1];

  const double now = lm_seconds();
  const double seconds = now - t->last_finished;
  t->last_finished = now;
  if (t->rank != 0) return;
  const lm_options *const options = &t->options;
  const double bytes = (double)(t->ranks * options->accumulate * options->batch * options->context);
  const double elapsed = now - t->started;
  lm_progress_record(
      &t->progress,
      &(lm_record){.step = p->step + 1,
                   .loss = p->sums[0] / t->ranks,
                   .val_loss = val_loss,
                   .grad_norm = info.grad_norm,
                   .lr = p->lr,
                   .tokens_per_s = bytes / seconds,
                   .exposed_percent = 100 * (waited + info.exposed_ms / 1e3) / seconds,
                   .seconds = elapsed,
                   .seconds_left = elapsed / t->part_done - elapsed,
                   .skipped = info.skipped});
}

/* Forward and backward of all passes of a step; returns the mean loss. The step before is finished
 * only after the first forward, which has waited for its parameters one by one. */
static double gradients(trainer *t, int64_t step) {
  const lm_options *const options = &t->options;
  double sum = 0;
  for (int64_t pass = 0; pass < options->accumulate; ++pass) {
    const lm_draw draw = {
        .seed = (uint64_t)options->seed, .step = step, .part = pass * t->ranks + t->rank};
    lm_data_train_batch(&t->data, &draw, options->batch, options->context, t->inputs, t->targets);
    const lm_batch batch = {.batch = options->batch,
                            .length = options->context,
                            .inputs = t->inputs,
                            .targets = t->targets,
                            .loss_scale = 1.0f / (float)options->accumulate};
    t->sharded.first = pass == 0;
    t->sharded.last = pass == options->accumulate - 1;
    double loss;
    if (!lm_forward(&t->model, &t->tensors, &batch, &loss)) give_up(t, "forward");
    if (pass == 0) finish_pending(t, NAN);
    if (!lm_backward(&t->model, &t->tensors, &batch)) give_up(t, "backward");
    sum += loss;
  }
  return sum / (double)options->accumulate;
}

static void start_step(trainer *t, int64_t step, double loss) {
  pending *const p = &t->pending;
  *p = (pending){.any = true, .step = step, .lr = learning_rate(t, step)};
  p->mine[0] = loss;
  p->mine[1] = t->rank == 0 ? part_of_run(t, step + 1) : 0;
  MPI_Iallreduce(p->mine, p->sums, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, &p->request);
  for (int64_t group = 0; group < LM_GROUP_COUNT; ++group) {
    must(t, zero1_optimizer_set_lr(t->sharded.optimizer, group, p->lr), "learning rate");
  }
  must(t, zero1_optimizer_step(t->sharded.optimizer), "step");
}

static void train(trainer *t) {
  const lm_options *const options = &t->options;
  must(t, lm_sharded_init_params(&t->sharded, t->rank, (uint64_t)options->seed), "initial values");
  const double first_loss = validate(t, options->val_batches * options->batch);
  if (t->rank == 0) lm_progress_begin(&t->progress, first_loss);
  t->started = t->last_finished = lm_seconds();
  for (int64_t step = 0; step < options->steps && t->part_done < 1; ++step) {
    start_step(t, step, gradients(t, step));
    if (options->val_every && (step + 1) % options->val_every == 0) {
      finish_pending(t, validate(t, options->val_batches * options->batch));
      t->last_finished = lm_seconds();
    }
  }
}

/* The last validation, over all held-out text, and a sample of what the model has learnt. */
static void conclude(trainer *t) {
  const lm_options *const options = &t->options;
  const double trained = lm_seconds() - t->started;
  const double loss = validate(t, INT64_MAX);
  finish_pending(t, loss);
  if (t->rank != 0) return;
  printf("%sheld-out loss over all %" PRId64
         " bytes: %.4f nats per byte (%.3f bits), after %.1f s\n",
         t->progress.in_place ? "\n" : "",
         lm_data_val_windows(&t->data, options->context) * options->context, loss,
         loss / 0.6931471805599453, trained);
  if (options->sample_bytes == 0) return;
  printf("\nthe model writes:\n");
  const lm_sampling sampling = {.bytes = options->sample_bytes,
                                .temperature = options->temperature,
                                .seed = (uint64_t)options->seed,
                                .prompt = options->prompt};
  if (!lm_print_sample(&t->model, &t->tensors, &sampling)) give_up(t, "sample");
  printf("\n\n%s has a row for every step\n", options->log);
}

static bool run(trainer *t, int argc, char **argv) {
  if (!lm_options_parse(&t->options, argc, argv, t->error, sizeof t->error)) {
    return agree(t, false);
  }
  if (t->options.help) {
    if (t->rank == 0) lm_options_help(stdout);
    return true;
  }
  const bool opened = open_all(t);
  if (opened) {
    if (t->rank == 0) {
      lm_print_header(&(lm_setting){.options = &t->options,
                                    .data = &t->data,
                                    .comm = t->comm,
                                    .optimizer = t->sharded.optimizer,
                                    .param_numel = lm_total_numel(&t->model.config),
                                    .activation_bytes = lm_model_bytes(&t->model.config),
                                    .threads = t->threads});
    }
    train(t);
    conclude(t);
  }
  return close_all(t) && opened;
}

int main(int argc, char **argv) {
  int provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  trainer t = {0};
  MPI_Comm_rank(MPI_COMM_WORLD, &t.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &t.ranks);
  const bool ok = run(&t, argc, argv);
  MPI_Finalize();
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
