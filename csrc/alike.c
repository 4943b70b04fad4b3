#include "alike.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fnv.h"

/* Names and values of the fields that must be alike: numbers to be compared and printed. */
#define FIELDS(X)                                               \
  X("config.device", config->device)                            \
  X("config.param_dtype", config->param_dtype)                  \
  X("config.grad_dtype", config->grad_dtype)                    \
  X("config.grad_wire_dtype", config->grad_wire_dtype)          \
  X("config.param_wire_dtype", config->param_wire_dtype)        \
  X("config.share_params", config->share_params)                \
  X("config.bucket_numel", config->bucket_numel)                \
  X("config.reduce_group", config->reduce_group)                \
  X("config.overlap", config->overlap)                          \
  X("config.guard", config->guard)                              \
  X("config.grad_scale", config->grad_scale)                    \
  X("config.max_grad_norm", config->max_grad_norm)              \
  X("config.skip_grad_norm", config->skip_grad_norm)            \
  X("config.offload", config->offload)                          \
  X("config.find_culprit", config->find_culprit)                \
  X("config.agree_comm (1: given)", config->agree_comm != NULL) \
  X("config.group_count", config->group_count)

#define GROUP_FIELDS(X)                  \
  X("lr", group->lr)                     \
  X("beta1", group->beta1)               \
  X("beta2", group->beta2)               \
  X("eps", group->eps)                   \
  X("weight_decay", group->weight_decay) \
  X("decoupled_weight_decay", group->decoupled_weight_decay)

#define NAME(name, value) name,
#define VALUE(name, value) (double)(value),

static const char *const field_names[] = {FIELDS(NAME)};
static const char *const group_names[] = {GROUP_FIELDS(NAME)};
enum {
  FIELD_COUNT = sizeof field_names / sizeof *field_names,
  GROUP_FIELD_COUNT = sizeof group_names / sizeof *group_names,
  HASHES = 64, /* parameters compared at once */
  LINE_BYTES = 160
};

typedef struct header {
  uint64_t version, settings, params;
  int64_t param_count;
} header;

/* Everything gathered goes here: room for the largest of it from every rank. */
typedef union gathered {
  header header;
  double fields[FIELD_COUNT];
  double group[GROUP_FIELD_COUNT];
  uint64_t hashes[HASHES];
  char line[LINE_BYTES];
} gathered;

uint64_t zero1__groups_hash(const zero1_group *groups, int64_t count) {
  uint64_t hash = ZERO1__FNV_BEGIN;
  for (int64_t i = 0; i < count; ++i) {
    const zero1_group *group = &groups[i];
    const double values[] = {GROUP_FIELDS(VALUE)};
    hash = zero1__fnv(hash, values, sizeof values);
  }
  return hash;
}

static header header_of(const zero1__settings *settings, const zero1__registry *registry) {
  const zero1_config *config = &settings->config;
  const double values[] = {FIELDS(VALUE)};
  header mine = {.version = ZERO1_VERSION, .param_count = registry->count};
  mine.settings = zero1__groups_hash(config->groups, config->group_count);
  mine.settings = zero1__fnv(mine.settings, values, sizeof values);
  mine.params = ZERO1__FNV_BEGIN;
  for (int64_t i = 0; i < registry->count; ++i) {
    const uint64_t hash = zero1__registry_hash(registry, i);
    mine.params = zero1__fnv(mine.params, &hash, sizeof hash);
  }
  return mine;
}

/* Compares rows of numbers; the first column that differs is named. */
static zero1_status compare_numbers(zero1__lane *lane, const double *mine, double *all,
                                    const char *const *names, int32_t count, const char *what,
                                    zero1__error *error) {
  const zero1_status status =
      zero1__lane_gather(lane, mine, all, (size_t)count * sizeof *mine, error);
  if (status) return status;
  for (int32_t i = 0; i < count; ++i)
    for (int32_t rank = 1; rank < lane->comm->world_size; ++rank) {
      const double *row = all + (size_t)rank * (size_t)count;
      if (memcmp(&row[i], &all[i], sizeof *all))
        return zero1__fail(error, ZERO1_ERR_MISMATCH,
                           "%s%s is %.17g on rank 0 and %.17g on rank %d", names[i], what, all[i],
                           row[i], rank);
    }
  return ZERO1_OK;
}

