/* One rank of a training run: all that it holds, from the options to the model. */
#ifndef LM_TRAINER_H
#define LM_TRAINER_H

#include <mpi.h>

#include "lm_data.h"
#include "lm_model.h"
#include "lm_options.h"
#include "lm_progress.h"
#include "lm_sharded.h"

/* A step whose results are not known yet. */
typedef struct lm_pending {
  bool any;
  int64_t step;
  double lr;
  MPI_Request request;
  /* loss; part of the run that is over, as rank 0's clock sees it; 1 of each rank asked to stop */
  double mine[3], sums[3];
} lm_pending;

typedef struct lm_trainer {
  lm_options options;
  int rank, ranks;
  int node_rank, node_ranks; /* among the ranks of this machine */
  int threads;
  lm_device device;
  lm_data data;
  zero1_comm *comm;
  lm_sharded sharded;
  lm_tensors tensors;
  lm_model model;
  uint8_t *inputs, *targets; /* [batch, context] */
  lm_progress progress;      /* rank 0's */
  lm_pending pending;
  double started, last_finished; /* seconds */
  int64_t skipped;               /* steps whose gradients were not finite */
  double part_done;              /* of the run, 0 to 1: the same on every rank */
  int64_t steps_done;            /* those of the run before this one included */
  bool stop;                     /* some rank was asked to: the same on every rank */

  /* lm_checkpoint's */
  bool resumed;          /* from a checkpoint */
  double seconds_before; /* that training had taken when it was saved; below 0: not saved */
  int64_t saved_step;    /* of the last checkpoint, saved or being saved; -1: none */
  bool saving;           /* it is under way */
  bool any_saved;        /* by this process */
  char error[512];
} lm_trainer;

/** Collective. True where all ranks are; else the lowest rank that is not tells its error. */
bool lm_agree(lm_trainer *t, bool ok);

/** This rank cannot go on in the middle of the run: ends it, so that neither peers in the library
 *  nor peers in MPI are left waiting. */
_Noreturn void lm_give_up(lm_trainer *t, const char *what);
/** lm_give_up where the status is no success. */
void lm_must(lm_trainer *t, zero1_status status, const char *what);

/** Opens everything that t->options ask for, or tells why not. t->rank and t->ranks are set.
 *  lm_trainer_close is to be called anyway. Collective. */
bool lm_trainer_open(lm_trainer *t);
/** False where the log could not be written. Collective. */
bool lm_trainer_close(lm_trainer *t);

/** Rank 0 prints the GPUs that it sees; false where there is none. Collective. */
bool lm_trainer_list_gpus(lm_trainer *t);

/** What the header tells. */
lm_setting lm_trainer_setting(lm_trainer *t);

#endif
