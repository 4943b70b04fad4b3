#ifndef ZERO1__WIRE_THREADS_H
#define ZERO1__WIRE_THREADS_H

#include "wire.h"

/** Where the messages of ranks that are threads meet: counted, each wire of it is a user. */
typedef struct zero1__hub zero1__hub;

/** The maker is the first user. ZERO1_ERR_MEMORY. */
zero1_status zero1__hub_create(int32_t world_size, zero1__hub **hub, zero1__error *error);
/** One user less; the last one frees it. */
void zero1__hub_release(zero1__hub *hub);

/** The wire of one rank. ZERO1_ERR_MEMORY. */
zero1_status zero1__wire_threads_create(zero1__hub *hub, int32_t rank, zero1__wire **wire,
                                        zero1__error *error);

#endif
