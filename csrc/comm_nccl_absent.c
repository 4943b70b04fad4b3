/* A build without NCCL. */
#include "comm_ops.h"

static zero1_status absent(const zero1_comm_options *options, zero1_comm **comm) {
  zero1__error error;
  if (!comm) return ZERO1_ERR_INVALID;
  *comm = NULL;
  zero1__error_clear(&error);
  zero1__fail(&error, ZERO1_ERR_UNSUPPORTED, "this build of the library has no NCCL");
  return zero1__create_done(options, ZERO1_ERR_UNSUPPORTED, &error);
}

zero1_status zero1_comm_create_nccl(void *nccl_comm, const zero1_comm_options *options,
                                    zero1_comm **comm) {
  (void)nccl_comm;
  return absent(options, comm);
}

zero1_status zero1_nccl_unique_id(void *unique_id, size_t unique_id_bytes) {
  (void)unique_id;
  (void)unique_id_bytes;
  return ZERO1_ERR_UNSUPPORTED;
}

zero1_status zero1_comm_create_nccl_id(int32_t rank, int32_t world_size, const void *unique_id,
                                       size_t unique_id_bytes, const zero1_comm_options *options,
                                       zero1_comm **comm) {
  (void)rank;
  (void)world_size;
  (void)unique_id;
  (void)unique_id_bytes;
  return absent(options, comm);
}

zero1_status zero1_comm_create_nccl_allgather(int32_t rank, int32_t world_size,
                                              zero1_allgather_fn allgather, void *context,
                                              const zero1_comm_options *options,
                                              zero1_comm **comm) {
  (void)rank;
  (void)world_size;
  (void)allgather;
  (void)context;
  return absent(options, comm);
}
