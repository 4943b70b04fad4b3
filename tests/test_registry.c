// sanitizers: address undefined
/* Parameters as the caller registered them. */
#include "registry.h"

#include <string.h>

#include "check.h"

static const int64_t SHAPE[] = {3, 4, 5};

static zero1_param_spec spec_of(const char *name, int32_t ndim) {
  return (zero1_param_spec){.name = name, .shape = SHAPE, .ndim = ndim};
}

static zero1_status take(zero1__registry *registry, const zero1_param_spec *specs, int64_t count,
                         int64_t groups, zero1__error *error) {
  zero1__error_clear(error);
  return zero1__registry_begin(registry, specs, sizeof *specs, count, groups, error);
}

/* Refused, with a text that names what is wrong; and it can be ended all the same. */
static void refuses(zero1_param_spec spec, const char *named) {
  const zero1_param_spec specs[] = {spec_of("first", 1), spec};
  zero1__registry registry;
  zero1__error error;
  CHECK_STATUS(take(&registry, specs, 2, 2, &error), ZERO1_ERR_INVALID);
  if (!strstr(error.text, named)) fprintf(stderr, "the text is: %s\n", error.text);
  CHECK(strstr(error.text, named));
  zero1__registry_end(&registry);
}

static void it_keeps_copies(void) {
  zero1__registry registry;
  zero1__error error;
  char name[] = "weight";
  int64_t shape[] = {7, 2};
  const zero1_param_spec spec = {
      .name = name, .shape = shape, .ndim = 2, .group = 1, .flags = ZERO1_PARAM_NOT_IN_NORM};
  CHECK_STATUS(take(&registry, &spec, 1, 2, &error), ZERO1_OK);
  memset(name, 'x', sizeof name - 1);
  shape[0] = 99;
  CHECK_EQ(registry.count, 1);
  CHECK(!strcmp(registry.names[0], "weight"));
  CHECK_EQ(registry.ndim[0], 2);
  CHECK(registry.shapes[0][0] == 7 && registry.shapes[0][1] == 2);
  CHECK_EQ(registry.numel[0], 14);
  CHECK_EQ(registry.group[0], 1);
  CHECK_EQ(registry.flags[0], ZERO1_PARAM_NOT_IN_NORM);
  zero1__registry_end(&registry);
}

static void scalars_and_empty_ones_are_parameters(void) {
  zero1__registry registry;
  zero1__error error;
  const int64_t empty[] = {INT64_MAX, 0, INT64_MAX};
  const zero1_param_spec specs[] = {{.name = "scalar"},
                                    {.name = "empty", .shape = empty, .ndim = 3}};
  CHECK_STATUS(take(&registry, specs, 2, 1, &error), ZERO1_OK);
  CHECK_EQ(registry.numel[0], 1);
  CHECK_EQ(registry.numel[1], 0);
  zero1__registry_end(&registry);
  CHECK_STATUS(take(&registry, NULL, 0, 1, &error), ZERO1_OK);
  CHECK_EQ(registry.count, 0);
  CHECK_EQ(zero1__registry_find(&registry, "scalar"), -1);
  zero1__registry_end(&registry);
}

static void every_name_is_found_and_no_other(void) {
  enum { COUNT = 1000 };
  static char names[COUNT][24];
  static zero1_param_spec specs[COUNT];
  zero1__registry registry;
  zero1__error error;
  for (int i = 0; i < COUNT; ++i) {
    snprintf(names[i], sizeof names[i], "layer.%d.weight", i);
    specs[i] = spec_of(names[i], i % 4);
  }
  CHECK_STATUS(take(&registry, specs, COUNT, 1, &error), ZERO1_OK);
  for (int i = 0; i < COUNT; ++i) CHECK_EQ(zero1__registry_find(&registry, names[i]), i);
  CHECK_EQ(zero1__registry_find(&registry, "layer.1000.weight"), -1);
  CHECK_EQ(zero1__registry_find(&registry, ""), -1);
  zero1__registry_end(&registry);
  CHECK_EQ(zero1__registry_find(&registry, names[0]), -1); /* ended */
}

static void two_of_one_name_are_refused(void) {
  const zero1_param_spec specs[] = {spec_of("a", 1), spec_of("b", 1), spec_of("a", 2)};
  zero1__registry registry;
  zero1__error error;
  CHECK_STATUS(take(&registry, specs, 3, 1, &error), ZERO1_ERR_INVALID);
  CHECK(strstr(error.text, "'a'") && strstr(error.text, "0") && strstr(error.text, "2"));
  zero1__registry_end(&registry);
}

