/* The checkpoints of a run: what is saved beside the optimizer's state, and going on from it.
 *
 * What a step draws from the text is a function of --seed, the step and the part (lm_draw), and parts
 * count passes and ranks: so the place in the data is the number of steps, whatever the number of
 * ranks, and no generator has a state to be saved. N ranks with P passes draw what 1 rank with N * P
 * passes draws. Elapsed time is saved where it decides (--time-limit), and not else: the same state
 * gives the same files. */
#ifndef LM_CHECKPOINT_H
#define LM_CHECKPOINT_H

#include "lm_trainer.h"

/** Goes on from the latest checkpoint of --checkpoint, or, where there is none, leaves everything as it
 *  is; rank 0 says which, and which options are others than when it was saved. Sets parameters, state
 *  and t->steps_done, skipped, part_done, seconds_before and resumed. What the options say about lr, betas,
 *  decay and clipping holds, not what was saved. Collective; before the first step.
 *  A failure has been told: ZERO1_ERR_CORRUPT: the checkpoint is damaged. Others as
 *  zero1_checkpoint_load; ZERO1_ERR_MISMATCH also: another program saved it. */
zero1_status lm_checkpoint_resume(lm_trainer *t);

/** Saves the state after t->steps_done steps, none of which is under way, as --save-async says. Ends
 *  the run where that fails; but where the disk is what failed and an earlier save has succeeded, tells
 *  it, and the run goes on. Collective. */
void lm_checkpoint_save(lm_trainer *t);

/** Tells about the save under way if it has ended. */
void lm_checkpoint_look(lm_trainer *t);

/** Saves the same where that is not done yet, and waits until it is safe. Ends the run where that
 *  fails. Collective. */
void lm_checkpoint_conclude(lm_trainer *t);

#endif
