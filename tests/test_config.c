// sanitizers: address undefined
/* What a config that says 0 amounts to. */
#include "config.h"

#include "check.h"

static int64_t bucket_numel_of(int32_t device, int64_t given) {
  zero1_config config;
  zero1__settings settings;
  zero1__error error;
  zero1__error_clear(&error);
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  CHECK_EQ(config.bucket_numel, 0);
  config.device = device;
  config.bucket_numel = given;
  CHECK_STATUS(zero1__settings_begin(&settings, &config, 1, &error), ZERO1_OK);
  const int64_t taken = settings.config.bucket_numel;
  zero1__settings_end(&settings);
  return taken;
}

static void a_bucket_has_2_mi_elements_on_the_host_and_16_on_a_gpu(void) {
  CHECK_EQ(bucket_numel_of(ZERO1_DEVICE_HOST, 0), 2097152);
  CHECK_EQ(bucket_numel_of(ZERO1_DEVICE_CUDA, 0), 16777216);
}

static void a_bucket_has_what_the_caller_says(void) {
  CHECK_EQ(bucket_numel_of(ZERO1_DEVICE_HOST, 1), 1);
  CHECK_EQ(bucket_numel_of(ZERO1_DEVICE_CUDA, 1), 1);
}

int main(void) {
  RUN(a_bucket_has_2_mi_elements_on_the_host_and_16_on_a_gpu);
  RUN(a_bucket_has_what_the_caller_says);
  return check_summary();
}
