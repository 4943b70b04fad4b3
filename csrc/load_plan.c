#include "load_plan.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

/* ---- does it fit ---- */

/* Whether a name matches one of the patterns, which commas separate. */
static int matches(const char *patterns, const char *name) {
  char one[512];
  for (const char *at = patterns; at && *at;) {
    const size_t length = strcspn(at, ",");
    if (length && length < sizeof one) {
      memcpy(one, at, length);
      one[length] = 0;
      if (!fnmatch(one, name, 0)) return 1;
    }
    at += length + (at[length] == ',');
  }
  return 0;
}

static zero1_status check_patterns(const char *patterns, const char *what, zero1__error *error) {
  for (const char *at = patterns; at && *at;) {
    const size_t length = strcspn(at, ",");
    if (length >= 512)
      return zero1__fail(error, ZERO1_ERR_INVALID,
                         "options.%s has a pattern of %zu bytes; at most 511", what, length);
    at += length + (at[length] == ',');
  }
  return ZERO1_OK;
}

static int same_shape(const zero1__registry *a, int64_t i, const zero1__registry *b, int64_t j) {
  return a->ndim[i] == b->ndim[j] &&
         (!a->ndim[i] ||
          !memcmp(a->shapes[i], b->shapes[j], (size_t)a->ndim[i] * sizeof *a->shapes[i]));
}

static zero1_status differ(const zero1__load_plan *plan, int64_t saved, int64_t index,
                           const char *how, zero1__error *error) {
  char there[160], here[160];
  zero1__registry_describe(&plan->reader->manifest.params, saved, there, sizeof there);
  zero1__registry_describe(&plan->optimizer->registry, index, here, sizeof here);
  return zero1__fail(error, ZERO1_ERR_MISMATCH, "%s: the checkpoint has %s, the optimizer %s", how,
                     there, here);
}

static zero1_status check_param(const zero1__load_plan *plan, int64_t saved, int64_t index,
                                zero1__error *error) {
  const zero1__registry *there = &plan->reader->manifest.params;
  const zero1__registry *here = &plan->optimizer->registry;
  const zero1_load_options *options = plan->options;
  if (!same_shape(there, saved, here, index))
    return differ(plan, saved, index, "shapes differ", error);
  if (options->weights_only) return ZERO1_OK;
  if ((there->flags[saved] ^ here->flags[index]) & ZERO1_PARAM_FROZEN)
    return differ(plan, saved, index, "frozen in one alone (weights_only takes it)", error);
  if (!options->keep_hyper && there->group[saved] != here->group[index])
    return differ(plan, saved, index, "groups differ (keep_hyper takes it)", error);
  return ZERO1_OK;
}

static const char *dtype_name(int32_t dtype) {
  return dtype == ZERO1_DTYPE_BF16 ? "bf16" : "fp32";
}

static zero1_status check_whole(const zero1__load_plan *plan, zero1__error *error) {
  const zero1__manifest *manifest = &plan->reader->manifest;
  const zero1_config *config = &plan->optimizer->settings.config;
  const zero1_load_options *options = plan->options;
  if (manifest->param_dtype != config->param_dtype && !options->allow_dtype_change)
    return zero1__fail(error, ZERO1_ERR_MISMATCH,
                       "%.200s has %s parameters, the optimizer %s (allow_dtype_change takes it)",
                       plan->reader->path, dtype_name(manifest->param_dtype),
                       dtype_name(config->param_dtype));
  if (!options->weights_only && !options->keep_hyper &&
      manifest->group_count != config->group_count)
    return zero1__fail(error, ZERO1_ERR_MISMATCH,
                       "%.200s has %lld groups, the optimizer %lld (keep_hyper takes it)",
                       plan->reader->path, (long long)manifest->group_count,
                       (long long)config->group_count);
  return ZERO1_OK;
}

static zero1_status check_extra(const zero1__load_plan *plan, zero1__error *error) {
  const zero1__registry *there = &plan->reader->manifest.params;
  for (int64_t i = 0; i < there->count; ++i)
    if (zero1__registry_find(&plan->optimizer->registry, there->names[i]) < 0 &&
        !matches(plan->options->allow_extra, there->names[i]))
      return zero1__fail(error, ZERO1_ERR_MISMATCH,
                         "%.200s has parameter '%.100s', which the optimizer has not",
                         plan->reader->path, there->names[i]);
  return ZERO1_OK;
}

