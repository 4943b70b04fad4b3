/* What tests of the calls that save and load are written with: a small training run, and a scene in
 * which every rank of one plays its part. */
#ifndef ZERO1_TESTS_CHECKPOINT_SCENE_H
#define ZERO1_TESTS_CHECKPOINT_SCENE_H

#include "checkpoint_train.h"

static const trainer_param scene_params[] = {
    {1000, 0, 0}, {0, 1, 0}, {1, 0, 0}, {700, 0, ZERO1_PARAM_FROZEN}, {5000, 1, 0}, {257, 1, 0}};

static inline trainer_case plain(void) {
  return (trainer_case){.params = scene_params,
                        .param_count = 6,
                        .groups = promise_groups,
                        .group_count = 2,
                        .steps = 4,
                        .guard = 1,
                        .grad_scale = 0.5,
                        .bucket_numel = 700,
                        .threads = 1,
                        .share_params = 1,
                        .microbatches = 1};
}

/* A rank's part of a test: with an optimizer that has made two steps, and a folder of its own. */
typedef struct scene {
  void (*fn)(trainer *self, const char *root);
  const trainer_case *what;
  char root[256];
} scene;

static inline void play_rank(int32_t rank, zero1_comm *comm, void *arg) {
  scene *const self = (scene *)arg;
  trainer trained;
  zero1_info info;
  (void)rank;
  trainer_begin(&trained, self->what, comm);
  for (int32_t step = 0; step < 2; ++step) trainer_step(&trained, step, &info);
  self->fn(&trained, self->root);
  trainer_end(&trained);
}

static inline void play(int32_t world, const trainer_case *what,
                        void (*fn)(trainer *self, const char *root)) {
  scene self = {.fn = fn, .what = what};
  folder_begin(self.root, sizeof self.root);
  check_threads(world, NULL, play_rank, &self);
  folder_end(self.root);
}

static inline void path_of(char *path, size_t bytes, const char *root, const char *name) {
  snprintf(path, bytes, "%s/%s", root, name);
}

/* The status, and that the text names `words`. */
#define CHECK_TOLD(self, call, expected, words)                                       \
  do {                                                                                \
    const zero1_status told_ = (call);                                                \
    const char *text_ = zero1_optimizer_last_error((self)->optimizer);                \
    if (told_ != (expected) || !strstr(text_, words)) fprintf(stderr, "%s\n", text_); \
    CHECK_STATUS(told_, expected);                                                    \
    CHECK(strstr(text_, words) != NULL);                                              \
  } while (0)

#endif
