// sanitizers: address undefined thread
// timeout: 300

/* Gradients that travel in 8 bits, against the definition in zero1.h, which is written here in
 * plain loops: codes, residuals and sums, bit for bit, whichever way the ranks are joined and
 * however the work is cut. */
#include "int8_case.h"
#include "residual.h"

/* ---- whatever must not matter ---- */

static void check_case(int8_case what) {
  static model expected; /* too much for a stack */
  zero1_comm_options options;
  int8_expect(&what, &expected);
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what.ranks_per_node;
  options.workspace_bytes = what.train.bucket_numel == 1 ? 1 : 0; /* chunks of one block */
  check_threads(what.world_size, &options, int8_train_rank, &what);
}

/* Whether an optimizer can be made with this instruction set here. */
static int has_isa(const char *isa) {
  const zero1_config config = trainer_config(&int8_base);
  zero1_comm *comm;
  trainer self;
  CHECK(setenv("ZERO1_ISA", isa, 1) == 0);
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  const zero1_status status = trainer_try_create(&self, &int8_base, comm, &config);
  CHECK(status == ZERO1_OK || status == ZERO1_ERR_UNSUPPORTED);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
  return status == ZERO1_OK;
}

static void check_ways(int32_t world_size, int32_t ranks_per_node, int32_t reduce_group,
                       int32_t group) {
  static const char *const isas[] = {"baseline", "avx2", "avx512"};
  for (int i = 0; i < 6; ++i) {
    if (!has_isa(isas[i % 3])) unsetenv("ZERO1_ISA");
    check_case(int8_case_of(i, world_size, ranks_per_node, reduce_group, group));
    unsetenv("ZERO1_ISA");
  }
}

static void one_rank_codes_too(void) {
  check_ways(1, 0, 0, 1);
}

static void a_node_comes_to_the_definitions_bits(void) {
  check_ways(2, 0, 0, 2);
  check_ways(3, 0, 0, 3);
  check_ways(4, 0, 2, 2);
}

static void nodes_of_one_rank_come_to_the_same_bits(void) {
  check_ways(2, 1, 0, 2);
  check_ways(3, 1, 0, 3);
  check_ways(4, 1, 2, 2);
}

static void nodes_of_two_ranks_come_to_the_same_bits(void) {
  check_ways(4, 2, 0, 2);
  check_ways(4, 2, 4, 4);
}

/* ---- one number ---- */

enum { FULL = 256 };
static const trainer_param one_block[] = {{FULL, 0, 0}};

static void full_of(trainer *self, int64_t param, void *grad) {
  const float *values = (const float *)self->context; /* of element 0, and of the others */
  for (int64_t e = 0; e < self->what->params[param].numel; ++e) ((float *)grad)[e] = values[e > 0];
}

static trainer_case small(void) {
  trainer_case train = int8_base;
  train.params = one_block;
  train.param_count = 1;
  return train;
}

static float *residual_of(trainer *self) {
  float *residual;
  CHECK_STATUS(zero1_optimizer_residual(self->optimizer, 0, &residual), ZERO1_OK);
  return residual;
}

/* Scale 1, as the largest is 127: 0.75 is coded as 1, which leaves -0.25; next 0.5 is coded as 0.
 */
static void what_is_left_goes_with_the_next_gradient(void) {
  static const float left[] = {-0.25f, 0.5f, 0.25f, 0};
  float values[] = {127, 0.75f};
  const trainer_case train = small();
  zero1_comm *comm;
  zero1_info info;
  trainer self;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  trainer_begin(&self, &train, comm);
  self.spoil = full_of;
  self.context = values;
  for (int32_t step = 0; step < 4; ++step) {
    trainer_step(&self, step, &info);
    CHECK(residual_of(&self)[0] == 0 && residual_of(&self)[1] == left[step]);
    CHECK(residual_of(&self)[255] == left[step]);
  }
  /* The sum over four steps of the codes is that of the gradients: 1 + 0 + 1 + 1. */
  residual_of(&self)[1] = 64; /* the caller's own */
  trainer_backward(&self, 4);
  CHECK_STATUS(zero1_optimizer_drop_grads(self.optimizer), ZERO1_OK);
  CHECK(residual_of(&self)[1] == 64 && residual_of(&self)[255] == 0);
  trainer_step(&self, 4, &info);
  CHECK(residual_of(&self)[1] == -0.25f); /* 64.75 is coded as 65 */
  CHECK(residual_of(&self)[2] == -0.25f);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
}

