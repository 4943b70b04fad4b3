/* The language model's gradients are those of the function that it computes.
 *
 * Each tensor is moved along random directions of +-1, which sees a wrong or missing element
 * wherever it is, and the loss's slope is compared with the gradient's projection. With
 * f(h) = loss(w + h u) and |u| = 1, the slope is (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h up to
 * terms of h^4. The loss, about 6, is a mean over rows and carries rounding noise of up to 3e-7, so
 * the slope one of up to 18 * 3e-7 / 12 h: 3e-5 at h = 0.015. Most slopes are 0.005 to 0.2. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "lm_kernels.h"
#include "lm_model.h"
#include "lm_random.h"

enum { MAX_PARAMS = 32, DIRECTIONS = 4 };

/* Parameters and gradients in plain memory. */
typedef struct plain {
  lm_config config;
  float *params[MAX_PARAMS], *grads[MAX_PARAMS];
  int64_t done; /* the last unit whose gradients are done */
} plain;

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
  uint8_t text[2 * 97];
  lm_batch batch;
} fixture;

static void set_up(fixture *f, int64_t batch, int64_t length) {
  memset(f, 0, sizeof *f);
  const lm_config config = {
      .layers = 2, .dim = 16, .heads = 2, .hidden = 24, .context = 96, .batch = 2};
  f->store.config = config;
  f->tensors = (lm_tensors){&f->store, read_params, open_grads, done_grads};
  CHECK(lm_param_count(&config) <= MAX_PARAMS);
  CHECK(lm_model_init(&f->model, &config));
  uint64_t state = 1;
  for (int64_t i = 0; i < lm_param_count(&config); ++i) {
    const lm_param param = lm_param_at(&config, i);
    const int64_t numel = lm_param_numel(&param);
    f->store.params[i] = malloc((size_t)numel * sizeof(float));
    f->store.grads[i] = calloc((size_t)numel, sizeof(float));
    CHECK(f->store.params[i] && f->store.grads[i]);
    lm_param_init(&config, i, 1, f->store.params[i]);
    for (int64_t j = 0; j < numel; ++j) {
      f->store.params[i][j] += 0.2f * (float)lm_random_normal(&state);
    }
  }
  for (size_t i = 0; i < sizeof f->text; ++i) f->text[i] = (uint8_t)(lm_random_next(&state) % 7);
  f->batch = (lm_batch){.batch = batch,
                        .length = length,
                        .inputs = f->text,
                        .targets = f->text + 1,
                        .loss_scale = 1.0f};
}

static void tear_down(fixture *f) {
  for (int64_t i = 0; i < MAX_PARAMS; ++i) {
    free(f->store.params[i]);
    free(f->store.grads[i]);
  }
  lm_model_free(&f->model);
}

static double loss_of(fixture *f) {
  double loss = 0;
  CHECK(lm_forward(&f->model, &f->tensors, &f->batch, &loss));
  return loss;
}

static void fill_gradients(fixture *f) {
  f->store.done = f->store.config.layers + 2;
  loss_of(f);
  CHECK(lm_backward(&f->model, &f->tensors, &f->batch));
  CHECK(f->store.done == 0);
}

/* loss(w + step * u) where w is `values`. */
static double loss_at(fixture *f, int64_t index, const float *values, const float *direction,
                      int64_t numel, double step) {
  float *const param = f->store.params[index];
  for (int64_t j = 0; j < numel; ++j) param[j] = values[j] + (float)step * direction[j];
  return loss_of(f);
}

static double slope(fixture *f, int64_t index, const float *direction, int64_t numel, double step) {
  const size_t bytes = (size_t)numel * sizeof(float);
  float *const values = malloc(bytes);
  CHECK(values);
  memcpy(values, f->store.params[index], bytes);
  const double near_difference = loss_at(f, index, values, direction, numel, step) -
                                 loss_at(f, index, values, direction, numel, -step);
  const double far_difference = loss_at(f, index, values, direction, numel, 2 * step) -
                                loss_at(f, index, values, direction, numel, -2 * step);
  memcpy(f->store.params[index], values, bytes);
  free(values);
  return (8 * near_difference - far_difference) / (12 * step);
}

static void check_tensor(fixture *f, int64_t index) {
  const lm_param param = lm_param_at(&f->store.config, index);
  const int64_t numel = lm_param_numel(&param);
  float *const direction = malloc((size_t)numel * sizeof(float));
  CHECK(direction);
  uint64_t state = (uint64_t)index;
  for (int trial = 0; trial < DIRECTIONS; ++trial) {
    double projection = 0;
    for (int64_t j = 0; j < numel; ++j) { /* of unit length */
      direction[j] = (float)(lm_random_next(&state) & 1 ? 1 : -1) / sqrtf((float)numel);
      projection += (double)direction[j] * (double)f->store.grads[index][j];
    }
    const double measured = slope(f, index, direction, numel, 0.015);
    CHECK_CLOSE(measured, projection, 1e-3, 3e-5);
  }
  free(direction);
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

static void gradients_add_up_over_passes(void) {
  fixture f;
  set_up(&f, 2, 13);
  const int64_t index = lm_unit_begin(&f.store.config, 1) + LM_UP;
  fill_gradients(&f);
  const float once = f.store.grads[index][5];
  f.batch.loss_scale = 2.0f; /* a power of two scales every rounding with it */
  fill_gradients(&f);
  CHECK_CLOSE(f.store.grads[index][5], 3.0 * (double)once, 1e-6, 0);
  tear_down(&f);
}

static void no_prediction_depends_on_a_later_byte(void) {
  fixture f;
  set_up(&f, 1, 90);
  f.batch.targets = NULL;
  loss_of(&f);
  float before[70 * LM_BYTES];
  memcpy(before, f.model.logits, sizeof before);
  for (int i = 70; i < 90; ++i) f.text[i] ^= 1;
  loss_of(&f);
  CHECK(memcmp(before, f.model.logits, sizeof before) == 0);
  CHECK(memcmp(before, f.model.logits + 20 * LM_BYTES, sizeof before) != 0);
  tear_down(&f);
}

static void fresh_weights_guess_uniformly(void) {
  fixture f;
  set_up(&f, 2, 13);
  for (int64_t i = 0; i < lm_param_count(&f.store.config); ++i) {
    lm_param_init(&f.store.config, i, 7, f.store.params[i]);
  }
  CHECK_CLOSE(loss_of(&f), log(256.0), 1e-6, 0);
  tear_down(&f);
}

static void bf16_rounds_to_nearest_even_and_keeps_nan(void) {
  const float in[] = {1.0f, 1.00390625f, 1.01171875f, -3.0f, NAN, INFINITY}; /* 1 + 1/256: a tie */
  uint16_t narrow[6];
  float wide[6];
  lm_to_bf16(6, in, narrow);
  lm_from_bf16(6, narrow, wide);
  CHECK(wide[0] == 1.0f);
  CHECK(wide[1] == 1.0f);
  CHECK(wide[2] == 1.015625f);
  CHECK(wide[3] == -3.0f);
  CHECK(isnan(wide[4]));
  CHECK(isinf(wide[5]));
}

int main(void) {
  RUN(every_gradient_matches_finite_differences);
  RUN(gradients_match_where_attention_takes_several_blocks);
  RUN(gradients_add_up_over_passes);
  RUN(no_prediction_depends_on_a_later_byte);
  RUN(fresh_weights_guess_uniformly);
  RUN(bf16_rounds_to_nearest_even_and_keeps_nan);
  return check_summary();
}