static zero1_status match_params(zero1__load_plan *plan, zero1__error *error) {
  const zero1__registry *here = &plan->optimizer->registry;
  zero1_status status = ZERO1_OK;
  for (int64_t i = 0; i < here->count && !status; ++i) {
    const int64_t saved = zero1__registry_find(&plan->reader->manifest.params, here->names[i]);
    plan->saved[i] = saved;
    if (saved >= 0)
      status = check_param(plan, saved, i, error);
    else if (!matches(plan->options->allow_missing, here->names[i]))
      status = zero1__fail(error, ZERO1_ERR_MISMATCH,
                           "the optimizer has parameter '%.100s', which %.200s has not",
                           here->names[i], plan->reader->path);
  }
  return status;
}

zero1_status zero1__load_plan_begin(zero1__load_plan *plan, zero1_optimizer *optimizer,
                                    const zero1__reader *reader, const zero1_load_options *options,
                                    zero1__error *error) {
  *plan = (zero1__load_plan){optimizer, reader, options, NULL};
  plan->saved = calloc((size_t)optimizer->registry.count + 1, sizeof *plan->saved);
  if (!plan->saved) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to load");
  zero1_status status = check_patterns(options->allow_missing, "allow_missing", error);
  if (!status) status = check_patterns(options->allow_extra, "allow_extra", error);
  if (!status) status = check_whole(plan, error);
  if (!status) status = match_params(plan, error);
  if (!status) status = check_extra(plan, error);
  return status;
}

void zero1__load_plan_end(zero1__load_plan *plan) {
  free(plan->saved);
  plan->saved = NULL;
}

/* ---- what to read ---- */

typedef struct want_list {
  zero1__wanted *wanted;
  int64_t count, room;
} want_list;

static zero1_status want(want_list *list, const zero1__wanted *wanted, zero1__error *error) {
  if (list->count == list->room) {
    const int64_t room = 2 * list->room + 64;
    zero1__wanted *more = realloc(list->wanted, (size_t)room * sizeof *more);
    if (!more) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to load");
    list->wanted = more;
    list->room = room;
  }
  list->wanted[list->count++] = *wanted;
  return ZERO1_OK;
}

/* A master may come from a value that was frozen, and the other way round. */
static int32_t saved_state(const zero1__load_plan *plan, int64_t saved, int32_t state) {
  const int frozen = plan->reader->manifest.params.flags[saved] & ZERO1_PARAM_FROZEN;
  if (state == ZERO1_STATE_PARAM || state == ZERO1_STATE_MASTER_PARAM)
    return frozen ? ZERO1_STATE_PARAM : ZERO1_STATE_MASTER_PARAM;
  return state;
}

static zero1_status want_range(const zero1__load_plan *plan, want_list *list, int64_t param,
                               int32_t state, int64_t begin, int64_t end, zero1__error *error) {
  const int64_t saved = plan->saved[param];
  if (saved < 0 || begin >= end) return ZERO1_OK;
  const zero1__wanted wanted = {.param = saved,
                                .state = saved_state(plan, saved, state),
                                .begin = begin,
                                .end = end,
                                .tag = zero1__load_tag(param, state)};
  return want(list, &wanted, error);
}

static zero1_status want_shard(const zero1__load_plan *plan, want_list *list, int64_t bucket,
                               zero1__error *error) {
  const zero1__layout *layout = &plan->optimizer->layout;
  const int32_t last =
      plan->options->weights_only ? ZERO1_STATE_MASTER_PARAM : ZERO1_STATE_EXP_AVG_SQ;
  zero1_status status = ZERO1_OK;
  for (int32_t state = ZERO1_STATE_MASTER_PARAM; state <= last && !status; ++state) {
    zero1__walk walk =
        zero1__walk_begin(layout, zero1__layout_shard(layout, bucket, plan->optimizer->comm->rank));
    for (zero1__segment s; !status && zero1__walk_next(&walk, &s);)
      status = want_range(plan, list, layout->slots[s.slot].param, state, s.param_begin,
                          s.param_begin + s.numel, error);
  }
  return status;
}

zero1_status zero1__load_plan_wanted(const zero1__load_plan *plan, zero1__wanted **wanted,
                                     int64_t *count, zero1__error *error) {
  const zero1_optimizer *optimizer = plan->optimizer;
  const zero1__layout *layout = &optimizer->layout;
  want_list list = {NULL, 0, 0};
  zero1_status status = ZERO1_OK;
  for (int64_t bucket = layout->bucket_count - 1; bucket >= 0 && !status; --bucket)
    status = want_shard(plan, &list, bucket, error);
  /* Of the ranks that share their parameters, one reads those that nobody owns. */
  if (optimizer->comm->rank % optimizer->channel->params_sharers == 0)
    for (int64_t i = 0; i < layout->param_count && !status; ++i)
      if (optimizer->registry.flags[i] & ZERO1_PARAM_FROZEN)
        status = want_range(plan, &list, i, ZERO1_STATE_PARAM, 0, layout->numel[i], error);
  *wanted = list.wanted;
  *count = list.count;
  return status;
}
