/* The parameters as the caller registered them: names, shapes, groups, flags. */
#ifndef ZERO1__REGISTRY_H
#define ZERO1__REGISTRY_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "zero1/zero1.h"

typedef struct zero1__registry {
  int64_t count;
  const char **names;     /* [count] */
  const int64_t **shapes; /* [count][ndim] */
  int32_t *ndim;          /* [count] */
  int32_t *group;         /* [count] */
  uint32_t *flags;        /* [count] */
  int64_t *numel;         /* [count] */
  int64_t *table;         /* [table_size] indices by the hash of the name; -1: free */
  int64_t table_size;     /* a power of 2 */
  char *text;             /* all names */
  int64_t *sizes;         /* all shapes */
} zero1__registry;

/** Copies specs. ZERO1_ERR_INVALID: names the parameter. ZERO1_ERR_MEMORY, ZERO1_ERR_VERSION. Ended
 *  with zero1__registry_end, after a failure too. */
zero1_status zero1__registry_begin(zero1__registry *registry, const zero1_param_spec *specs,
                                   size_t spec_bytes, int64_t count, int64_t group_count,
                                   zero1__error *error);
void zero1__registry_end(zero1__registry *registry);

/** Index of a name; -1: none. */
int64_t zero1__registry_find(const zero1__registry *registry, const char *name);

/** A hash of all that registration says of one parameter. */
uint64_t zero1__registry_hash(const zero1__registry *registry, int64_t index);

/** One line: 'name' [3, 4] in group 0. For an index beyond the end: no parameter. */
void zero1__registry_describe(const zero1__registry *registry, int64_t index, char *text,
                              size_t text_bytes);

#endif
