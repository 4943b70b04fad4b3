/* SIGINT, SIGTERM and SIGHUP, for a run that must first clean up. */
#ifndef ZERO1_COMMAND_INTERRUPT_H
#define ZERO1_COMMAND_INTERRUPT_H

/** From here on they are noted, and end nothing. */
void interrupt_begin(void);

/** The number of the one that came, or 0. */
int interrupt_seen(void);

/** As before; one that came ends the process now. */
void interrupt_end(void);

#endif
