/* Text in columns. */
#ifndef ZERO1_COMMAND_TABLE_H
#define ZERO1_COMMAND_TABLE_H

#include <stdint.h>
#include <stdio.h>

/** Ended with table_end. */
typedef struct table {
  int columns;
  uint32_t right; /* bit of each column that is flush right */
  char **cells;   /* [count] row by row; owned */
  int64_t count, room;
  int failed; /* memory was missing */
} table;

void table_begin(table *self, int columns, uint32_t right);
void table_end(table *self);

/** The next cell, UTF-8; what would not stand in a line is shown as \x0a. */
void table_add(table *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Whole rows, each after `indent`. Returns 0, or -1 where memory was missing, and says so. */
int table_print(const table *self, const char *indent, FILE *out);

#endif
