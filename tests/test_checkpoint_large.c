// timeout: 200

/* Very many parameters: a rank's ranges go into several files, as readers cap a header. */
#include "checkpoint_train.h"

enum { PARAMS = 140000 };

static zero1_optimizer *make(zero1_comm *comm) {
  zero1_config config;
  zero1_optimizer *optimizer;
  const int64_t shape = 3;
  zero1_param_spec *const specs = (zero1_param_spec *)calloc(PARAMS, sizeof *specs);
  char(*const names)[32] = (char(*)[32])calloc(PARAMS, sizeof *names);
  CHECK(specs && names);
  for (int32_t i = 0; i < PARAMS; ++i) {
    snprintf(names[i], sizeof names[i], "layer.%d.weight", i);
    specs[i] = (zero1_param_spec){.name = names[i], .shape = &shape, .ndim = 1};
  }
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_create(comm, &config, specs, sizeof *specs, PARAMS, &optimizer),
               ZERO1_OK);
  free(specs);
  free(names);
  return optimizer;
}

static void fill(zero1_optimizer *optimizer) {
  for (int64_t i = 0; i < PARAMS; ++i) {
    void *param;
    CHECK_STATUS(zero1_optimizer_param(optimizer, i, &param), ZERO1_OK);
    for (int e = 0; e < 3; ++e) ((float *)param)[e] = (float)(3 * i + e);
  }
  must(optimizer, zero1_optimizer_sync_params(optimizer, 0));
}

static void check_filled(zero1_optimizer *optimizer) {
  for (int64_t i = 0; i < PARAMS; ++i) {
    void *param;
    CHECK_STATUS(zero1_optimizer_param(optimizer, i, &param), ZERO1_OK);
    for (int e = 0; e < 3; ++e) CHECK(((float *)param)[e] == (float)(3 * i + e));
  }
}

static void load_rank(int32_t rank, zero1_comm *comm, void *arg) {
  zero1_optimizer *optimizer = make(comm);
  (void)rank;
  must(optimizer, zero1_checkpoint_load(optimizer, (const char *)arg, NULL));
  check_filled(optimizer);
  check_meet();
  zero1_optimizer_destroy(&optimizer);
}

static void headers_stay_below_what_readers_take(void) {
  char root[256], folder[400];
  zero1_comm *comm;
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  folder_begin(root, sizeof root);
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  zero1_optimizer *optimizer = make(comm);
  fill(optimizer);
  must(optimizer, zero1_checkpoint_save(optimizer, root, NULL));
  zero1_optimizer_destroy(&optimizer);
  zero1_comm_destroy(&comm);
  snprintf(folder, sizeof folder, "%s/step-%012d", root, 0);
  CHECK_STATUS(zero1_checkpoint_open(folder, &checkpoint, NULL, 0), ZERO1_OK);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.file_count, 2);
  CHECK_STATUS(zero1_checkpoint_verify(checkpoint, 2, NULL, NULL), ZERO1_OK);
  zero1_checkpoint_close(&checkpoint);
  check_threads(2, NULL, load_rank, root);
  folder_end(root);
}

int main(void) {
  RUN(headers_stay_below_what_readers_take);
  return check_summary();
}
