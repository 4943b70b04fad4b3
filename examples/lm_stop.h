/* A request to end: SIGTERM, SIGINT, or SIGUSR1, the one of the three that mpirun hands to every rank
 * and then leaves it all the time it needs. */
#ifndef LM_STOP_H
#define LM_STOP_H

#include <stdbool.h>

/** From now on these signals are only noted. A second SIGINT ends the process. */
void lm_stop_catch(void);

/** Whether one of them has come to this process. */
bool lm_stop_asked(void);

#endif
