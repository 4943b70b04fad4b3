/* A text file as training data: bytes, the last twentieth of them held out for validation. */
#ifndef LM_DATA_H
#define LM_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lm_data {
  const uint8_t *text; /* the whole file, mapped */
  int64_t bytes;
  int64_t train_bytes; /* [0, train_bytes) is trained on, the rest is held out */
} lm_data;

/** Maps the file; windows of `context` bytes must fit both parts.
 *  [out] error  text of what went wrong, where it returns false */
bool lm_data_open(lm_data *data, const char *path, int64_t context, char *error,
                  size_t error_bytes);
void lm_data_close(lm_data *data);

/** Which windows to draw. */
typedef struct lm_draw {
  uint64_t seed;
  int64_t step;
  int64_t part; /* counts ranks and microbatches */
} lm_draw;

/** Random windows of the training part, a function of `draw` alone.
 *  [out] inputs, targets  [batch, context]; a target is the byte after its input */
void lm_data_train_batch(const lm_data *data, const lm_draw *draw, int64_t batch, int64_t context,
                         uint8_t *inputs, uint8_t *targets);

/** Number of windows that tile the held-out part. */
int64_t lm_data_val_windows(const lm_data *data, int64_t context);

/** Held-out window `index`; arrays as above, of one row. */
void lm_data_val_window(const lm_data *data, int64_t index, int64_t context, uint8_t *inputs,
                        uint8_t *targets);

#endif
