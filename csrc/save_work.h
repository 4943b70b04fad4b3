/* How the ranks of a save come together, through the folder that they all see, so that it does not
 * matter on which thread, or over which communicator:
 *
 *   ROOT/.save-<token>/          made by rank 0
 *     data/                      what becomes the checkpoint: every rank writes its own files there
 *     done-<rank>                a rank has flushed its files (or has failed), with its part of the
 *                                manifest; removed by the rank once it has seen the outcome
 *     outcome                    by rank 0, in the end: data/ was renamed to ROOT/step-..., or why not
 *
 * done and outcome are words (save_word.h). The last rank to leave
 * removes the folder; after a crash the next save does. */
#ifndef ZERO1__SAVE_WORK_H
#define ZERO1__SAVE_WORK_H

#include <stdint.h>

#include "comm_ops.h"
#include "manifest.h"

typedef struct zero1__save_work {
  char *root, *path, *folder; /* ROOT, ROOT/.save-<token>, and data/ in it; owned */
  int32_t rank, world_size;
  zero1__lane *lane;       /* borrowed: tells whether a peer has died */
  zero1__channel *channel; /* borrowed: tells whether the optimizer has been given up */
  double timeout_seconds;  /* without anything new in the folder */
} zero1__save_work;

/** Rank 0: makes the root where it is missing, and the folders, under a token of its own. Each of
 *  the others is given the token. ZERO1_ERR_IO, ZERO1_ERR_MEMORY. Ended after a failure too. */
zero1_status zero1__save_work_begin(zero1__save_work *work, const char *root, uint64_t token,
                                    zero1_optimizer *optimizer, zero1__error *error);
void zero1__save_work_end(zero1__save_work *work);

/** Whether this rank sees what rank 0 has made, within a second. ZERO1_ERR_MISMATCH. */
zero1_status zero1__save_work_see(const zero1__save_work *work, zero1__error *error);

/** This rank has written its files, or has failed with `mine`. part: its text of
 *  zero1__part_write. ZERO1_ERR_IO. */
zero1_status zero1__save_work_done(const zero1__save_work *work, const zero1__error *mine,
                                   const char *part, size_t part_bytes, zero1__error *error);

/** What makes a checkpoint of the parts. */
typedef struct zero1__save_commit {
  zero1__manifest *manifest; /* with all but the ranks' parts */
  int64_t keep_last, keep_every;
} zero1__save_commit;

/** Rank 0: waits for all, writes the manifest, renames, moves latest, removes what is too old, tells
 *  the others what came of it; returns it. */
zero1_status zero1__save_work_commit(const zero1__save_work *work, const zero1__save_commit *commit,
                                     zero1__error *error);

/** The others: wait for the outcome and return it. ZERO1_ERR_PEER, _TIMEOUT: it never came. */
zero1_status zero1__save_work_outcome(const zero1__save_work *work, zero1__error *error);

/** Has seen the outcome, or waits no more. */
void zero1__save_work_leave(const zero1__save_work *work);

#endif
