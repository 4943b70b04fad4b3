/* The public call that loads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_root.h"
#include "fnv.h"
#include "load_state.h"
#include "optimizer.h"
#include "struct_size.h"

zero1_status zero1_load_options_init(zero1_load_options *options, size_t options_bytes) {
  const zero1_load_options defaults = {.size = sizeof defaults};
  return zero1__struct_put(options, options_bytes, &defaults, sizeof defaults);
}

/* ---- which checkpoint ---- */

/** What rank 0 has found; every rank takes it from its own view of the folder. */
typedef struct found {
  char name[1024];   /* within the root, or a whole path; empty: dir itself */
  uint64_t manifest; /* 0: not read yet */
  uint64_t options;  /* a hash */
} found;

/* Rank 0 alone follows `latest`, which another job may be moving. */
static zero1_status find(zero1_optimizer *optimizer, const char *dir, char *path, size_t bytes,
                         found *mine) {
  zero1__error *error = &optimizer->error;
  memset(mine, 0, sizeof *mine);
  zero1_status status = zero1__root_check(dir, "dir", error);
  if (status || optimizer->comm->rank) return status;
  status = zero1__root_resolve(dir, path, bytes, error);
  if (status) return status;
  size_t same = strlen(dir); /* path begins with it, but for slashes at its end */
  while (same && dir[same - 1] == '/') --same;
  const int within = !strncmp(path, dir, same) && (path[same] == '/' || !path[same]);
  const char *name = within ? path + same : path; /* `latest` may lead out of the root */
  while (within && *name == '/') ++name;
  if (strlen(name) >= sizeof mine->name)
    return zero1__fail(error, ZERO1_ERR_INVALID, "%.200s leads to too long a path", dir);
  memcpy(mine->name, name, strlen(name));
  return ZERO1_OK;
}

/* status: what this rank found by itself. */
static zero1_status gather_found(zero1_optimizer *optimizer, zero1_status status, found *mine) {
  const size_t world = (size_t)optimizer->comm->world_size;
  void *gathered;
  status = zero1__optimizer_collect(optimizer, status, mine, sizeof *mine, &gathered);
  const found *all = gathered;
  for (size_t rank = 1; rank < world && !status; ++rank)
    if (all[rank].manifest != all[0].manifest || all[rank].options != all[0].options)
      status = zero1__fail(&optimizer->error, ZERO1_ERR_MISMATCH, "ranks 0 and %zu have %s", rank,
                           all[rank].options != all[0].options ? "given different options"
                                                               : "found different checkpoints");
  if (!status) *mine = all[0];
  free(gathered);
  return status;
}

static uint64_t hash_options(const zero1_load_options *options) {
  const int32_t numbers[] = {options->weights_only, options->keep_hyper,
                             options->allow_dtype_change};
  uint64_t hash = zero1__fnv(ZERO1__FNV_BEGIN, numbers, sizeof numbers);
  hash = zero1__fnv_text(hash, options->allow_missing ? options->allow_missing : "");
  return zero1__fnv_text(hash, options->allow_extra ? options->allow_extra : "");
}

static zero1_status open_reader(zero1_optimizer *optimizer, const char *dir,
                                const zero1_load_options *options, zero1__reader *reader) {
  char path[4096];
  found mine = {0};
  zero1_status status = zero1__optimizer_check_idle(optimizer);
  if (!status) status = find(optimizer, dir, path, sizeof path, &mine);
  mine.options = hash_options(options);
  status = gather_found(optimizer, status, &mine);
  if (status) return status;
  if (*mine.name == '/')
    memcpy(path, mine.name, sizeof mine.name);
  else
    snprintf(path, sizeof path, "%s%s%s", dir, *mine.name ? "/" : "", mine.name);
  status = zero1__reader_begin(reader, path, &optimizer->error);
  mine.manifest = reader->manifest.xxh3 | 1;
  return gather_found(optimizer, status, &mine);
}

