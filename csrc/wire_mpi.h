#ifndef ZERO1__WIRE_MPI_H
#define ZERO1__WIRE_MPI_H

#include <mpi.h>

#include "wire.h"

/** A wire over an MPI communicator, which it owns from here on and frees, after a failure too,
 *  unless requests on it had to be given up: then no further MPI call is made on it. */
zero1_status zero1__wire_mpi_create(MPI_Comm mpi, zero1__wire **wire, zero1__error *error);

/** Notes MPI's own words. ZERO1_ERR_COMM. */
zero1_status zero1__mpi_fail(zero1__error *error, int code, const char *call);

#endif
