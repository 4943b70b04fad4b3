// sanitizers: address undefined thread
// devices: host standin cuda
// standin-delay: 20
// standin-sanitizers: thread
// timeout: 300

/* A checkpoint of N ranks, saved in each way, loads at M ranks with other buckets, communicators,
 * threads and sharing, and training goes on with the bits of a run that was never interrupted; and
 * N to M to N gives the first files byte for byte. */
#include "checkpoint_train.h"

enum { FIRST = 6, LATER = 9, STEPS = 14 };

static const int32_t worlds[] = {1, 2, 3, 4, 8};

static void release(trainer_result *results, int32_t count) {
  for (int32_t i = 0; i < count; ++i) trainer_result_free(&results[i]);
}

static void check_rest(const promise_case *what, trainer_result *mine,
                       const trainer_result *reference) {
  /* The steps that were loaded were made by others. */
  for (int32_t step = 0; step < FIRST; ++step) {
    mine->params_hash[step] = reference->params_hash[step];
    mine->grad_norm[step] = reference->grad_norm[step];
    mine->clip_coef[step] = reference->clip_coef[step];
  }
  mine->clipped = reference->clipped;
  promise_check_alike(what, mine, reference);
}

static void there_and_back(const promise_case *from, const promise_case *to, int way) {
  char roots[3][256], steps[2][1024];
  trainer_result reference, results[8];
  for (int i = 0; i < 3; ++i) folder_begin(roots[i], sizeof roots[i]);
  trainer_run_alone(&from->train, &reference);
  const half first = {.what = from,
                      .end = LATER, /* what comes after the call is not in it */
                      .save = roots[0],
                      .save_at = FIRST,
                      .way = way,
                      .results = results};
  run_halves(&first);
  release(results, from->world_size);
  const half second = {.what = to,
                       .begin = FIRST,
                       .end = STEPS,
                       .load = roots[0],
                       .save = roots[1],
                       .save_at = FIRST,
                       .way = (way + 1) % SAVE_WAYS,
                       .results = results};
  run_halves(&second);
  for (int32_t rank = 0; rank < to->world_size; ++rank) check_rest(to, &results[rank], &reference);
  release(results, to->world_size);
  const half back = {.what = from,
                     .begin = FIRST,
                     .end = FIRST,
                     .load = roots[1],
                     .save = roots[2],
                     .save_at = FIRST,
                     .way = SAVE_SYNC,
                     .results = results};
  run_halves(&back);
  release(results, from->world_size);
  for (int i = 0; i < 2; ++i)
    snprintf(steps[i], sizeof steps[i], "%s/step-%012d", roots[2 * i], FIRST);
  check_same_folders(steps[0], steps[1]);
  trainer_result_free(&reference);
  for (int i = 0; i < 3; ++i) folder_end(roots[i]);
}

static void any_number_of_ranks_loads_what_any_other_saved(void) {
  const int32_t count = (int32_t)(sizeof worlds / sizeof *worlds);
  const promise_sample samples[2] = {promise_shuffle(11, 24), promise_shuffle(12, 24)};
  setenv("ZERO1_ISA", "baseline", 1);
  /* On devices a part of the pairs. */
  for (int32_t i = 0; i < count * count; i += device_is_cuda() ? 7 : 1) {
    const int32_t n = worlds[i % count], m = worlds[i / count];
    const int32_t from_node = i % 3 ? n : 1, to_node = i % 4 ? m : m == 4 ? 2 : 1;
    promise_case from = promise_case_of(&samples[0], i, n, from_node);
    promise_case to = promise_case_of(&samples[1], i, m, to_node);
    from.train.steps = STEPS;
    from.train.root = 0;
    to = other_layout(&from, &to);
    there_and_back(&from, &to, i % SAVE_WAYS);
  }
}

int main(void) {
  device_skip_without();
  RUN(any_number_of_ranks_loads_what_any_other_saved);
  return check_summary();
}
