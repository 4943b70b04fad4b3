/* The folder of a run's checkpoints: names, `latest`, which ones go, and sweeping. */
// sanitizers: address undefined thread
#include <errno.h>
#include <sys/wait.h>

#include "checkpoint_lock.h"
#include "checkpoint_root.h"
#include "root_case.h"

static void make_checkpoint(int64_t step) {
  char name[ZERO1__STEP_NAME_BYTES], manifest[64];
  zero1__step_name(step, name);
  snprintf(manifest, sizeof manifest, "%s/manifest.json", name);
  make_folder(name);
  make_file(manifest);
}

static int latest_is(const char *name) {
  char path[PATH_MAX];
  CHECK_STATUS(zero1__root_latest(root, path, sizeof path, &failure), ZERO1_OK);
  return !strcmp(path, in_root(name));
}

/* ---- names and lists ---- */

static void a_name_has_12_digits_or_more_and_is_read_back(void) {
  const int64_t counts[] = {0, 1, 120, 999999999999, 1000000000000, INT64_MAX};
  char name[ZERO1__STEP_NAME_BYTES];
  for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i) {
    int64_t count = -1;
    zero1__step_name(counts[i], name);
    CHECK(zero1__step_parse(name, &count));
    CHECK_EQ(count, counts[i]);
  }
  zero1__step_name(120, name);
  CHECK(!strcmp(name, "step-000000000120"));
}

static void other_names_are_none(void) {
  const char *const names[] = {"",
                               "step-",
                               "step-1",
                               "step-00000000012",
                               "step-0000000000120",
                               "step-00000000012x",
                               "step-000000000120 ",
                               "step--00000000001",
                               "step-+00000000001",
                               "step- 00000000001",
                               "step-9223372036854775808",
                               "Step-000000000120",
                               "xstep-000000000120"};
  for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
    int64_t count = -7;
    CHECK(!zero1__step_parse(names[i], &count));
    CHECK_EQ(count, -7);
  }
}

static void a_list_ascends_and_has_only_folders_with_a_manifest(void) {
  int64_t *counts, count;
  make_root();
  CHECK_STATUS(zero1__root_list(root, &counts, &count, &failure), ZERO1_OK);
  CHECK(!counts && count == 0);
  const int64_t steps[] = {30, 10, 2000000000000, 0, 20};
  for (int i = 0; i < 5; ++i) make_checkpoint(steps[i]);
  make_folder("step-000000000040"); /* a manifest is missing */
  make_file("step-000000000050");
  make_folder("step-000000000060");
  make_folder("step-000000000060/manifest.json");
  make_folder("step-70");
  make_file("step-70/manifest.json");
  make_folder(".save-0123456789abcdef");
  make_file(".save-0123456789abcdef/manifest.json");
  CHECK_STATUS(zero1__root_list(root, &counts, &count, &failure), ZERO1_OK);
  const int64_t expected[] = {0, 10, 20, 30, 2000000000000};
  CHECK_EQ(count, 5);
  CHECK(!memcmp(counts, expected, sizeof expected));
  free(counts);
  drop_root();
}

