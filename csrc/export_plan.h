/* Which parameter's state goes into which file of an export. */
#ifndef ZERO1__EXPORT_PLAN_H
#define ZERO1__EXPORT_PLAN_H

#include <stdint.h>

#include "checkpoint_reader.h"
#include "error.h"
#include "zero1/checkpoint.h"

/** Parameters [begin, end) that have the state, in the order of registration. */
typedef struct zero1__export_file {
  int64_t begin, end;
  int64_t bytes; /* of its tensors */
  char *path;    /* owned */
  char *part;    /* its name while it is written; owned */
  int32_t is_written;
} zero1__export_file;

typedef struct zero1__export_plan {
  const zero1__reader *reader; /* borrowed */
  int32_t state, rank, dtype;  /* as zero1_export_options; dtype: ZERO1_DTYPE_ */
  const char *folder;          /* NULL: one file, of a name of its own; borrowed */
  char stem[32];               /* of the names in a folder: "model", "exp_avg" */
  zero1__export_file *files;   /* [file_count] owned */
  int64_t file_count;
  int64_t total_bytes; /* of all tensors */
} zero1__export_plan;

/** Whether parameter `index` has the state: frozen ones have their value alone. */
int32_t zero1__export_has(const zero1__export_plan *plan, int64_t index);

/** Fills files one after another, none beyond max_bytes unless one tensor alone is, or beyond what
 *  readers take of a header. Ended with zero1__export_plan_end, after a failure too.
 *  ZERO1_ERR_MEMORY; ZERO1_ERR_INVALID: more files than their names can tell apart. */
zero1_status zero1__export_plan_begin(zero1__export_plan *plan, int64_t max_bytes,
                                      zero1__error *error);
void zero1__export_plan_end(zero1__export_plan *plan);

/** Gives the files their paths: in plan->folder, or, where that is NULL, `out` to the only one.
 *  ZERO1_ERR_MEMORY. */
zero1_status zero1__export_plan_name(zero1__export_plan *plan, const char *out,
                                     zero1__error *error);

#endif
