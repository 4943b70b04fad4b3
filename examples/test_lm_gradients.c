/* The language model's gradients are those of the function that it computes.
 *
 * Each tensor is moved along random directions of +-1, which sees a wrong or missing element
 * wherever it is, and the loss's slope is compared with the gradient's projection. With
 * f(h) = loss(w + h u) and |u| = 1, the slope is (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h up to
 * terms of h^4. The loss, about 6, is a mean over rows and carries rounding noise of up to 3e-7, so
 * the slope one of up to 18 * 3e-7 / 12 h: 3e-5 at h = 0.015. Most slopes are 0.005 to 0.2.
 *
 * With the argument `cuda` the GPU computes, and its results are compared with the host's besides.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "lm_model.h"
#include "lm_random.h"

enum { MAX_PARAMS = 32, DIRECTIONS = 4 };

static lm_device device; /* what this run tests */

/* Parameters and gradients in the device's memory. */
typedef struct plain {
  lm_config config;
  lm_device *device;
  float *params[MAX_PARAMS], *grads[MAX_PARAMS];
  int64_t done; /* the last unit whose gradients are done */
} plain;

static int64_t numel_of(const plain *store, int64_t index) {
  const lm_param param = lm_param_at(&store->config, index);
  return lm_param_numel(&param);
}

static void write_values(const plain *store, float *to, const float *values, int64_t numel) {
  store->device->kernels->upload(store->device, to, values, (size_t)numel * sizeof *values);
}

/* A copy in the host's memory, to be freed. */
static float *read_values(const plain *store, const float *from, int64_t numel) {
  float *const values = malloc((size_t)numel * sizeof *values);
  CHECK(values);
  store->device->kernels->download(store->device, values, from, (size_t)numel * sizeof *values);
  return values;
}

static float *new_tensor(const plain *store, int64_t numel) {
  const size_t bytes = (size_t)numel * sizeof(float);
  float *const tensor = store->device->kernels->alloc(store->device, bytes);
  CHECK(tensor);
  store->device->kernels->zero(store->device, tensor, bytes);
  return tensor;
}

static bool read_params(void *context, int64_t unit, const float *values[LM_UNIT_PARAMS]) {
  const plain *const store = context;
  const int64_t begin = lm_unit_begin(&store->config, unit);
  const int64_t end = lm_unit_begin(&store->config, unit + 1);
  for (int64_t i = begin; i < end; ++i) values[i - begin] = store->params[i];
  return true;
}

static bool open_grads(void *context, int64_t unit, float *grads[LM_UNIT_PARAMS]) {
  const plain *const store = context;
  const int64_t begin = lm_unit_begin(&store->config, unit);
  const int64_t end = lm_unit_begin(&store->config, unit + 1);
  for (int64_t i = begin; i < end; ++i) grads[i - begin] = store->grads[i];
  return true;
}

static bool done_grads(void *context, int64_t unit) {
  plain *const store = context;
  CHECK(unit == store->done - 1);
  store->done = unit;
  return true;
}

/* A model with weights at which no gradient is small, and a batch for it. */
typedef struct fixture {
  plain store;
  lm_tensors tensors;
  lm_model model;
  uint8_t text[2 * 151];
  lm_batch batch;
} fixture;

static const lm_config small = {
    .layers = 2, .dim = 16, .heads = 2, .hidden = 24, .context = 96, .batch = 2};

static void set_up_param(fixture *f, int64_t index, uint64_t *state) {
  const int64_t numel = numel_of(&f->store, index);
  float *const values = malloc((size_t)numel * sizeof *values);
  CHECK(values);
  lm_param_init(&f->store.config, index, 1, values);
  for (int64_t j = 0; j < numel; ++j) values[j] += 0.2f * (float)lm_random_normal(state);
  f->store.params[index] = new_tensor(&f->store, numel);
  f->store.grads[index] = new_tensor(&f->store, numel);
  write_values(&f->store, f->store.params[index], values, numel);
  free(values);
}

