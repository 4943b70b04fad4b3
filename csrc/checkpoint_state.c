#include "checkpoint_state.h"

#include <string.h>

#include "checkpoint_folder.h"
#include "dtype.h"
#include "rules.h"
#include "safetensors.h"

static zero1_status fail(const zero1__reader *reader, zero1__error *error, const char *what) {
  return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path, "%s", what);
}

/* The state that is saved, of which the one that is asked for is made. */
static zero1_status find_saved(const zero1__reader *reader, const zero1__state_request *request,
                               int32_t *saved, zero1__error *error) {
  const zero1__manifest *const manifest = &reader->manifest;
  const zero1__registry *const params = &manifest->params;
  const int32_t state = request->state;
  if (request->param < 0 || request->param >= params->count)
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path,
                          "there is no parameter %lld: it has %lld", (long long)request->param,
                          (long long)params->count);
  if (state < 0 || state >= ZERO1__STATE_COUNT)
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path, "there is no state %d", state);
  *saved = state;
  if (params->flags[request->param] & ZERO1_PARAM_FROZEN) {
    *saved = ZERO1_STATE_PARAM;
    if (state <= ZERO1_STATE_MASTER_PARAM) return ZERO1_OK;
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path,
                          "parameter '%.100s' is frozen, and has no %s",
                          params->names[request->param], zero1__state_name(state));
  }
  if (state == ZERO1_STATE_PARAM) *saved = ZERO1_STATE_MASTER_PARAM;
  if (state != ZERO1_STATE_RESIDUAL) return ZERO1_OK;
  if (request->rank < 0 || request->rank >= manifest->world_size)
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path, "rank %d of %d", request->rank,
                          manifest->world_size);
  return reader->has_residual ? ZERO1_OK : fail(reader, error, "it has no residuals");
}

/* How one request converts. */
typedef struct conversion {
  const zero1__state_request *request;
  int32_t from;     /* saved data type */
  int32_t narrowed; /* 1: saved wider than the parameter is, and asked for as fp32 */
} conversion;

/* Elements of [count], at any address. */
static void convert(const conversion *by, const char *data, int64_t count, char *out) {
  const size_t to_bytes = zero1__dtype_bytes(by->request->dtype);
  if (by->from == by->request->dtype && !by->narrowed) {
    memcpy(out, data, (size_t)count * to_bytes);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    float value;
    uint16_t half;
    if (by->from == ZERO1_DTYPE_BF16) {
      memcpy(&half, data + (size_t)i * sizeof half, sizeof half);
      value = zero1__bf16_to_fp32(half);
    } else {
      memcpy(&value, data + (size_t)i * sizeof value, sizeof value);
    }
    if (by->narrowed) value = zero1__round_to_bf16(value);
    half = zero1__fp32_to_bf16(value);
    if (by->request->dtype == ZERO1_DTYPE_BF16)
      memcpy(out + (size_t)i * sizeof half, &half, sizeof half);
    else
      memcpy(out + (size_t)i * sizeof value, &value, sizeof value);
  }
}

static zero1_status take(void *context, const zero1__wanted *wanted, int64_t begin, int64_t count,
                         const void *data, zero1__error *error) {
  const conversion *const by = context;
  const size_t to_bytes = zero1__dtype_bytes(by->request->dtype);
  (void)error;
  convert(by, data, count, (char *)by->request->out + (size_t)(begin - wanted->begin) * to_bytes);
  return ZERO1_OK;
}

zero1_status zero1__state_read(const zero1__reader *reader, const zero1__state_request *request,
                               zero1__error *error) {
  int32_t saved = 0;
  const zero1_status status = find_saved(reader, request, &saved, error);
  if (status) return status;
  if (!zero1__dtype_valid(request->dtype))
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path, "there is no dtype %d",
                          request->dtype);
  if (!request->out && request->begin != request->end) return fail(reader, error, "out is NULL");
  const int32_t param_dtype = reader->manifest.param_dtype;
  const zero1__wanted wanted = {.param = request->param,
                                .state = saved,
                                .rank = request->rank,
                                .begin = request->begin,
                                .end = request->end};
  conversion by = {.request = request, .from = zero1__saved_dtype(saved, param_dtype)};
  by.narrowed = request->state == ZERO1_STATE_PARAM && saved == ZERO1_STATE_MASTER_PARAM &&
                param_dtype == ZERO1_DTYPE_BF16 && request->dtype == ZERO1_DTYPE_FP32;
  return zero1__reader_run(reader, &wanted, 1, 0, take, &by, error);
}