static void no_root_and_a_file_are_told_apart(void) {
  int64_t *counts, count;
  char path[PATH_MAX];
  make_root();
  make_file("file");
  CHECK_STATUS(zero1__root_list(in_root("none"), &counts, &count, &failure), ZERO1_ERR_NOT_FOUND);
  CHECK(fails_with("none: no such folder"));
  CHECK_STATUS(zero1__root_list(in_root("file"), &counts, &count, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("file: is a file, not a folder"));
  CHECK(!counts && count == 0);
  CHECK_STATUS(zero1__root_latest(in_root("none"), path, sizeof path, &failure),
               ZERO1_ERR_NOT_FOUND);
  CHECK(fails_with("none: no such folder"));
  CHECK_STATUS(zero1__root_latest(in_root("file"), path, sizeof path, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("file: is a file, not a folder"));
  CHECK_STATUS(zero1__root_resolve(in_root("file"), path, sizeof path, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("file: is a file, not a folder"));
  CHECK_STATUS(zero1__root_sweep(in_root("none"), NULL, &failure), ZERO1_ERR_NOT_FOUND);
  CHECK(fails_with("none: no such folder"));
  drop_root();
}

/* ---- latest ---- */

static void latest_is_where_the_link_leads(void) {
  make_root();
  make_checkpoint(10);
  make_checkpoint(20);
  CHECK_STATUS(zero1__root_set_latest(root, 10, &failure), ZERO1_OK);
  CHECK(latest_is("step-000000000010")); /* and not the highest */
  CHECK_STATUS(zero1__root_set_latest(root, 20, &failure), ZERO1_OK);
  CHECK(latest_is("step-000000000020"));
  char target[64] = "";
  CHECK(readlink(in_root("latest"), target, sizeof target - 1) == 17);
  CHECK(!strcmp(target, "step-000000000020")); /* relative: the root may move */
  CHECK(!is_there(".save-latest"));
  drop_root();
}

static void a_link_that_a_crash_left_half_made_is_no_obstacle(void) {
  make_root();
  make_checkpoint(10);
  CHECK(!symlink("step-000000000005", in_root(".save-latest")));
  CHECK_STATUS(zero1__root_set_latest(root, 10, &failure), ZERO1_OK);
  CHECK(latest_is("step-000000000010") && !is_there(".save-latest"));
  drop_root();
}

static void where_the_link_leads_nowhere_it_is_the_highest_step(void) {
  char loop[PATH_MAX];
  const char *const targets[] = {"step-000000000030", "step-000000000040", "latest",
                                 "nowhere",           "other/latest",      "/nowhere"};
  make_root();
  make_checkpoint(10);
  make_checkpoint(20);
  make_folder("step-000000000040"); /* without a manifest */
  for (size_t i = 0; i < sizeof targets / sizeof *targets; ++i) {
    CHECK(!symlink(targets[i], in_root("latest")));
    CHECK(latest_is("step-000000000020"));
    CHECK(!unlink(in_root("latest")));
  }
  memset(loop, 'x', 300); /* no name is that long */
  loop[300] = 0;
  CHECK(!symlink(loop, in_root("latest")) && latest_is("step-000000000020"));
  CHECK(!unlink(in_root("latest")) && latest_is("step-000000000020"));
  make_file("latest");
  CHECK(latest_is("step-000000000020"));
  CHECK(!unlink(in_root("latest")));
  make_folder("latest");
  make_file("latest/manifest.json");
  CHECK(latest_is("step-000000000020"));
  drop_root();
}

static void a_root_without_a_checkpoint_has_none(void) {
  char path[PATH_MAX] = "x";
  make_root();
  make_folder("step-000000000040");
  CHECK_STATUS(zero1__root_latest(root, path, sizeof path, &failure), ZERO1_ERR_NOT_FOUND);
  CHECK(fails_with("no checkpoint in it") && !path[0]);
  drop_root();
}

static void a_checkpoint_resolves_to_itself_and_a_root_to_its_latest(void) {
  char path[PATH_MAX], given[PATH_MAX + 2];
  make_root();
  make_checkpoint(10);
  make_checkpoint(20);
  const char *const first = in_root("step-000000000010");
  CHECK_STATUS(zero1__root_resolve(first, path, sizeof path, &failure), ZERO1_OK);
  CHECK(!strcmp(path, first));
  snprintf(given, sizeof given, "%s//", root);
  CHECK_STATUS(zero1__root_resolve(given, path, sizeof path, &failure), ZERO1_OK);
  CHECK(!strcmp(path, in_root("step-000000000020")));
  drop_root();
}

static void a_path_that_is_too_short_is_refused(void) {
  char path[PATH_MAX];
  make_root();
  make_checkpoint(10);
  const size_t bytes = strlen(in_root("step-000000000010"));
  CHECK_STATUS(zero1__root_latest(root, path, bytes, &failure), ZERO1_ERR_INVALID);
  CHECK(fails_with("there is room for") && !path[0]);
  CHECK_STATUS(zero1__root_latest(root, path, bytes + 1, &failure), ZERO1_OK);
  CHECK_STATUS(zero1__root_latest(root, path, 0, &failure), ZERO1_ERR_INVALID);
  CHECK(fails_with("there is room for 0"));
  drop_root();
}

static void a_latest_that_cannot_be_replaced_is_named(void) {
  make_root();
  make_checkpoint(10);
  make_folder("latest");
  CHECK_STATUS(zero1__root_set_latest(root, 10, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("/latest: replacing it failed: "));
  CHECK(!is_there(".save-latest"));
  drop_root();
}

/* ---- which ones go ---- */

static int64_t choose(int64_t count, int64_t keep_last, int64_t keep_every, const char *expected) {
  const int64_t steps[] = {0, 10, 20, 25, 30, 40, 50};
  uint8_t goes[8] = {9, 9, 9, 9, 9, 9, 9, 9};
  const int64_t going = zero1__root_choose(steps, count, keep_last, keep_every, goes);
  for (int64_t i = 0; i < count; ++i) CHECK_EQ(goes[i], expected[i] == 'x');
  CHECK_EQ(goes[count], 9); /* nothing behind the end */
  return going;
}

static void the_newest_stay_and_older_ones_go(void) {
  CHECK_EQ(choose(7, 1, 0, "xxxxxx."), 6);
  CHECK_EQ(choose(7, 2, 0, "xxxxx.."), 5);
  CHECK_EQ(choose(7, 6, 0, "x......"), 1);
  CHECK_EQ(choose(7, 7, 0, "......."), 0);
  CHECK_EQ(choose(7, 8, 0, "......."), 0);
  CHECK_EQ(choose(7, INT64_MAX, 0, "......."), 0);
}

static void without_keep_last_none_goes(void) {
  CHECK_EQ(choose(7, 0, 0, "......."), 0);
  CHECK_EQ(choose(7, 0, 20, "......."), 0);
}

static void multiples_of_keep_every_stay(void) {
  CHECK_EQ(choose(7, 1, 20, ".x.xx.."), 3); /* 0, 20 and 40 stay, and 50 as the newest */
  CHECK_EQ(choose(7, 2, 25, ".xx.x.."), 3);
  CHECK_EQ(choose(7, 1, 1, "......."), 0);
  CHECK_EQ(choose(7, 1, INT64_MAX, ".xxxxx."), 5);
}

static void one_checkpoint_always_stays(void) {
  CHECK_EQ(choose(1, 1, 0, "."), 0);
  CHECK_EQ(choose(1, 1, 7, "."), 0);
  CHECK_EQ(choose(0, 1, 0, ""), 0);
}

/* ---- removing and sweeping ---- */

static void a_removed_checkpoint_is_gone_and_others_are_not(void) {
  make_root();
  make_checkpoint(10);
  make_checkpoint(20);
  CHECK_STATUS(zero1__root_remove(root, 10, &failure), ZERO1_OK);
  CHECK(!is_there("step-000000000010") && is_there("step-000000000020/manifest.json"));
  CHECK(!is_there(".gone-step-000000000010"));
  CHECK_STATUS(zero1__root_remove(root, 10, &failure), ZERO1_OK); /* missing: fine */
  drop_root();
}

static void a_removal_that_crashed_is_no_obstacle_to_the_next(void) {
  make_root();
  make_checkpoint(10);
  make_folder(".gone-step-000000000010");
  make_file(".gone-step-000000000010/rank");
  CHECK_STATUS(zero1__root_remove(root, 10, &failure), ZERO1_OK);
  CHECK(!is_there("step-000000000010") && !is_there(".gone-step-000000000010"));
  drop_root();
}

static void a_sweep_removes_leftovers_and_nothing_else(void) {
  const char *const stay[] = {".save-0123456789abcde",
                              ".save-0123456789abcdef0",
                              ".save-notes",
                              ".save-",
                              ".gone-",
                              ".gone",
                              "save-0123456789abcdef",
                              ".save-0123456789ABCDEF",
                              ".hidden",
                              ".save-00000000000000aa"}; /* the last is in use */
  make_root();
  make_checkpoint(10);
  for (size_t i = 0; i < sizeof stay / sizeof *stay; ++i) make_folder(stay[i]);
  make_file(".lock");
  make_folder(".save-0123456789abcdef");
  make_folder(".save-0123456789abcdef/inner");
  make_file(".save-0123456789abcdef/inner/deep");
  make_file(".save-0123456789abcdef/rank-00000-of-00002-00000.safetensors");
  make_file(".save-00000000000000bb"); /* not even a folder */
  make_folder(".gone-step-000000000010");
  make_file(".gone-step-000000000010/manifest.json");
  CHECK(!symlink("step-000000000010", in_root(".save-latest")));
  CHECK_STATUS(zero1__root_sweep(root, ".save-00000000000000aa", &failure), ZERO1_OK);
  for (size_t i = 0; i < sizeof stay / sizeof *stay; ++i) CHECK(is_there(stay[i]));
  CHECK(is_there(".lock") && is_there("step-000000000010/manifest.json"));
  CHECK(!is_there(".save-0123456789abcdef") && !is_there(".save-00000000000000bb"));
  CHECK(!is_there(".gone-step-000000000010") && !is_there(".save-latest"));
  CHECK_STATUS(zero1__root_sweep(root, NULL, &failure), ZERO1_OK);
  CHECK(!is_there(".save-00000000000000aa"));
  drop_root();
}

static void links_in_what_is_swept_are_not_followed(void) {
  make_root();
  make_folder("precious");
  make_file("precious/data");
  make_folder(".save-0123456789abcdef");
  CHECK(!symlink(in_root("precious"), in_root(".save-0123456789abcdef/link")));
  CHECK(!symlink("precious", in_root(".gone-link")));
  CHECK_STATUS(zero1__root_sweep(root, NULL, &failure), ZERO1_OK);
  CHECK(!is_there(".save-0123456789abcdef") && !is_there(".gone-link"));
  CHECK(is_there("precious/data"));
  drop_root();
}

static void a_tree_that_is_not_there_is_fine(void) {
  make_root();
  CHECK_STATUS(zero1__remove_tree(in_root("none"), &failure), ZERO1_OK);
  make_file("file");
  CHECK_STATUS(zero1__remove_tree(in_root("file"), &failure), ZERO1_OK);
  CHECK(!is_there("file"));
  drop_root();
}

static void a_folder_is_flushed_or_named(void) {
  make_root();
  CHECK_STATUS(zero1__flush_folder(root, &failure), ZERO1_OK);
  CHECK_STATUS(zero1__flush_folder(in_root("none"), &failure), ZERO1_ERR_IO);
  CHECK(fails_with("none: opening failed: No such file or directory"));
  drop_root();
}

/* ---- without permission ---- */

#define NOBODY 65534

/* Runs fn in a process to which the permissions of folders apply; 0 where that cannot be. */
static int run_unprivileged(void (*fn)(void)) {
  fflush(NULL);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    if (!geteuid() && (setgid(NOBODY) || setuid(NOBODY))) _exit(77);
    fn();
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77);
  return WEXITSTATUS(status) == 0;
}

static void reads_but_does_not_write(void) {
  int64_t *counts, count;
  char path[PATH_MAX];
  zero1__root_lock *lock;
  CHECK(latest_is("step-000000000010"));
  CHECK_STATUS(zero1__root_resolve(root, path, sizeof path, &failure), ZERO1_OK);
  CHECK_STATUS(zero1__root_list(root, &counts, &count, &failure), ZERO1_OK);
  CHECK_EQ(count, 2);
  free(counts);
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_ERR_IO);
  CHECK(!lock && fails_with("/.lock: opening failed: Permission denied"));
  CHECK_STATUS(zero1__root_set_latest(root, 20, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("/.save-latest: making the link failed: Permission denied"));
  CHECK_STATUS(zero1__root_remove(root, 10, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("/step-000000000010: removing failed: Permission denied"));
  CHECK_STATUS(zero1__root_sweep(root, NULL, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("Permission denied"));
}

static void a_root_that_may_only_be_read_is_read(void) {
  make_root();
  make_checkpoint(10);
  make_checkpoint(20);
  CHECK_STATUS(zero1__root_set_latest(root, 10, &failure), ZERO1_OK);
  make_folder(".save-0123456789abcdef");
  CHECK(!chmod(root, 0555));
  if (!run_unprivileged(reads_but_does_not_write)) printf("  left out: cannot drop privileges\n");
  CHECK(!chmod(root, 0755));
  CHECK(is_there("step-000000000010/manifest.json") && is_there(".save-0123456789abcdef"));
  drop_root();
}

static void cannot_look_inside(void) {
  char path[PATH_MAX];
  CHECK_STATUS(zero1__root_latest(root, path, sizeof path, &failure), ZERO1_ERR_IO);
  CHECK(fails_with("Permission denied"));
}

static void a_root_that_may_not_be_read_is_not_taken_for_an_empty_one(void) {
  make_root();
  make_checkpoint(10);
  CHECK(!chmod(root, 0));
  if (!run_unprivileged(cannot_look_inside)) printf("  left out: cannot drop privileges\n");
  CHECK(!chmod(root, 0755));
  drop_root();
}

int main(void) {
  RUN(a_name_has_12_digits_or_more_and_is_read_back);
  RUN(other_names_are_none);
  RUN(a_list_ascends_and_has_only_folders_with_a_manifest);
  RUN(no_root_and_a_file_are_told_apart);
  RUN(latest_is_where_the_link_leads);
  RUN(a_link_that_a_crash_left_half_made_is_no_obstacle);
  RUN(where_the_link_leads_nowhere_it_is_the_highest_step);
  RUN(a_root_without_a_checkpoint_has_none);
  RUN(a_checkpoint_resolves_to_itself_and_a_root_to_its_latest);
  RUN(a_path_that_is_too_short_is_refused);
  RUN(a_latest_that_cannot_be_replaced_is_named);
  RUN(the_newest_stay_and_older_ones_go);
  RUN(without_keep_last_none_goes);
  RUN(multiples_of_keep_every_stay);
  RUN(one_checkpoint_always_stays);
  RUN(a_removed_checkpoint_is_gone_and_others_are_not);
  RUN(a_removal_that_crashed_is_no_obstacle_to_the_next);
  RUN(a_sweep_removes_leftovers_and_nothing_else);
  RUN(links_in_what_is_swept_are_not_followed);
  RUN(a_tree_that_is_not_there_is_fine);
  RUN(a_folder_is_flushed_or_named);
  RUN(a_root_that_may_only_be_read_is_read);
  RUN(a_root_that_may_not_be_read_is_not_taken_for_an_empty_one);
  return check_summary();
}
