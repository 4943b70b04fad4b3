/* A C99 program that names a function of each public header. */
#include <stdio.h>

#include <zero1/comm.h>
#include <zero1/status.h>
#include <zero1/zero1.h>

int main(void) {
  zero1_config config;
  zero1_comm_options options;
  if (zero1_version() != ZERO1_VERSION) return 1;
  if (zero1_config_init(&config, sizeof config) != ZERO1_OK) return 2;
  if (zero1_comm_options_init(&options, sizeof options) != ZERO1_OK) return 3;
  printf("%u: %s\n", (unsigned)zero1_version(), zero1_status_string(ZERO1_OK));
  return 0;
}
