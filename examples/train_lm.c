/* Trains a byte-level transformer on a text file, data-parallel over MPI ranks, its optimizer
 * sharded by zero1. `train_lm --help` tells about the options, zero1/zero1.h about a step. */
#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <stdlib.h>

#include "lm_checkpoint.h"
#include "lm_sample.h"
#include "lm_stop.h"
#include "lm_trainer.h"

/* ---- validation ---- */

/* Mean loss over `windows` held-out windows, spread evenly, the batches dealt out to the ranks. */
static double validate(lm_trainer *t, int64_t windows) {
  const int64_t batch = t->options.batch, context = t->options.context;
  const int64_t all = lm_data_val_windows(&t->data, context);
  if (windows > all) windows = all;
  double sums[2] = {0, 0}, totals[2]; /* loss, bytes */
  for (int64_t begin = t->rank * batch; begin < windows; begin += t->ranks * batch) {
    const int64_t rows = windows - begin < batch ? windows - begin : batch;
    for (int64_t i = 0; i < rows; ++i) {
      lm_data_val_window(&t->data, (begin + i) * all / windows, context, t->inputs + i * context,
                         t->targets + i * context);
    }
    const lm_batch part = {
        .batch = rows, .length = context, .inputs = t->inputs, .targets = t->targets};
    if (!lm_forward(&t->model, &t->tensors, &part)) lm_give_up(t, "validation");
    sums[1] += (double)(rows * context);
  }
  if (!lm_take_loss(&t->model, &sums[0])) lm_give_up(t, "validation");
  MPI_Allreduce(sums, totals, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  return totals[0] / totals[1];
}

/* ---- a step ---- */

static double part_of_run(const lm_trainer *t, int64_t steps_done) {
  const double limit = t->options.time_limit;
  const double by_steps = (double)steps_done / (double)t->options.steps;
  const double by_time = limit > 0 ? (lm_seconds() - t->started) / limit : 0;
  return fmin(1, fmax(by_steps, by_time));
}

static double learning_rate(const lm_trainer *t, int64_t step) {
  const lm_options *const options = &t->options;
  const double warm =
      step < options->warmup ? (double)(step + 1) / (double)(options->warmup + 1) : 1;
  const double cosine = 0.5 + 0.5 * cos(3.141592653589793 * t->part_done);
  return warm * (options->min_lr + (options->lr - options->min_lr) * cosine);
}

/* Waits for the step that is under way; the record is without a validation. */
static lm_record wait_pending(lm_trainer *t) {
  lm_pending *const p = &t->pending;
  const double waited_from = lm_seconds();
  MPI_Wait(&p->request, MPI_STATUS_IGNORE);
  const double waited = lm_seconds() - waited_from;
  zero1_info info = {.size = sizeof info};
  lm_must(t, zero1_optimizer_info(t->sharded.optimizer, &info, sizeof info), "step");
  p->any = false;
  t->skipped += info.skipped;
  t->part_done = p->sums[1];
  t->stop = p->sums[2] > 0;

  const lm_options *const options = &t->options;
  const double bytes = (double)(t->ranks * options->accumulate * options->batch * options->context);
  const double now = lm_seconds();
  const double seconds = now - t->last_finished, elapsed = now - t->started;
  t->last_finished = now;
  return (lm_record){.step = p->step + 1,
                     .loss = p->sums[0] / t->ranks,
                     .val_loss = NAN,
                     .grad_norm = info.grad_norm,
                     .lr = p->lr,
                     .tokens_per_s = bytes / seconds,
                     .exposed_percent = 100 * (waited + info.exposed_ms / 1e3) / seconds,
                     .seconds = elapsed,
                     .seconds_left = elapsed / t->part_done - elapsed,
                     .sent_bytes = info.sent_bytes,
                     .skipped = info.skipped};
}

/* Finishes and reports the step that is under way, if any. With `val_windows` above 0 validates its
 * parameters and returns that loss, else NaN. Collective. */
static double finish_step(lm_trainer *t, int64_t val_windows) {
  const bool any = t->pending.any;
  lm_record record = {0};
  if (any) record = wait_pending(t);
  double loss = NAN;
  if (val_windows > 0) {
    loss = validate(t, val_windows);
    t->last_finished = lm_seconds(); /* the next step's time begins after it */
  }
  record.val_loss = loss;
  if (any && t->rank == 0) lm_progress_record(&t->progress, &record);
  return loss;
}

static lm_batch draw_batch(lm_trainer *t, int64_t step, int64_t pass) {
  const lm_options *const options = &t->options;
  const lm_draw draw = {
      .seed = (uint64_t)options->seed, .step = step, .part = pass * t->ranks + t->rank};
  lm_data_train_batch(&t->data, &draw, options->batch, options->context, t->inputs, t->targets);
  return (lm_batch){.batch = options->batch,
                    .length = options->context,
                    .inputs = t->inputs,
                    .targets = t->targets,
                    .loss_scale = 1.0f / (float)options->accumulate};
}

/* A pass whose gradients are not used. GPU libraries load kernels when they first run, which may
 * wait for all that the GPU does: it must not happen where kernels of the optimizer wait for peers,
 * who may be loading theirs. */
static void warm_up(lm_trainer *t) {
  const lm_batch batch = draw_batch(t, 0, 0);
  double unused;
  t->sharded.first = true;
  t->sharded.last = false;
  if (!lm_forward(&t->model, &t->tensors, &batch) || !lm_backward(&t->model, &t->tensors, &batch) ||
      !lm_take_loss(&t->model, &unused)) {
    lm_give_up(t, "first pass");
  }
}

/* Forward and backward of all passes of a step. The step before is finished only after the first
 * forward, which has waited for its parameters one by one. False where that has told to stop: no
 * gradient is on its way. */
static bool gradients(lm_trainer *t, int64_t step) {
  const lm_options *const options = &t->options;
  for (int64_t pass = 0; pass < options->accumulate; ++pass) {
    const lm_batch batch = draw_batch(t, step, pass);
    t->sharded.first = pass == 0;
    t->sharded.last = pass == options->accumulate - 1;
    if (!lm_forward(&t->model, &t->tensors, &batch)) lm_give_up(t, "forward");
    if (pass == 0) finish_step(t, 0);
    if (t->stop) return false;
    if (!lm_backward(&t->model, &t->tensors, &batch)) lm_give_up(t, "backward");
  }
  return true;
}

/* The loss is taken after the step is on its way: a GPU is still computing both. */
static void start_step(lm_trainer *t, int64_t step) {
  const lm_options *const options = &t->options;
  lm_pending *const p = &t->pending;
  *p = (lm_pending){.any = true, .step = step, .lr = learning_rate(t, step)};
  for (int64_t group = 0; group < LM_GROUP_COUNT; ++group) {
    lm_must(t, zero1_optimizer_set_lr(t->sharded.optimizer, group, p->lr), "learning rate");
  }
  lm_must(t, zero1_optimizer_step(t->sharded.optimizer), "step");
  if (!lm_take_loss(&t->model, &p->mine[0])) lm_give_up(t, "loss");
  p->mine[0] /= (double)(options->accumulate * options->batch * options->context);
  p->mine[1] = t->rank == 0 ? part_of_run(t, step + 1) : 0;
  p->mine[2] = lm_stop_asked();
  MPI_Iallreduce(p->mine, p->sums, 3, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, &p->request);
}

/* The parameters that training starts from, and what rank 0 tells about them. */
static void begin(lm_trainer *t) {
  const lm_options *const options = &t->options;
  double seconds = 0;
  if (!t->resumed) {
    lm_must(t, lm_sharded_init_params(&t->sharded, t->rank, (uint64_t)options->seed),
            "initial values");
  }
  if (options->resume && t->rank == 0 &&
      !lm_progress_resume(&t->progress, t->resumed ? t->steps_done : -1, &seconds)) {
    lm_give_up(t, "--log");
  }
  if (t->seconds_before >= 0) seconds = t->seconds_before;
  if (t->device.kind == LM_DEVICE_CUDA) warm_up(t);
  if (!t->resumed) {
    const double first_loss = validate(t, options->val_batches * options->batch);
    if (t->rank == 0) lm_progress_begin(&t->progress, first_loss);
  }
  t->last_finished = lm_seconds();
  t->started = t->last_finished - seconds;
}

/* After a step: what is due at its number. The last step's is conclude's. */
static void care(lm_trainer *t) {
  const lm_options *const options = &t->options;
  lm_checkpoint_look(t);
  if (t->steps_done == options->steps) return;
  if (options->val_every && t->steps_done % options->val_every == 0) {
    finish_step(t, options->val_batches * options->batch);
  }
  if (options->checkpoint && options->save_every && t->steps_done % options->save_every == 0) {
    finish_step(t, 0);
    lm_checkpoint_save(t);
  }
}

static void train(lm_trainer *t) {
  begin(t);
  while (t->steps_done < t->options.steps && t->part_done < 1 && !t->stop) {
    if (!gradients(t, t->steps_done)) break;
    start_step(t, t->steps_done);
    ++t->steps_done;
    care(t);
  }
}

/* The last validation, over all held-out text, and a sample of what the model has learnt. */
static void conclude(lm_trainer *t) {
  const lm_options *const options = &t->options;
  const double trained = lm_seconds() - t->started;
  const double loss = finish_step(t, INT64_MAX);
  if (options->checkpoint) lm_checkpoint_conclude(t);
  if (t->rank != 0) return;
  printf("held-out loss over all %" PRId64 " bytes: %.4f nats per byte (%.3f bits), after %.1f s\n",
         lm_data_val_windows(&t->data, options->context) * options->context, loss,
         loss / 0.6931471805599453, trained);
  if (t->skipped)
    printf("%" PRId64 " steps were skipped: their gradients were not finite\n", t->skipped);
  if (options->sample_bytes == 0) return;
  printf("\nthe model writes:\n");
  const lm_sampling sampling = {.bytes = options->sample_bytes,
                                .temperature = options->temperature,
                                .seed = (uint64_t)options->seed,
                                .prompt = options->prompt};
  if (!lm_print_sample(&t->model, &t->tensors, &sampling)) lm_give_up(t, "sample");
  printf("\n\n%s has a row for every step\n", options->log);
}

/* Exit codes besides EXIT_SUCCESS and EXIT_FAILURE; --help tells about them. */
enum { EXIT_NOT_BUILT = 2, EXIT_DAMAGED = 3, EXIT_STOPPED = 128 + 15 };

static int say_not_built(lm_trainer *t) {
  snprintf(t->error, sizeof t->error, "--device cuda: not in this build: %s", lm_gpu_missing());
  lm_agree(t, false);
  return EXIT_NOT_BUILT;
}

/* All but opening and closing. */
static int work(lm_trainer *t) {
  const lm_options *const options = &t->options;
  if (t->rank == 0) {
    const lm_setting setting = lm_trainer_setting(t);
    lm_print_header(&setting);
  }
  if (options->resume) {
    const zero1_status status = lm_checkpoint_resume(t);
    if (status) return status == ZERO1_ERR_CORRUPT ? EXIT_DAMAGED : EXIT_FAILURE;
  }
  train(t);
  if (!t->stop || t->steps_done == options->steps) {
    conclude(t);
    return EXIT_SUCCESS;
  }
  lm_checkpoint_conclude(t);
  if (t->rank == 0) printf("stopped after step %" PRId64 ", as asked\n", t->steps_done);
  return EXIT_STOPPED;
}

static int run(lm_trainer *t, int argc, char **argv) {
  if (!lm_options_parse(&t->options, argc, argv, t->error, sizeof t->error)) {
    lm_agree(t, false);
    return EXIT_FAILURE;
  }
  const lm_options *const options = &t->options;
  if (options->help) {
    if (t->rank == 0) lm_options_help(stdout);
    return EXIT_SUCCESS;
  }
  if ((options->device == LM_DEVICE_CUDA || options->list_gpus) && lm_gpu_missing()) {
    return say_not_built(t);
  }
  if (options->list_gpus) return lm_trainer_list_gpus(t) ? EXIT_SUCCESS : EXIT_FAILURE;
  if (options->checkpoint) lm_stop_catch();
  t->saved_step = t->seconds_before = -1;
  const int code = lm_trainer_open(t) ? work(t) : EXIT_FAILURE;
  return lm_trainer_close(t) ? code : EXIT_FAILURE;
}

int main(int argc, char **argv) {
  int provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  lm_trainer t = {0};
  MPI_Comm_rank(MPI_COMM_WORLD, &t.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &t.ranks);
  const int code = run(&t, argc, argv);
  MPI_Finalize();
  return code;
}
