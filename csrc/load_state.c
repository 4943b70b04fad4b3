#include "load_state.h"

#include <stdlib.h>
#include <string.h>

#include "residual.h"
#include "rules.h"

/* Elements that are converted at once. */
#define PIECE_NUMEL 16384

/* ---- a piece of a state ---- */

typedef struct load_place {
  const zero1__load_plan *plan;
  union {
    float fp32[PIECE_NUMEL];
    uint16_t bf16[PIECE_NUMEL];
  } params; /* on their way */
  float values[PIECE_NUMEL];
} load_place;

static void put(const zero1_optimizer *optimizer, void *to, const void *from, size_t bytes,
                int32_t on_host) {
  if (on_host)
    memcpy(to, from, bytes);
  else
    optimizer->device->ops->transfer(optimizer->device, to, from, bytes);
}

static int64_t block_at(const zero1_optimizer *optimizer, int64_t param, int64_t element) {
  return optimizer->layout.place_begin[param] + element / ZERO1__BLOCK;
}

/* [count] saved elements as fp32. */
static void widen(const void *data, int32_t dtype, int64_t count, float *values) {
  if (dtype == ZERO1_DTYPE_FP32) {
    memcpy(values, data, (size_t)count * sizeof *values);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    memcpy(&bits, (const char *)data + 2 * i, sizeof bits);
    values[i] = zero1__bf16_to_fp32(bits);
  }
}

/* Elements of a parameter: a frozen one's value, or (state: master) what its update leaves. */
static void put_param(load_place *place, int64_t param, int64_t begin, int64_t count,
                      int32_t state) {
  const zero1_optimizer *optimizer = place->plan->optimizer;
  const zero1__dtype dtype = optimizer->channel->config.param_dtype;
  const size_t each = zero1__dtype_bytes(dtype);
  const void *from = place->values;
  char *to = zero1__buffers_param(&optimizer->buffers, block_at(optimizer, param, begin));
  if (dtype == ZERO1_DTYPE_BF16) {
    for (int64_t i = 0; i < count; ++i)
      place->params.bf16[i] = zero1__fp32_to_bf16(place->values[i]);
    from = place->params.bf16;
  } else if (dtype == ZERO1__DTYPE_FP32_AS_BF16 && state == ZERO1_STATE_MASTER_PARAM) {
    for (int64_t i = 0; i < count; ++i)
      place->params.fp32[i] = zero1__round_to_bf16(place->values[i]);
    from = place->params.fp32;
  }
  put(optimizer, to + (size_t)(begin % ZERO1__BLOCK) * each, from, (size_t)count * each,
      optimizer->device->is_host);
}

/* Whether the master is memory of its own, beside the parameter. */
static int is_separate(const zero1_optimizer *optimizer, int64_t block) {
  const int64_t bucket = block / optimizer->layout.bucket_blocks;
  return bucket < optimizer->buffers.offloaded || optimizer->buffers.master_param.device != NULL;
}

/** Saved elements [begin, begin + count) of a parameter, of `dtype`, not aligned. */
typedef struct saved_piece {
  int64_t param, begin, count;
  const char *data;
  int32_t dtype;
} saved_piece;

/* Part by part, as fp32, to `put_part`. */
static void convert(load_place *place, const saved_piece *piece, int32_t state,
                    void (*put_part)(load_place *place, int64_t param, int64_t begin, int64_t count,
                                     int32_t state)) {
  for (int64_t at = 0; at < piece->count; at += PIECE_NUMEL) {
    const int64_t count = piece->count - at < PIECE_NUMEL ? piece->count - at : PIECE_NUMEL;
    widen(piece->data + (size_t)at * zero1__dtype_bytes(piece->dtype), piece->dtype, count,
          place->values);
    put_part(place, piece->param, piece->begin + at, count, state);
  }
}

static void put_bytes(const zero1_optimizer *optimizer, int64_t param, int32_t state, int64_t begin,
                      const void *values, int64_t count) {
  int32_t on_host;
  float *to = zero1__buffers_state_at(&optimizer->buffers, state, block_at(optimizer, param, begin),
                                      &on_host);
  put(optimizer, to + begin % ZERO1__BLOCK, values, (size_t)count * sizeof *to, on_host);
}

