// sanitizers: address undefined
/* What a rank of a save tells through the folder is what another one reads: a status, its text, and
 * what comes after; and a failure is told where no file can be made any more. */
#include "checkpoint_train.h"
#include "save_word.h"

static char folder[256], path[300];

static void begin(void) {
  folder_begin(folder, sizeof folder);
  snprintf(path, sizeof path, "%.250s/done-00001", folder);
  CHECK(!zero1__word_is_there(path));
}

static void check_read(zero1_status status, const char *part, const char *rest) {
  zero1__error said, error = {0};
  char *text;
  const char *more;
  size_t bytes;
  CHECK(zero1__word_is_there(path));
  CHECK_STATUS(zero1__word_read(path, &said, &text, &more, &bytes, &error), ZERO1_OK);
  CHECK_STATUS(said.status, status);
  CHECK(strstr(said.text, part) != NULL);
  CHECK_EQ(text + bytes - more, strlen(rest));
  CHECK(!memcmp(more, rest, strlen(rest)));
  free(text);
}

static void success_comes_with_what_follows_it(void) {
  const zero1__error fine = {0};
  begin();
  CHECK_STATUS(zero1__word_write(path, &fine, "1 2\n3", 5, NULL), ZERO1_OK);
  check_read(ZERO1_OK, "", "1 2\n3");
  folder_end(folder);
}

static void a_failure_is_one_line(void) {
  const zero1__error said = {ZERO1_ERR_IO, "/a/b\nc: writing failed: Input/output error"};
  begin();
  CHECK_STATUS(zero1__word_write(path, &said, NULL, 0, NULL), ZERO1_OK);
  check_read(ZERO1_ERR_IO, "/a/b c: writing failed: Input/output error", "");
  folder_end(folder);
}

/* In the way of the file lies a folder of its other name. */
static void where_no_file_can_be_made_a_failure_is_told_by_a_link(void) {
  const zero1__error fine = {0};
  const zero1__error said = {ZERO1_ERR_IO, "/a/b: writing failed: No space left on device"};
  char other[320];
  zero1__error error = {0};
  begin();
  snprintf(other, sizeof other, "%s.new", path);
  CHECK(!mkdir(other, 0777));
  CHECK_STATUS(zero1__word_write(path, &fine, "part", 4, &error), ZERO1_ERR_IO);
  CHECK(strstr(error.text, path) != NULL);
  CHECK(!zero1__word_is_there(path));
  CHECK_STATUS(zero1__word_write(path, &said, NULL, 0, NULL), ZERO1_OK);
  check_read(ZERO1_ERR_IO, "No space left on device", "");
  check_read(ZERO1_ERR_IO, path, "");
  folder_end(folder);
}

static void what_begins_with_no_status_is_no_word(void) {
  zero1__error said, error = {0};
  char *text;
  const char *more;
  size_t bytes;
  begin();
  CHECK_STATUS(zero1__save_file(path, "what", 4, NULL, 0, &error), ZERO1_OK);
  CHECK_STATUS(zero1__word_read(path, &said, &text, &more, &bytes, &error), ZERO1_ERR_CORRUPT);
  CHECK(strstr(error.text, path) != NULL && !text);
  folder_end(folder);
}

int main(void) {
  RUN(success_comes_with_what_follows_it);
  RUN(a_failure_is_one_line);
  RUN(where_no_file_can_be_made_a_failure_is_told_by_a_link);
  RUN(what_begins_with_no_status_is_no_word);
  return check_summary();
}