/* 190 / 127 of the smallest fp32 number is that number: 127 of it are sent, the rest the next time.
 */
static void a_block_of_the_smallest_numbers_is_cut_at_127(void) {
  float values[] = {190 * 0x1p-149f, -0x1p-149f};
  const trainer_case train = small();
  zero1_comm *comm;
  zero1_info info;
  trainer self;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  trainer_begin(&self, &train, comm);
  self.spoil = full_of;
  self.context = values;
  trainer_step(&self, 0, &info);
  CHECK(residual_of(&self)[0] == 63 * 0x1p-149f && residual_of(&self)[1] == 0);
  values[0] = values[1] = 0x1p-149f; /* 64 and 1, and 64 / 127 is 1 again */
  trainer_step(&self, 1, &info);
  CHECK(residual_of(&self)[0] == 0 && residual_of(&self)[1] == 0);
  values[0] = 30 * 0x1p-149f; /* 30 / 127 is 0: nothing is sent */
  trainer_step(&self, 2, &info);
  CHECK(residual_of(&self)[0] == 30 * 0x1p-149f && residual_of(&self)[1] == 0x1p-149f);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
}

/* Two ranks of which each has half: what a rank would send is what the other adds. */
static void bytes_rank(int32_t rank, zero1_comm *comm, void *arg) {
  static const trainer_param two_blocks[] = {{2 * FULL - 3, 0, 0}};
  float values[] = {1, 1};
  trainer_case train = *(const trainer_case *)arg;
  zero1_info info;
  zero1_memory memory;
  trainer self;
  (void)rank;
  train.params = two_blocks;
  trainer_begin(&self, &train, comm);
  self.spoil = full_of;
  self.context = values;
  trainer_step(&self, 0, &info);
  const int64_t owned = zero1_comm_rank(comm) ? FULL - 3 : FULL;
  CHECK_EQ(info.sent_bytes, FULL + 16 + owned * 4);
  CHECK_STATUS(zero1_optimizer_memory(self.optimizer, &memory, sizeof memory), ZERO1_OK);
  CHECK_EQ(memory.residual_bytes, 4096); /* a page */
  CHECK_EQ(memory.grad_shard_bytes, 4096);
  CHECK_EQ(memory.total_bytes, memory.params_bytes + memory.grads_bytes + memory.grad_shard_bytes +
                                   memory.master_bytes + memory.exp_avg_bytes +
                                   memory.exp_avg_sq_bytes + memory.workspace_bytes +
                                   memory.residual_bytes);
  trainer_end(&self);
}

static void a_block_is_272_bytes_and_the_residual_is_counted(void) {
  trainer_case train = small();
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = 1;
  check_threads(2, &options, bytes_rank, &train);
}

/* ---- another number of ranks ---- */

/* 3 ranks had 6, 3 and -1.5 left, 7.5 together; with the mean of gradients that moved a parameter
 * as a gradient of 2.5 would. 2 ranks have 2.5 each, whose mean is 2.5; with sums 3.75 each. */
static void resharding_keeps_the_correction(void) {
  const float a[] = {6, 1}, b[] = {3, 0x1p-24f}, c[] = {-1.5f, 0x1p-24f};
  const float *const three[] = {a, b, c};
  float out[2];
  zero1__residual_reshard(three, 2, (zero1__residual_scale){3, 1.0 / 3},
                          (zero1__residual_scale){2, 0.5}, out);
  CHECK_CLOSE(out[0], 2.5, 0x1p-23, 0);
  zero1__residual_reshard(three, 2, (zero1__residual_scale){3, 1}, (zero1__residual_scale){2, 1},
                          out);
  CHECK(out[0] == 3.75f);
  CHECK(out[1] == 0.5f); /* (1 + 2^-24) + 2^-24 is 1 in fp32, in the order of ranks */
}

int main(void) {
  RUN(what_is_left_goes_with_the_next_gradient);
  RUN(a_block_of_the_smallest_numbers_is_cut_at_127);
  RUN(a_block_is_272_bytes_and_the_residual_is_counted);
  RUN(resharding_keeps_the_correction);
  RUN(one_rank_codes_too);
  RUN(a_node_comes_to_the_definitions_bits);
  RUN(nodes_of_one_rank_come_to_the_same_bits);
  RUN(nodes_of_two_ranks_come_to_the_same_bits);
  return check_summary();
}