static void what_is_wrong_is_named(void) {
  const int64_t negative[] = {2, -3}, huge[] = {INT64_MAX / 4, 8};
  zero1_param_spec spec = spec_of(NULL, 1);
  refuses(spec, "parameter 1");
  spec.name = "";
  refuses(spec, "parameter 1");
  refuses((zero1_param_spec){.name = "w", .shape = negative, .ndim = 2}, "-3");
  refuses((zero1_param_spec){.name = "w", .shape = huge, .ndim = 2}, "'w'");
  refuses((zero1_param_spec){.name = "w", .shape = NULL, .ndim = 2}, "'w'");
  refuses((zero1_param_spec){.name = "w", .shape = SHAPE, .ndim = -1}, "-1");
  refuses((zero1_param_spec){.name = "w", .group = 2}, "group 2");
  refuses((zero1_param_spec){.name = "w", .group = -1}, "group -1");
  refuses((zero1_param_spec){.name = "w", .flags = 4}, "0x4");
}

static void what_cannot_be_read_is_refused(void) {
  const zero1_param_spec spec = spec_of("w", 1);
  zero1__registry registry;
  zero1__error error = {0};
  CHECK_STATUS(take(&registry, NULL, 1, 1, &error), ZERO1_ERR_INVALID);
  zero1__registry_end(&registry);
  CHECK_STATUS(take(&registry, &spec, -1, 1, &error), ZERO1_ERR_INVALID);
  zero1__registry_end(&registry);
  CHECK_STATUS(take(&registry, &spec, INT64_MAX, 1, &error), ZERO1_ERR_INVALID);
  zero1__registry_end(&registry);
  CHECK_STATUS(zero1__registry_begin(&registry, &spec, sizeof spec - 1, 1, 1, &error),
               ZERO1_ERR_VERSION);
  zero1__registry_end(&registry);
}

/* Whatever registration says changes the hash; where the strings lie does not. */
static void the_hash_is_of_all_that_is_said(void) {
  const int64_t twelve[] = {12}, three_four[] = {3, 4}, four_three[] = {4, 3};
  const char copy[] = "w";
  const zero1_param_spec specs[] = {
      {.name = "w", .shape = twelve, .ndim = 1},
      {.name = "v", .shape = twelve, .ndim = 1},
      {.name = "w", .shape = three_four, .ndim = 2},
      {.name = "w", .shape = four_three, .ndim = 2},
      {.name = "w", .shape = twelve, .ndim = 1, .group = 1},
      {.name = "w", .shape = twelve, .ndim = 1, .flags = ZERO1_PARAM_FROZEN},
      {.name = copy, .shape = twelve, .ndim = 1}, /* as the first one */
  };
  enum { COUNT = sizeof specs / sizeof *specs };
  uint64_t hashes[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    zero1__registry registry;
    zero1__error error;
    CHECK_STATUS(take(&registry, &specs[i], 1, 2, &error), ZERO1_OK);
    hashes[i] = zero1__registry_hash(&registry, 0);
    zero1__registry_end(&registry);
    for (int j = 0; j < i; ++j) CHECK((hashes[i] == hashes[j]) == (i == COUNT - 1 && j == 0));
  }
}

static void a_line_describes_a_parameter(void) {
  zero1__registry registry;
  zero1__error error;
  char text[200], tiny[8];
  const int64_t ones[100] = {0};
  const zero1_param_spec specs[] = {spec_of("w", 2), {.name = "many", .shape = ones, .ndim = 100}};
  CHECK_STATUS(take(&registry, specs, 2, 1, &error), ZERO1_OK);
  zero1__registry_describe(&registry, 0, text, sizeof text);
  CHECK(!strcmp(text, "'w' [3, 4] in group 0 with flags 0"));
  zero1__registry_describe(&registry, 1, text, sizeof text);
  CHECK(!strncmp(text, "'many' [0, 0, 0", 15));
  zero1__registry_describe(&registry, 0, tiny, sizeof tiny);
  CHECK(!strcmp(tiny, "'w' [3,"));
  zero1__registry_describe(&registry, 2, text, sizeof text);
  CHECK(!strcmp(text, "no parameter"));
  zero1__registry_end(&registry);
}

int main(void) {
  RUN(it_keeps_copies);
  RUN(scalars_and_empty_ones_are_parameters);
  RUN(every_name_is_found_and_no_other);
  RUN(two_of_one_name_are_refused);
  RUN(what_is_wrong_is_named);
  RUN(what_cannot_be_read_is_refused);
  RUN(the_hash_is_of_all_that_is_said);
  RUN(a_line_describes_a_parameter);
  return check_summary();
}
