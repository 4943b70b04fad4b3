/* Which parameter goes into which file of an export. */
#ifndef ZERO1_COMMAND_EXPORT_PLAN_H
#define ZERO1_COMMAND_EXPORT_PLAN_H

#include <stdint.h>

#include "error.h"
#include "zero1/checkpoint.h"

#define EXPORT_NAME "model.safetensors"
#define EXPORT_INDEX_NAME "model.safetensors.index.json"

/** Parameters [begin, end), in the order of registration. */
typedef struct export_file {
  int64_t begin, end;
  int64_t bytes; /* of its tensors */
  char *path;    /* owned */
  char *part;    /* its name while it is written; owned */
  int is_written;
} export_file;

typedef struct export_plan {
  zero1_checkpoint *checkpoint; /* borrowed */
  int64_t param_count;
  int32_t dtype;      /* ZERO1_DTYPE_ */
  export_file *files; /* [file_count] owned */
  int64_t file_count;
  int64_t total_bytes; /* of all tensors */
} export_plan;

/** Fills files one after another, none beyond max_bytes unless one tensor alone is, or beyond what
 *  readers take of a header. Ended with export_plan_end, after a failure too. ZERO1_ERR_MEMORY;
 *  ZERO1_ERR_INVALID: more files than their names can tell apart. */
zero1_status export_plan_begin(export_plan *plan, int64_t max_bytes, zero1__error *error);
void export_plan_end(export_plan *plan);

/** Gives the files their paths. is_file: `out` is the only one's; else it is their folder. */
zero1_status export_plan_name(export_plan *plan, const char *out, int is_file, zero1__error *error);

#endif
