#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dtype.h"
#include "struct_size.h"

#define THREADS_MAX 4096

uint32_t zero1_version(void) {
  return ZERO1_VERSION;
}

static void default_group(zero1_group *group) {
  memset(group, 0, sizeof *group);
  group->size = sizeof *group;
  group->lr = 1e-3;
  group->beta1 = 0.9;
  group->beta2 = 0.999;
  group->eps = 1e-8;
  group->weight_decay = 0.01;
  group->decoupled_weight_decay = 1;
}

static void default_config(zero1_config *config) {
  memset(config, 0, sizeof *config);
  config->size = sizeof *config;
  config->version = ZERO1_VERSION;
  config->share_params = 1;
  config->overlap = 1;
  config->guard = 1;
  config->group_bytes = sizeof(zero1_group);
  config->stream = ZERO1_STREAM_DEFAULT;
  config->device_index = -1;
}

zero1_status zero1_group_init(zero1_group *group, size_t group_bytes) {
  zero1_group defaults;
  default_group(&defaults);
  return zero1__struct_put(group, group_bytes, &defaults, sizeof defaults);
}

zero1_status zero1_config_init(zero1_config *config, size_t config_bytes) {
  zero1_config defaults;
  default_config(&defaults);
  return zero1__struct_put(config, config_bytes, &defaults, sizeof defaults);
}

/* ---- checks ---- */

zero1_status zero1__at_least_zero(const char *name, double value, zero1__error *error) {
  if (value >= 0 && isfinite(value)) return ZERO1_OK;
  return zero1__fail(error, ZERO1_ERR_INVALID, "%s is %g, not a finite number of at least 0", name,
                     value);
}

static zero1_status check_flag(const char *name, int32_t value, zero1__error *error) {
  if (value == 0 || value == 1) return ZERO1_OK;
  return zero1__fail(error, ZERO1_ERR_INVALID, "%s is %d, neither 0 nor 1", name, value);
}

static zero1_status check_dtype(const char *name, int32_t value, zero1__error *error) {
  if (zero1__dtype_valid(value)) return ZERO1_OK;
  return zero1__fail(error, ZERO1_ERR_INVALID, "%s is %d, no ZERO1_DTYPE_", name, value);
}

static zero1_status check_wires(const zero1_config *config, zero1__error *error) {
  const int32_t grad = config->grad_wire_dtype, param = config->param_wire_dtype;
  if (grad < ZERO1_WIRE_AS_IN_MEMORY || grad > ZERO1_WIRE_INT8)
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.grad_wire_dtype is %d, no ZERO1_WIRE_",
                       grad);
  if (param < ZERO1_WIRE_AS_IN_MEMORY || param > ZERO1_WIRE_BF16)
    return zero1__fail(error, ZERO1_ERR_INVALID,
                       "config.param_wire_dtype is %d, no ZERO1_WIRE_ of parameters", param);
  if (grad == ZERO1_WIRE_INT8 && config->device != ZERO1_DEVICE_HOST)
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "config.grad_wire_dtype is ZERO1_WIRE_INT8: gradients in memory of a GPU "
                       "travel in fp32 or bf16");
  return ZERO1_OK;
}

static zero1_status check_group_value(const char *name, double value, int64_t index, int is_beta,
                                      zero1__error *error) {
  if (isfinite(value) && value >= 0 && (!is_beta || value < 1)) return ZERO1_OK;
  return zero1__fail(error, ZERO1_ERR_INVALID, "%s of group %lld is %g, not %s", name,
                     (long long)index, value,
                     is_beta ? "in [0, 1)" : "a finite number of at least 0");
}

zero1_status zero1__group_check(const zero1_group *group, int64_t index, zero1__error *error) {
  zero1_status status = check_group_value("lr", group->lr, index, 0, error);
  if (!status) status = check_group_value("beta1", group->beta1, index, 1, error);
  if (!status) status = check_group_value("beta2", group->beta2, index, 1, error);
  if (!status) status = check_group_value("eps", group->eps, index, 0, error);
  if (!status) status = check_group_value("weight_decay", group->weight_decay, index, 0, error);
  if (!status)
    status = check_flag("decoupled_weight_decay of a group", group->decoupled_weight_decay, error);
  return status;
}

static zero1_status check_numbers(const zero1_config *config, int32_t world_size,
                                  zero1__error *error) {
  if (config->bucket_numel < 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.bucket_numel is %lld, less than 0",
                       (long long)config->bucket_numel);
  if (config->reduce_group < 0 || (config->reduce_group && world_size % config->reduce_group != 0))
    return zero1__fail(error, ZERO1_ERR_INVALID,
                       "config.reduce_group is %d, which does not divide the %d ranks",
                       config->reduce_group, world_size);
  if (config->threads < 0 || config->threads > THREADS_MAX)
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.threads is %d, not in [0, %d]",
                       config->threads, THREADS_MAX);
  zero1_status status = zero1__at_least_zero("config.grad_scale", config->grad_scale, error);
  if (!status) status = zero1__at_least_zero("config.max_grad_norm", config->max_grad_norm, error);
  if (!status)
    status = zero1__at_least_zero("config.skip_grad_norm", config->skip_grad_norm, error);
  if (!status)
    status = zero1__at_least_zero("config.timeout_seconds", config->timeout_seconds, error);
  return status;
}