static void set_up_on(fixture *f, lm_device *where, const lm_config *config, int64_t batch,
                      int64_t length) {
  memset(f, 0, sizeof *f);
  f->store.config = *config;
  f->store.device = where;
  f->tensors = (lm_tensors){&f->store, read_params, open_grads, done_grads};
  CHECK(lm_param_count(config) <= MAX_PARAMS);
  CHECK(batch * length < (int64_t)sizeof f->text);
  CHECK(lm_model_init(&f->model, config, where));
  uint64_t state = 1;
  for (int64_t i = 0; i < lm_param_count(config); ++i) set_up_param(f, i, &state);
  for (size_t i = 0; i < sizeof f->text; ++i) f->text[i] = (uint8_t)(lm_random_next(&state) % 7);
  f->batch = (lm_batch){.batch = batch,
                        .length = length,
                        .inputs = f->text,
                        .targets = f->text + 1,
                        .loss_scale = 1.0f};
}

static void set_up(fixture *f, int64_t batch, int64_t length) {
  set_up_on(f, &device, &small, batch, length);
}

static void tear_down(fixture *f) {
  lm_device *const where = f->store.device;
  for (int64_t i = 0; i < lm_param_count(&f->store.config); ++i) {
    where->kernels->free(where, f->store.params[i]);
    where->kernels->free(where, f->store.grads[i]);
  }
  lm_model_free(&f->model);
}

static double loss_of(fixture *f) {
  double sum = 0;
  CHECK(lm_forward(&f->model, &f->tensors, &f->batch));
  CHECK(lm_take_loss(&f->model, &sum));
  return sum / (double)(f->batch.batch * f->batch.length);
}

static void fill_gradients(fixture *f) {
  f->store.done = f->store.config.layers + 2;
  loss_of(f);
  CHECK(lm_backward(&f->model, &f->tensors, &f->batch));
  CHECK(f->store.done == 0);
}

/* A parameter's values w and a direction u, in the host's memory. */
typedef struct line {
  int64_t index, numel;
  float *values, *direction, *moved;
} line;

/* loss(w + step * u) */
static double loss_at(fixture *f, const line *l, double step) {
  for (int64_t j = 0; j < l->numel; ++j) {
    l->moved[j] = l->values[j] + (float)step * l->direction[j];
  }
  write_values(&f->store, f->store.params[l->index], l->moved, l->numel);
  return loss_of(f);
}

static double slope(fixture *f, const line *l, double step) {
  const double near_difference = loss_at(f, l, step) - loss_at(f, l, -step);
  const double far_difference = loss_at(f, l, 2 * step) - loss_at(f, l, -2 * step);
  write_values(&f->store, f->store.params[l->index], l->values, l->numel);
  return (8 * near_difference - far_difference) / (12 * step);
}

static void check_tensor(fixture *f, int64_t index) {
  const int64_t numel = numel_of(&f->store, index);
  const size_t bytes = (size_t)numel * sizeof(float);
  const line l = {.index = index,
                  .numel = numel,
                  .values = read_values(&f->store, f->store.params[index], numel),
                  .direction = malloc(bytes),
                  .moved = malloc(bytes)};
  float *const grad = read_values(&f->store, f->store.grads[index], numel);
  CHECK(l.direction && l.moved);
  uint64_t state = (uint64_t)index;
  for (int trial = 0; trial < DIRECTIONS; ++trial) {
    double projection = 0;
    for (int64_t j = 0; j < numel; ++j) { /* of unit length */
      l.direction[j] = (float)(lm_random_next(&state) & 1 ? 1 : -1) / sqrtf((float)numel);
      projection += (double)l.direction[j] * (double)grad[j];
    }
    const double measured = slope(f, &l, 0.015);
    CHECK_CLOSE(measured, projection, 1e-3, 3e-5);
  }
  free(grad);
  free(l.values);
  free(l.direction);
  free(l.moved);
}

