/* A build without MPI. */
#include "comm_ops.h"

static zero1_status absent(const zero1_comm_options *options, zero1_comm **comm) {
  zero1__error error;
  if (!comm) return ZERO1_ERR_INVALID;
  *comm = NULL;
  zero1__error_clear(&error);
  zero1__fail(&error, ZERO1_ERR_UNSUPPORTED, "this build of the library has no MPI");
  return zero1__create_done(options, ZERO1_ERR_UNSUPPORTED, &error);
}

zero1_status zero1_comm_create_mpi(int32_t mpi_comm_f, const zero1_comm_options *options,
                                   zero1_comm **comm) {
  (void)mpi_comm_f;
  return absent(options, comm);
}

zero1_status zero1_comm_create_nccl_mpi(int32_t mpi_comm_f, const zero1_comm_options *options,
                                        zero1_comm **comm) {
  (void)mpi_comm_f;
  return absent(options, comm);
}