/* ---- what changes ---- */

/* The default of its world stays that of this one; another keeps the mean over ranks. */
static double scale_for(const zero1__manifest *manifest, int32_t world) {
  if (manifest->world_size == world) return manifest->grad_scale;
  if (manifest->grad_scale == 1.0 / manifest->world_size) return 1.0 / world;
  return manifest->grad_scale * manifest->world_size / world;
}

static double loaded_scale(const zero1__load_plan *plan) {
  const zero1_load_options *options = plan->options;
  if (options->weights_only || options->keep_hyper)
    return plan->optimizer->settings.config.grad_scale;
  return scale_for(&plan->reader->manifest, plan->optimizer->comm->world_size);
}

static void set_numbers(const zero1__load_plan *plan) {
  zero1_optimizer *optimizer = plan->optimizer;
  const zero1__manifest *manifest = &plan->reader->manifest;
  zero1_config *config = &optimizer->settings.config;
  if (plan->options->weights_only) return;
  zero1__schedule_set_count(&optimizer->schedule, manifest->count, manifest->attempts);
  if (plan->options->keep_hyper) return;
  config->grad_scale = loaded_scale(plan);
  config->max_grad_norm = manifest->max_grad_norm;
  config->skip_grad_norm = manifest->skip_grad_norm;
  memcpy(optimizer->settings.groups, manifest->groups,
         (size_t)manifest->group_count * sizeof *manifest->groups);
}

/* What the checkpoint does not have keeps its value: its master is that, too. */
static void prepare_masters(zero1_optimizer *optimizer) {
  if (zero1__buffers_have_masters(&optimizer->buffers) && !optimizer->has_masters)
    zero1__optimizer_set_masters(optimizer, 0);
}

static zero1_status load_into(const zero1__load_plan *plan) {
  zero1_optimizer *optimizer = plan->optimizer;
  optimizer->half_loaded = 1;
  prepare_masters(optimizer);
  zero1_status status = zero1__load_state(plan, &optimizer->error);
  if (!status && !plan->options->weights_only)
    status = zero1__load_residuals(plan, loaded_scale(plan), &optimizer->error);
  status = zero1__optimizer_agree(optimizer, status);
  if (!status) status = zero1__load_gather(optimizer);
  if (status) return status;
  set_numbers(plan);
  optimizer->has_masters = 1;
  status = zero1__optimizer_agree(optimizer, zero1__optimizer_check_device(optimizer));
  optimizer->half_loaded = status != ZERO1_OK;
  return status;
}

static zero1_status take_options(zero1_optimizer *optimizer, const zero1_load_options *given,
                                 zero1_load_options *options) {
  (void)zero1_load_options_init(options, sizeof *options);
  if (!given) return ZERO1_OK;
  return zero1__struct_get(given, given->size, options, sizeof *options, "zero1_load_options",
                           &optimizer->error);
}

zero1_status zero1_checkpoint_load(zero1_optimizer *optimizer, const char *dir,
                                   const zero1_load_options *given) {
  zero1_load_options options;
  zero1__reader reader;
  zero1__load_plan plan;
  memset(&reader, 0, sizeof reader);
  memset(&plan, 0, sizeof plan);
  zero1_status status = zero1__optimizer_begin_collective(optimizer, "checkpoint_load");
  if (status) return status;
  zero1__hold_sync(optimizer->schedule.hold);
  status = zero1__optimizer_agree(optimizer, take_options(optimizer, given, &options));
  if (!status) status = open_reader(optimizer, dir, &options, &reader);
  if (!status)
    status = zero1__optimizer_agree(
        optimizer, zero1__load_plan_begin(&plan, optimizer, &reader, &options, &optimizer->error));
  if (!status) status = load_into(&plan);
  zero1__load_plan_end(&plan);
  zero1__reader_end(&reader);
  return status;
}
