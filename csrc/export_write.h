/* The files of an export: written under other names, and then all put in place. */
#ifndef ZERO1__EXPORT_WRITE_H
#define ZERO1__EXPORT_WRITE_H

#include "export_plan.h"

/** Writes and flushes every file under its `part` name. progress: as zero1_checkpoint_export.
 *  ZERO1_ERR_ABORTED: it said stop. And ZERO1_ERR_IO, ZERO1_ERR_CORRUPT, ZERO1_ERR_MEMORY; then
 *  zero1__export_remove_parts. */
zero1_status zero1__export_write(zero1__export_plan *plan, zero1_progress_fn progress,
                                 void *context, zero1__error *error);

/** Removes what has been written and is not in place. */
void zero1__export_remove_parts(zero1__export_plan *plan);

/** ZERO1_ERR_IO: names a file that an export to the folder, or of the file, would replace. */
zero1_status zero1__export_check_free(const zero1__export_plan *plan, zero1__error *error);

/** Renames the parts and, where a folder holds several, writes their index last; flushes the folder.
 *  [in] force   replaces what is there. The index of an earlier export of the folder is removed
 *               before any of its files is touched, so that no reader mixes the two.
 *  ZERO1_ERR_IO: without force also where a file is there. ZERO1_ERR_MEMORY. */
zero1_status zero1__export_commit(zero1__export_plan *plan, int32_t force, zero1__error *error);

#endif
