/* Who writes into a root: one job at a time. */
#ifndef ZERO1__CHECKPOINT_LOCK_H
#define ZERO1__CHECKPOINT_LOCK_H

#include "error.h"

typedef struct zero1__root_lock zero1__root_lock;

/** Takes ROOT/.lock for this process: POSIX record lock, so that it ends with the process, and in
 *  the file host, process and since when. ZERO1_ERR_LOCKED: who holds it, another optimizer of this
 *  process included. ZERO1_ERR_IO: no permission, or no locks here: say no_lock.
 *  ZERO1_ERR_MEMORY. Ended with zero1__root_unlock (NULL is fine), which removes the file. */
zero1_status zero1__root_lock_take(const char *root, zero1__root_lock **lock, zero1__error *error);
/** Whether this process has the lock, of the folder that `root` names now, and its file is still
 *  there. NULL: no. */
int zero1__root_lock_holds(const zero1__root_lock *lock, const char *root);
void zero1__root_unlock(zero1__root_lock *lock);

#endif