static void check_all_tensors(int64_t batch, int64_t length) {
  fixture f;
  set_up(&f, batch, length);
  fill_gradients(&f);
  for (int64_t i = 0; i < lm_param_count(&f.store.config); ++i) check_tensor(&f, i);
  tear_down(&f);
}

static void every_gradient_matches_finite_differences(void) {
  check_all_tensors(2, 13);
}

/* 96 rows are a whole block of attention and a half. */
static void gradients_match_where_attention_takes_several_blocks(void) {
  check_all_tensors(2, 96);
}

static float element(fixture *f, int64_t index, int64_t at) {
  float value;
  f->store.device->kernels->download(f->store.device, &value, f->store.grads[index] + at,
                                     sizeof value);
  return value;
}

static void gradients_add_up_over_passes(void) {
  fixture f;
  set_up(&f, 2, 13);
  const int64_t index = lm_unit_begin(&f.store.config, 1) + LM_UP;
  fill_gradients(&f);
  const float once = element(&f, index, 5);
  f.batch.loss_scale = 2.0f; /* a power of two scales every rounding with it */
  fill_gradients(&f);
  CHECK_CLOSE(element(&f, index, 5), 3.0 * (double)once, 1e-6, 0);
  tear_down(&f);
}

static void no_prediction_depends_on_a_later_byte(void) {
  fixture f;
  set_up(&f, 1, 90);
  f.batch.targets = NULL;
  float before[70][LM_BYTES], after[70][LM_BYTES], last[LM_BYTES], other[LM_BYTES];
  loss_of(&f);
  for (int r = 0; r < 70; ++r) CHECK(lm_read_logits(&f.model, r, before[r]));
  CHECK(lm_read_logits(&f.model, 89, last));
  for (int i = 70; i < 90; ++i) f.text[i] ^= 1;
  loss_of(&f);
  for (int r = 0; r < 70; ++r) CHECK(lm_read_logits(&f.model, r, after[r]));
  CHECK(lm_read_logits(&f.model, 89, other));
  CHECK(memcmp(before, after, sizeof before) == 0);
  CHECK(memcmp(last, other, sizeof last) != 0);
  tear_down(&f);
}

static void fresh_weights_guess_uniformly(void) {
  fixture f;
  set_up(&f, 2, 13);
  for (int64_t i = 0; i < lm_param_count(&f.store.config); ++i) {
    const int64_t numel = numel_of(&f.store, i);
    float *const values = read_values(&f.store, f.store.params[i], numel);
    lm_param_init(&f.store.config, i, 7, values);
    write_values(&f.store, f.store.params[i], values, numel);
    free(values);
  }
  CHECK_CLOSE(loss_of(&f), log(256.0), 1e-6, 0);
  tear_down(&f);
}

static void the_loss_is_taken_once(void) {
  fixture f;
  set_up(&f, 2, 13);
  double both = 0, none = 1;
  const double once = loss_of(&f);
  CHECK(lm_forward(&f.model, &f.tensors, &f.batch) && lm_forward(&f.model, &f.tensors, &f.batch));
  CHECK(lm_take_loss(&f.model, &both) && lm_take_loss(&f.model, &none));
  CHECK_CLOSE(both, 2 * 26 * once, 1e-12, 0);
  CHECK(none == 0);
  tear_down(&f);
}