static zero1_status compare_settings(zero1__lane *lane, const zero1_config *config, gathered *all,
                                     zero1__error *error) {
  const double fields[] = {FIELDS(VALUE)};
  zero1_status status =
      compare_numbers(lane, fields, (double *)all, field_names, FIELD_COUNT, "", error);
  for (int64_t i = 0; i < config->group_count && !status; ++i) {
    const zero1_group *group = &config->groups[i];
    const double values[] = {GROUP_FIELDS(VALUE)};
    char what[40];
    snprintf(what, sizeof what, " of group %lld", (long long)i);
    status =
        compare_numbers(lane, values, (double *)all, group_names, GROUP_FIELD_COUNT, what, error);
  }
  return status;
}

/* Names parameter `index` as ranks 0 and `rank` have it. */
static zero1_status name_difference(zero1__lane *lane, const zero1__registry *registry,
                                    int64_t index, int32_t rank, gathered *all,
                                    zero1__error *error) {
  char mine[LINE_BYTES] = "";
  const char *lines = (const char *)all;
  zero1__registry_describe(registry, index, mine, sizeof mine);
  const zero1_status status = zero1__lane_gather(lane, mine, all, sizeof mine, error);
  if (status) return status;
  return zero1__fail(error, ZERO1_ERR_MISMATCH,
                     "parameter %lld is %.140s on rank 0, and %.140s on rank %d", (long long)index,
                     lines, lines + (size_t)rank * LINE_BYTES, rank);
}

/* Walks all parameters, up to the largest count of any rank, until one differs. */
static zero1_status compare_params(zero1__lane *lane, const zero1__registry *registry,
                                   int64_t count, gathered *all, zero1__error *error) {
  for (int64_t begin = 0; begin < count; begin += HASHES) {
    uint64_t mine[HASHES] = {0};
    const uint64_t *hashes = (const uint64_t *)all;
    for (int64_t i = 0; i < HASHES && begin + i < registry->count; ++i)
      mine[i] = zero1__registry_hash(registry, begin + i);
    const zero1_status status = zero1__lane_gather(lane, mine, all, sizeof mine, error);
    if (status) return status;
    for (int64_t i = 0; i < HASHES; ++i)
      for (int32_t rank = 1; rank < lane->comm->world_size; ++rank)
        if (hashes[(int64_t)rank * HASHES + i] != hashes[i])
          return name_difference(lane, registry, begin + i, rank, all, error);
  }
  return ZERO1_OK;
}

static zero1_status compare(zero1__lane *lane, const zero1__settings *settings,
                            const zero1__registry *registry, gathered *all, zero1__error *error) {
  const header mine = header_of(settings, registry);
  const int32_t world = lane->comm->world_size;
  header *headers = (header *)all;
  zero1_status status = zero1__lane_gather(lane, &mine, headers, sizeof mine, error);
  if (status) return status;
  int settings_alike = 1, params_alike = 1;
  int64_t largest = headers[0].param_count;
  for (int32_t rank = 1; rank < world; ++rank) {
    if (headers[rank].version != headers[0].version)
      return zero1__fail(
          error, ZERO1_ERR_MISMATCH, "the library's version is %llu on rank 0 and %llu on rank %d",
          (unsigned long long)headers[0].version, (unsigned long long)headers[rank].version, rank);
    settings_alike &= headers[rank].settings == headers[0].settings;
    params_alike &= headers[rank].params == headers[0].params &&
                    headers[rank].param_count == headers[0].param_count;
    if (headers[rank].param_count > largest) largest = headers[rank].param_count;
  }
  if (!settings_alike) status = compare_settings(lane, &settings->config, all, error);
  if (!params_alike && !status) status = compare_params(lane, registry, largest, all, error);
  return status;
}

zero1_status zero1__agree_alike(zero1__lane *lane, const zero1__settings *settings,
                                const zero1__registry *registry, zero1__error *error) {
  gathered *all = calloc((size_t)lane->comm->world_size, sizeof *all);
  zero1_status status =
      all ? ZERO1_OK : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to compare the ranks");
  status = zero1__lane_agree(lane, status, error);
  if (!status) status = compare(lane, settings, registry, all, error);
  free(all);
  return status;
}
