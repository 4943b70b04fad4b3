#include "table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 32

void table_begin(table *self, int columns, uint32_t right) {
  memset(self, 0, sizeof *self);
  self->columns = columns < COLUMNS_MAX ? columns : COLUMNS_MAX;
  self->right = right;
}

void table_end(table *self) {
  for (int64_t i = 0; i < self->count; ++i) free(self->cells[i]);
  free(self->cells);
  memset(self, 0, sizeof *self);
}

static int is_control(char byte) {
  return (unsigned char)byte < 0x20 || (unsigned char)byte == 0x7f;
}

/* Of text, whose control characters would move the cursor, or worse: "\x1b" for each. NULL: no
 * memory. */
static char *escape(const char *text) {
  char *const escaped = malloc(4 * strlen(text) + 1);
  char *at = escaped;
  if (!escaped) return NULL;
  for (; *text; ++text) {
    if (is_control(*text))
      at += sprintf(at, "\\x%02x", (unsigned char)*text);
    else
      *at++ = *text;
  }
  *at = 0;
  return escaped;
}

static int grow(table *self) {
  const int64_t room = self->room ? 2 * self->room : 64;
  char **const cells = realloc(self->cells, (size_t)room * sizeof *cells);
  if (!cells) return -1;
  self->cells = cells;
  self->room = room;
  return 0;
}

void table_add(table *self, const char *format, ...) {
  char *text = NULL;
  va_list list;
  va_start(list, format);
  const int bytes = vasprintf(&text, format, list);
  va_end(list);
  if (bytes < 0) text = NULL;
  char *const cell = text ? escape(text) : NULL;
  free(text);
  if (!cell || (self->count == self->room && grow(self))) {
    self->failed = 1;
    free(cell);
    return;
  }
  self->cells[self->count++] = cell;
}

/* Characters: bytes but those that continue one. */
static int width_of(const char *cell) {
  int width = 0;
  for (; *cell; ++cell) width += ((unsigned char)*cell & 0xc0) != 0x80;
  return width;
}

/* Nothing is padded behind the last cell that holds anything. */
static void print_row(char *const *cells, int columns, uint32_t right, const int *widths,
                      const char *indent, FILE *out) {
  int owed = 0;
  fputs(indent, out);
  for (int c = 0; c < columns; ++c) {
    const int padding = widths[c] - width_of(cells[c]);
    const int before = right >> c & 1 ? padding : 0;
    if (*cells[c]) {
      fprintf(out, "%*s%s", owed + before, "", cells[c]);
      owed = padding - before + 2;
    } else {
      owed += widths[c] + 2;
    }
  }
  fputc('\n', out);
}

int table_print(const table *self, const char *indent, FILE *out) {
  int widths[COLUMNS_MAX] = {0};
  if (self->failed) {
    fputs("zero1: out of memory\n", stderr);
    return -1;
  }
  for (int64_t i = 0; i < self->count; ++i) {
    const int width = width_of(self->cells[i]);
    int *const most = &widths[i % self->columns];
    if (width > *most) *most = width;
  }
  for (int64_t i = 0; i + self->columns <= self->count; i += self->columns)
    print_row(self->cells + i, self->columns, self->right, widths, indent, out);
  return 0;
}
