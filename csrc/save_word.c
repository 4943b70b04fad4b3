#include "save_word.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "save_file.h"

/* A target that filesystems keep in the link itself is shorter. */
#define LINK_BYTES 56

zero1_status zero1__word_write(const char *path, const zero1__error *said, const char *more,
                               size_t more_bytes, zero1__error *error) {
  char word[ZERO1__ERROR_TEXT + 32], target[LINK_BYTES];
  snprintf(word, sizeof word, "%d %s\n", said->status, said->status ? said->text : "");
  for (char *c = word; *c; ++c)
    if (*c == '\n' && c[1]) *c = ' ';
  zero1__error why = {0};
  if (!zero1__save_file(path, word, strlen(word), more, more_bytes, &why)) return ZERO1_OK;
  const char *const reason = strrchr(said->text, ':'); /* "<path>: writing failed: <reason>" */
  snprintf(target, sizeof target, "%d %s", said->status, reason ? reason + 1 : "it failed");
  if (said->status && !symlink(target, path)) return ZERO1_OK;
  return zero1__fail(error, why.status, "%s", why.text);
}

int zero1__word_is_there(const char *path) {
  struct stat is;
  return !lstat(path, &is);
}

/* As a file would have begun; the text names the link, for what has failed. [out] *text NULL: it is no link */
static zero1_status read_link(const char *path, char **text, size_t *bytes, zero1__error *error) {
  char target[LINK_BYTES], *reason;
  const ssize_t length = readlink(path, target, sizeof target - 1);
  if (length <= 0) return ZERO1_OK;
  target[length] = 0;
  const long status = strtol(target, &reason, 10);
  const size_t room = strlen(path) + sizeof target + 8;
  *text = malloc(room);
  if (!*text) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %.300s", path);
  reason += strspn(reason, " ");
  *bytes = (size_t)snprintf(*text, room, "%ld %s: %s\n", status, path, reason);
  return ZERO1_OK;
}

zero1_status zero1__word_read(const char *path, zero1__error *said, char **text, const char **more,
                              size_t *bytes, zero1__error *error) {
  char *end;
  *text = NULL;
  zero1__error_clear(said);
  zero1_status status = read_link(path, text, bytes, error);
  if (!status && !*text) status = zero1__load_file(path, text, bytes, error);
  if (status) return status;
  const long number = strtol(*text, &end, 10);
  const char *const line = strchr(end, '\n');
  if (!line || *end != ' ') {
    free(*text);
    *text = NULL;
    return zero1__fail(error, ZERO1_ERR_CORRUPT, "%.300s: does not begin with a status", path);
  }
  if (number) zero1__fail(said, (zero1_status)number, "%.*s", (int)(line - end - 1), end + 1);
  *more = line + 1;
  return ZERO1_OK;
}