static void put_state(load_place *place, int64_t param, int64_t begin, int64_t count,
                      int32_t state) {
  put_bytes(place->plan->optimizer, param, state, begin, place->values, count);
}

static zero1_status take_piece(void *context, const zero1__wanted *wanted, int64_t begin,
                               int64_t count, const void *data, zero1__error *error) {
  load_place *place = context;
  const zero1_optimizer *optimizer = place->plan->optimizer;
  const saved_piece piece = {
      zero1__load_tag_param(wanted->tag), begin, count, data,
      zero1__saved_dtype(wanted->state, place->plan->reader->manifest.param_dtype)};
  const int32_t state = zero1__load_tag_state(wanted->tag);
  if (state == ZERO1_STATE_PARAM)
    convert(place, &piece, state, put_param);
  else if (piece.dtype == ZERO1_DTYPE_FP32) /* as it is: nearly all of a checkpoint */
    put_bytes(optimizer, piece.param, state, begin, data, count);
  else
    convert(place, &piece, state, put_state);
  if (state == ZERO1_STATE_MASTER_PARAM &&
      is_separate(optimizer, block_at(optimizer, piece.param, begin)))
    convert(place, &piece, state, put_param);
  return optimizer->device->ops->check(optimizer->device, error);
}

zero1_status zero1__load_state(const zero1__load_plan *plan, zero1__error *error) {
  zero1__wanted *wanted = NULL;
  int64_t count = 0;
  load_place *place = malloc(sizeof *place);
  if (!place) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to load");
  place->plan = plan;
  zero1_status status = zero1__load_plan_wanted(plan, &wanted, &count, error);
  if (!status) status = zero1__reader_run(plan->reader, wanted, count, 1, take_piece, place, error);
  free(wanted);
  free(place);
  return status;
}

/* ---- residuals, of the host alone ---- */

/* Bytes of the residuals of all ranks that are read at once. */
#define RESIDUAL_BYTES ((int64_t)16 << 20)

typedef struct residual_rows {
  float *rows; /* [ranks * numel] */
  int64_t begin, numel;
} residual_rows;

static zero1_status take_residual(void *context, const zero1__wanted *wanted, int64_t begin,
                                  int64_t count, const void *data, zero1__error *error) {
  residual_rows *rows = context;
  (void)error;
  memcpy(rows->rows + wanted->tag * rows->numel + (begin - rows->begin), data,
         (size_t)count * sizeof *rows->rows);
  return ZERO1_OK;
}

/* Elements [begin, end) of one parameter: every rank's are read, or one's own. */
static zero1_status load_residual(const zero1__load_plan *plan, double grad_scale, int64_t param,
                                  int64_t begin, int64_t end, float *out, zero1__error *error) {
  const zero1__manifest *manifest = &plan->reader->manifest;
  const int32_t world = plan->optimizer->comm->world_size;
  const int32_t same = manifest->world_size == world;
  const int32_t count = same ? 1 : manifest->world_size;
  residual_rows rows = {NULL, begin, end - begin};
  zero1__wanted *wanted = calloc((size_t)count, sizeof *wanted);
  const float **of = calloc((size_t)count, sizeof *of);
  rows.rows = malloc((size_t)count * (size_t)rows.numel * sizeof *rows.rows);
  zero1_status status = ZERO1_OK;
  if (!wanted || !of || !rows.rows)
    status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for residuals");
  for (int32_t i = 0; i < count && !status; ++i) {
    wanted[i] = (zero1__wanted){.param = plan->saved[param],
                                .state = ZERO1_STATE_RESIDUAL,
                                .rank = same ? plan->optimizer->comm->rank : i,
                                .begin = begin,
                                .end = end,
                                .tag = i};
    of[i] = rows.rows + i * rows.numel;
  }
  if (!status)
    status = zero1__reader_run(plan->reader, wanted, count, 1, take_residual, &rows, error);
  if (!status && same)
    memcpy(out, rows.rows, (size_t)rows.numel * sizeof *out);
  else if (!status)
    zero1__residual_reshard(of, rows.numel,
                            (zero1__residual_scale){manifest->world_size, manifest->grad_scale},
                            (zero1__residual_scale){world, grad_scale}, out);
  free(rows.rows);
  free(of);
  free(wanted);
  return status;
}