static void bf16_rounds_to_nearest_even_and_keeps_nan(void) {
  const plain store = {.device = &device};
  const float in[] = {1.0f, 1.00390625f, 1.01171875f, -3.0f, NAN, INFINITY}; /* 1 + 1/256: a tie */
  float *const wide = new_tensor(&store, 6), *const narrow = new_tensor(&store, 6);
  write_values(&store, wide, in, 6);
  device.kernels->to_bf16(&device, 6, wide, (uint16_t *)narrow);
  device.kernels->zero(&device, wide, sizeof in);
  device.kernels->from_bf16(&device, 6, (const uint16_t *)narrow, wide);
  float *const out = read_values(&store, wide, 6);
  CHECK(out[0] == 1.0f);
  CHECK(out[1] == 1.0f);
  CHECK(out[2] == 1.015625f);
  CHECK(out[3] == -3.0f);
  CHECK(isnan(out[4]));
  CHECK(isinf(out[5]));
  free(out);
  device.kernels->free(&device, wide);
  device.kernels->free(&device, narrow);
}

/* ---- with a GPU ---- */

/* Elements may differ by 1e-4 of the tensor's largest: sums of up to 600 products in fp32, in
 * another order, and an exponential of 2 units in the last place, through 2 layers and back. */
static void check_alike(const float *left, const float *right, int64_t numel) {
  double largest = 0;
  for (int64_t i = 0; i < numel; ++i) largest = fmax(largest, fabs((double)right[i]));
  CHECK(largest > 0);
  for (int64_t i = 0; i < numel; ++i) CHECK_CLOSE(left[i], right[i], 0, 1e-4 * largest);
}

/* Sizes that are no multiple of a warp or of a thread block, and more than one of each. */
static void the_gpu_computes_what_the_host_does(void) {
  const lm_config config = {
      .layers = 2, .dim = 300, .heads = 6, .hidden = 290, .context = 150, .batch = 2};
  lm_device host;
  fixture on_host, on_gpu;
  CHECK(lm_device_open(&host, LM_DEVICE_HOST, 0));
  set_up_on(&on_host, &host, &config, 2, 149);
  set_up_on(&on_gpu, &device, &config, 2, 149);
  fill_gradients(&on_host);
  fill_gradients(&on_gpu);
  for (int64_t i = 0; i < lm_param_count(&config); ++i) {
    const int64_t numel = numel_of(&on_host.store, i);
    float *const grad = read_values(&on_gpu.store, on_gpu.store.grads[i], numel);
    check_alike(grad, on_host.store.grads[i], numel);
    free(grad);
  }
  tear_down(&on_gpu);
  tear_down(&on_host);
  lm_device_close(&host);
}

static void the_gpu_repeats_itself_bit_for_bit(void) {
  fixture f;
  set_up(&f, 2, 96);
  for (int64_t i = 0; i < lm_param_count(&small); ++i) {
    const int64_t numel = numel_of(&f.store, i);
    const size_t bytes = (size_t)numel * sizeof(float);
    device.kernels->zero(&device, f.store.grads[i], bytes);
    fill_gradients(&f);
    float *const first = read_values(&f.store, f.store.grads[i], numel);
    device.kernels->zero(&device, f.store.grads[i], bytes);
    fill_gradients(&f);
    float *const second = read_values(&f.store, f.store.grads[i], numel);
    CHECK(memcmp(first, second, bytes) == 0);
    free(first);
    free(second);
  }
  tear_down(&f);
}

int main(int argc, char **argv) {
  const bool cuda = argc > 1 && strcmp(argv[1], "cuda") == 0;
  if (!lm_device_open(&device, cuda ? LM_DEVICE_CUDA : LM_DEVICE_HOST, 0)) SKIP(device.error);
  RUN(every_gradient_matches_finite_differences);
  RUN(gradients_match_where_attention_takes_several_blocks);
  RUN(gradients_add_up_over_passes);
  RUN(no_prediction_depends_on_a_later_byte);
  RUN(fresh_weights_guess_uniformly);
  RUN(the_loss_is_taken_once);
  RUN(bf16_rounds_to_nearest_even_and_keeps_nan);
  if (cuda) {
    RUN(the_gpu_computes_what_the_host_does);
    RUN(the_gpu_repeats_itself_bit_for_bit);
  }
  lm_device_close(&device);
  return check_summary();
}
