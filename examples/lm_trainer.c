#include "lm_trainer.h"

#include <cblas.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

bool lm_agree(lm_trainer *t, bool ok) {
  int mine = ok ? t->ranks : t->rank, lowest = t->ranks;
  MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (lowest == t->rank) fprintf(stderr, "train_lm: %s\n", t->error);
  return lowest == t->ranks;
}

_Noreturn void lm_give_up(lm_trainer *t, const char *what) {
  const bool of_device = t->device.error[0];
  const char *const detail =
      of_device ? t->device.error : zero1_optimizer_last_error(t->sharded.optimizer);
  const zero1_status status = of_device ? ZERO1_ERR_DEVICE : t->sharded.status;
  fflush(stdout);
  fprintf(stderr, "train_lm: rank %d: %s: %s: %s\n", t->rank, what, zero1_status_string(status),
          detail);
  zero1_optimizer_abort(t->sharded.optimizer, what);
  MPI_Abort(MPI_COMM_WORLD, 1);
  abort();
}

void lm_must(lm_trainer *t, zero1_status status, const char *what) {
  if (!status) return;
  if (!t->sharded.status) t->sharded.status = status;
  lm_give_up(t, what);
}

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

static zero1_status open_sharded(lm_trainer *t) {
  const lm_options *const options = &t->options;
  zero1_group groups[LM_GROUP_COUNT];
  fill_groups(options, groups);
  zero1_config config;
  const zero1_status status = zero1_config_init(&config, sizeof config);
  if (status) return status;
  config.param_dtype = (int32_t)options->param_dtype;
  config.grad_dtype = (int32_t)options->grad_dtype;
  config.param_wire_dtype = (int32_t)options->param_wire;
  config.grad_wire_dtype = (int32_t)options->grad_wire;
  config.share_params = (int32_t)options->share_params;
  config.bucket_numel = options->bucket_numel;
  config.threads = t->threads;
  config.overlap = (int32_t)options->overlap;
  config.max_grad_norm = options->clip;
  config.device = t->device.kind;
  if (t->device.kind == LM_DEVICE_CUDA) {
    config.device_index = t->device.index;
    config.stream = t->device.stream;
  }
  config.groups = groups;
  config.group_bytes = sizeof *groups;
  config.group_count = LM_GROUP_COUNT;
  return lm_sharded_open(&t->sharded, t->comm, &t->model, &config, options->accumulate);
}

/* This rank's place on its machine, and its threads: the cores that the machine's ranks may run on,
 * bound to them or not, over the number of ranks. */
static void look_around(lm_trainer *t) {
  MPI_Comm node;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(0, sizeof cores, &cores);
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &t->node_rank);
  MPI_Comm_size(node, &t->node_ranks);
  MPI_Allreduce(MPI_IN_PLACE, &cores, sizeof cores, MPI_BYTE, MPI_BOR, node);
  MPI_Comm_free(&node);
  const int threads = CPU_COUNT(&cores) / t->node_ranks;
  t->threads = t->options.threads ? (int)t->options.threads : threads > 1 ? threads : 1;
}

static bool open_device(lm_trainer *t) {
  if (lm_device_open(&t->device, (int32_t)t->options.device, t->node_rank)) return true;
  snprintf(t->error, sizeof t->error, "--device: rank %d: %s", t->rank, t->device.error);
  return false;
}

static bool open_memory(lm_trainer *t) {
  const lm_config config = model_config(&t->options);
  const size_t batch_bytes = (size_t)(t->options.batch * t->options.context);
  t->inputs = malloc(batch_bytes);
  t->targets = malloc(batch_bytes);
  if (lm_model_init(&t->model, &config, &t->device) && t->inputs && t->targets) return true;
  snprintf(t->error, sizeof t->error, "rank %d: no memory for activations: %.1f MiB needed%s%s",
           t->rank, (double)lm_model_bytes(&config, &t->device) / (1 << 20),
           t->device.error[0] ? "; " : "", t->device.error);
  return false;
}

static bool open_log(lm_trainer *t) {
  if (t->rank != 0 || lm_progress_open(&t->progress, &t->options)) return true;
  snprintf(t->error, sizeof t->error, "--log: %s: %s", t->options.log, strerror(errno));
  return false;
}

static bool open_library(lm_trainer *t) {
  zero1_comm_options options;
  zero1_comm_options_init(&options, sizeof options);
  options.ranks_per_node = (int32_t)t->options.ranks_per_node;
  options.error_text = t->error;
  options.error_bytes = sizeof t->error;
  if (zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &t->comm)) return false;
  const zero1_status status = open_sharded(t);
  if (status) {
    snprintf(t->error, sizeof t->error, "%s: %s", zero1_status_string(status),
             t->device.error[0] ? t->device.error : zero1_comm_last_error(t->comm));
    return false;
  }
  t->tensors = lm_sharded_tensors(&t->sharded);
  return true;
}

/* Each part on all ranks before the next, so that no rank is left alone in a collective call. */
bool lm_trainer_open(lm_trainer *t) {
  const lm_options *const options = &t->options;
  if (!lm_agree(
          t, lm_data_open(&t->data, options->data, options->context, t->error, sizeof t->error)) ||
      !lm_agree(t, open_log(t))) {
    return false;
  }
  look_around(t);
  if (!lm_agree(t, open_device(t)) || !lm_agree(t, open_memory(t))) return false;
  openblas_set_num_threads(t->threads);
  return lm_agree(t, open_library(t));
}

bool lm_trainer_close(lm_trainer *t) {
  bool ok = lm_progress_close(&t->progress);
  if (!ok) {
    snprintf(t->error, sizeof t->error, "--log: %s could not be written", t->options.log);
  }
  ok = lm_agree(t, ok);
  lm_sharded_close(&t->sharded);
  zero1_comm_destroy(&t->comm);
  lm_model_free(&t->model);
  lm_device_close(&t->device);
  lm_data_close(&t->data);
  free(t->inputs);
  free(t->targets);
  return ok;
}

bool lm_trainer_list_gpus(lm_trainer *t) {
  char error[LM_DEVICE_TEXT_BYTES];
  const int32_t count = lm_gpu_count(error);
  if (count == 0) snprintf(t->error, sizeof t->error, "--list-gpus: %s", error);
  for (int32_t i = 0; t->rank == 0 && i < count; ++i) {
    char name[LM_DEVICE_TEXT_BYTES];
    lm_gpu_name(i, name);
    printf("%d %s\n", i, name);
  }
  return lm_agree(t, count > 0);
}

lm_setting lm_trainer_setting(lm_trainer *t) {
  return (lm_setting){.options = &t->options,
                      .data = &t->data,
                      .device = &t->device,
                      .comm = t->comm,
                      .optimizer = t->sharded.optimizer,
                      .param_numel = lm_total_numel(&t->model.config),
                      .activation_bytes = lm_model_bytes(&t->model.config, &t->device),
                      .threads = t->threads};
}