zero1_status zero1__load_residuals(const zero1__load_plan *plan, double grad_scale,
                                   zero1__error *error) {
  const zero1_optimizer *optimizer = plan->optimizer;
  const zero1__layout *layout = &optimizer->layout;
  const int64_t most =
      RESIDUAL_BYTES / (int64_t)sizeof(float) / plan->reader->manifest.world_size + 1;
  const int32_t saved = plan->reader->has_residual;
  zero1_status status = ZERO1_OK;
  if (!optimizer->buffers.residual) return ZERO1_OK;
  for (int64_t param = 0; param < layout->param_count && !status; ++param) {
    if (layout->slot_of_param[param] < 0 || plan->saved[param] < 0) continue;
    const int64_t numel = layout->numel[param];
    float *to = optimizer->buffers.residual + layout->place_begin[param] * ZERO1__BLOCK;
    if (!saved) memset(to, 0, (size_t)numel * sizeof *to);
    for (int64_t begin = 0; begin < numel && saved && !status; begin += most)
      status = load_residual(plan, grad_scale, param, begin,
                             begin + most < numel ? begin + most : numel, to + begin, error);
  }
  return status;
}

/* ---- parameters of other ranks ---- */

/* Bytes of all ranks that travel at once. */
#define GATHER_BYTES ((size_t)8 << 20)

/* Bytes [at, at + bytes) of every rank's shard of a bucket, to where they belong. */
static zero1_status gather_piece(zero1_optimizer *optimizer, int64_t bucket, size_t at,
                                 size_t bytes, char *mine, char *all) {
  zero1__device *device = optimizer->device;
  const int32_t rank = optimizer->comm->rank, world = optimizer->comm->world_size;
  const int32_t sharers = optimizer->channel->params_sharers;
  const zero1__layout *layout = &optimizer->layout;
  char *own =
      zero1__buffers_param(&optimizer->buffers, zero1__layout_shard(layout, bucket, rank).begin);
  device->ops->transfer(device, mine, own + at, bytes);
  const zero1_status status = zero1__optimizer_gather(optimizer, mine, all, bytes);
  if (status || rank % sharers) return status; /* one writes what ranks share */
  for (int32_t other = 0; other < world; ++other) {
    if (other / sharers == rank / sharers) continue;
    char *to =
        zero1__buffers_param(&optimizer->buffers, zero1__layout_shard(layout, bucket, other).begin);
    device->ops->transfer(device, to + at, all + (size_t)other * bytes, bytes);
  }
  return ZERO1_OK;
}

zero1_status zero1__load_gather(zero1_optimizer *optimizer) {
  const zero1__layout *layout = &optimizer->layout;
  const size_t world = (size_t)optimizer->comm->world_size;
  const size_t each = zero1__dtype_bytes(optimizer->channel->config.param_dtype);
  const size_t most = GATHER_BYTES / world + 4096;
  if ((size_t)optimizer->channel->params_sharers == world) return ZERO1_OK;
  char *mine = malloc(most), *all = malloc(most * world);
  zero1_status status = ZERO1_OK;
  if (!mine || !all) status = zero1__fail(&optimizer->error, ZERO1_ERR_MEMORY, "no memory to load");
  status = zero1__optimizer_agree(optimizer, status);
  for (int64_t bucket = 0; bucket < layout->bucket_count && !status; ++bucket) {
    const zero1__range blocks = zero1__layout_shard(layout, bucket, 0);
    const size_t bytes = (size_t)(blocks.end - blocks.begin) * ZERO1__BLOCK * each;
    for (size_t at = 0; at < bytes && !status; at += most)
      status =
          gather_piece(optimizer, bucket, at, bytes - at < most ? bytes - at : most, mine, all);
  }
  free(mine);
  free(all);
  return status;
}
