#include "lm_sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lm_random.h"

static uint8_t most_likely(const float *logits) {
  int best = 0;
  for (int i = 1; i < LM_BYTES; ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return (uint8_t)best;
}

static uint8_t draw(const float *logits, double temperature, uint64_t *state) {
  const uint8_t best = most_likely(logits);
  if (temperature == 0) return best;
  double weights[LM_BYTES], sum = 0;
  for (int i = 0; i < LM_BYTES; ++i) {
    weights[i] = exp((double)(logits[i] - logits[best]) / temperature);
    sum += weights[i];
  }
  double left = lm_random_uniform(state) * sum;
  for (int i = 0; i < LM_BYTES; ++i) {
    left -= weights[i];
    if (left < 0) return (uint8_t)i;
  }
  return best;
}

/* Control characters would play with the terminal. */
static void print_byte(uint8_t byte) {
  putchar(byte == '\n' || byte == '\t' || (byte >= 32 && byte != 127) ? byte : '?');
}

bool lm_print_sample(lm_model *model, const lm_tensors *tensors, const lm_sampling *sampling) {
  const int64_t prompt = (int64_t)strlen(sampling->prompt);
  uint8_t *const text = malloc((size_t)(prompt + sampling->bytes));
  if (!text) return false;
  memcpy(text, sampling->prompt, (size_t)prompt);
  uint64_t state = lm_random_key(sampling->seed, 2, 0, 0);
  bool ok = true;
  for (int64_t end = prompt; ok && end < prompt + sampling->bytes; ++end) {
    const int64_t length = end < model->config.context ? end : model->config.context;
    const lm_batch batch = {.batch = 1, .length = length, .inputs = text + end - length};
    float logits[LM_BYTES];
    ok = lm_forward(model, tensors, &batch) && lm_read_logits(model, length - 1, logits);
    if (ok) text[end] = draw(logits, sampling->temperature, &state);
  }
  for (int64_t i = 0; ok && i < prompt + sampling->bytes; ++i) print_byte(text[i]);
  free(text);
  return ok;
}
