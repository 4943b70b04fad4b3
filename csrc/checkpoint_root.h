/* The folder that a run's checkpoints are in: their names, `latest`, which ones go.
 *
 *   ROOT/step-000000000120        a checkpoint
 *   ROOT/latest                   a link to one
 *   ROOT/.lock                    who writes here (checkpoint_lock.h)
 *   ROOT/.save-0123456789abcdef   one that is being written, by 16 hex digits
 *   ROOT/.save-latest             `latest`, while it is made
 *   ROOT/.gone-<name>             what is being removed
 *
 * The last three are what a crash can leave. */
#ifndef ZERO1__CHECKPOINT_ROOT_H
#define ZERO1__CHECKPOINT_ROOT_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

/** "step-000000000120" and its NUL, for any count. */
#define ZERO1__STEP_NAME_BYTES 32
void zero1__step_name(int64_t count, char name[ZERO1__STEP_NAME_BYTES]);

/** Whether a name is one of zero1__step_name, and of which count. */
int zero1__step_parse(const char *name, int64_t *count);

/** ".save-0123456789abcdef" and its NUL: what a save writes into, until it is a checkpoint. */
#define ZERO1__SAVE_NAME_BYTES 32
void zero1__save_name(uint64_t token, char name[ZERO1__SAVE_NAME_BYTES]);

/** Whether a caller's `path` (called `what`) can be a root or a checkpoint: names of files in it fit
 *  into 4096 bytes. ZERO1_ERR_INVALID: it is NULL, empty or too long. */
zero1_status zero1__root_check(const char *path, const char *what, zero1__error *error);

/** The counts of a root's checkpoints (folders of such a name that hold a manifest), ascending, to
 *  be freed. ZERO1_ERR_NOT_FOUND: no such root. ZERO1_ERR_IO, ZERO1_ERR_MEMORY. */
zero1_status zero1__root_list(const char *root, int64_t **counts, int64_t *count,
                              zero1__error *error);

/** zero1_checkpoint_latest. */
zero1_status zero1__root_latest(const char *root, char *path, size_t path_bytes,
                                zero1__error *error);

/** A checkpoint's own path, of `dir`, which is one or a root. */
zero1_status zero1__root_resolve(const char *dir, char *path, size_t path_bytes,
                                 zero1__error *error);

/** Sets `latest` to the checkpoint of `count`, at once, and flushes the root. ZERO1_ERR_IO. */
zero1_status zero1__root_set_latest(const char *root, int64_t count, zero1__error *error);

/** Which of [count] ascending steps go by keep_last (0: none goes) and keep_every; the newest never
 *  does. goes: [count]. Returns how many. */
int64_t zero1__root_choose(const int64_t *steps, int64_t count, int64_t keep_last,
                           int64_t keep_every, uint8_t *goes);

/** Removes the checkpoint of `count`: renamed first, so that half of one is never seen. What is
 *  missing already is fine. ZERO1_ERR_IO. */
zero1_status zero1__root_remove(const char *root, int64_t count, zero1__error *error);

/** Removes what crashed saves and removals have left, but for `keep` (a name in root, or NULL). */
zero1_status zero1__root_sweep(const char *root, const char *keep, zero1__error *error);

#endif
