/* The files of an export: written under other names, and then all put in place. */
#ifndef ZERO1_COMMAND_EXPORT_WRITE_H
#define ZERO1_COMMAND_EXPORT_WRITE_H

#include "export_plan.h"
#include "progress.h"

/** Writes and flushes every file under its `part` name. ZERO1_ERR_ABORTED: a signal came. And
 *  ZERO1_ERR_IO, ZERO1_ERR_CORRUPT, ZERO1_ERR_MEMORY; then export_remove_parts. */
zero1_status export_write(export_plan *plan, progress *bar, zero1__error *error);

/** Removes what has been written and is not in place. */
void export_remove_parts(export_plan *plan);

/** Renames the parts and, where a folder holds several, writes their index last; flushes the folder.
 *  [in] folder  NULL: the plan has one file, of a name of its own
 *  [in] force   replaces what is there. The index of an earlier export of the folder is removed
 *               before any of its files is touched, so that no reader mixes the two.
 *  ZERO1_ERR_IO: without force also where a file is there. */
zero1_status export_commit(export_plan *plan, const char *folder, int force, zero1__error *error);

/** ZERO1_ERR_IO: names a file that an export to the folder, or of the file, would replace. */
zero1_status export_check_free(const export_plan *plan, const char *folder, zero1__error *error);

#endif