static zero1_status check_device(const zero1_config *config, zero1__error *error) {
  const int on_host = config->device == ZERO1_DEVICE_HOST;
  if (!on_host && config->device != ZERO1_DEVICE_CUDA)
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.device is %d, no ZERO1_DEVICE_",
                       config->device);
  if (on_host && config->stream && config->stream != ZERO1_STREAM_DEFAULT)
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.stream is no stream of the host");
  if (config->device_index < -1 || (on_host && config->device_index > 0))
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.device_index is %d, of %s",
                       config->device_index, on_host ? "the host, which is one" : "no GPU");
  if (!(config->offload >= 0 && config->offload <= 1))
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.offload is %g, not in [0, 1]",
                       config->offload);
  if (on_host && config->offload > 0)
    return zero1__fail(error, ZERO1_ERR_INVALID,
                       "config.offload is %g, and config.device the host: there is nothing to "
                       "offload from",
                       config->offload);
  return check_flag("config.find_culprit", config->find_culprit, error);
}

static zero1_status check(const zero1_config *config, int32_t world_size, zero1__error *error) {
  if (config->version / 100 != ZERO1_VERSION / 100)
    return zero1__fail(error, ZERO1_ERR_VERSION,
                       "config.version is %u, the library's %u (was it initialised?)",
                       config->version, (unsigned)ZERO1_VERSION);
  zero1_status status = check_dtype("config.param_dtype", config->param_dtype, error);
  if (!status) status = check_dtype("config.grad_dtype", config->grad_dtype, error);
  if (!status) status = check_flag("config.share_params", config->share_params, error);
  if (!status) status = check_flag("config.overlap", config->overlap, error);
  if (!status) status = check_flag("config.guard", config->guard, error);
  if (!status) status = check_device(config, error);
  if (!status) status = check_wires(config, error);
  if (!status && config->reserved)
    status =
        zero1__fail(error, ZERO1_ERR_INVALID, "config.reserved is %d, not 0", config->reserved);
  if (!status) status = check_numbers(config, world_size, error);
  return status;
}

int32_t zero1__config_two_passes(const zero1_config *config) {
  return config->agree_comm || config->guard || config->max_grad_norm > 0 ||
         config->skip_grad_norm > 0 || config->offload > 0 ||
         config->grad_wire_dtype == ZERO1_WIRE_INT8;
}

/* ---- groups ---- */

static zero1_status take_groups(zero1__settings *settings, zero1__error *error) {
  zero1_config *config = &settings->config;
  const int given = config->groups != NULL;
  if (given ? config->group_count < 1 : config->group_count != 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "config.group_count is %lld with groups %s",
                       (long long)config->group_count, given ? "given" : "NULL");
  const int64_t count = given ? config->group_count : 1;
  settings->groups = count <= INT32_MAX ? calloc((size_t)count, sizeof *settings->groups) : NULL;
  if (!settings->groups)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %lld groups", (long long)count);
  for (int64_t i = 0; i < count; ++i) {
    zero1_group *group = &settings->groups[i];
    default_group(group);
    if (given) {
      const char *from = (const char *)config->groups + (size_t)i * config->group_bytes;
      size_t size;
      memcpy(&size, from, sizeof size);
      zero1_status status =
          size > config->group_bytes
              ? zero1__fail(error, ZERO1_ERR_VERSION,
                            "group %lld has size %zu, and config.group_bytes is %zu", (long long)i,
                            size, config->group_bytes)
              : zero1__struct_get(from, size, group, sizeof *group, "zero1_group", error);
      if (!status) status = zero1__group_check(group, i, error);
      if (status) return status;
    }
  }
  config->groups = settings->groups;
  config->group_count = count;
  config->group_bytes = sizeof *settings->groups;
  return ZERO1_OK;
}

/* docs/performance.md says why. */
static int64_t default_bucket_numel(int32_t device) {
  return (int64_t)(device == ZERO1_DEVICE_HOST ? 2 : 16) << 20;
}

zero1_status zero1__settings_begin(zero1__settings *settings, const zero1_config *config,
                                   int32_t world_size, zero1__error *error) {
  memset(settings, 0, sizeof *settings);
  default_config(&settings->config);
  if (!config) return zero1__fail(error, ZERO1_ERR_INVALID, "config is NULL");
  zero1_status status = zero1__struct_get(config, config->size, &settings->config,
                                          sizeof settings->config, "zero1_config", error);
  if (!status) status = check(&settings->config, world_size, error);
  if (!status) status = take_groups(settings, error);
  if (!status && !settings->config.bucket_numel)
    settings->config.bucket_numel = default_bucket_numel(settings->config.device);
  if (!status && !settings->config.grad_scale) settings->config.grad_scale = 1.0 / world_size;
  return status;
}

void zero1__settings_end(zero1__settings *settings) {
  free(settings->groups);
  memset(settings, 0, sizeof *settings);
}
