// sanitizers: address undefined thread
// devices: host standin cuda
// standin-sanitizers: address undefined
// standin-delay: 50
// cost: 11
// timeout: 300

/* The order of sums, with gradients that do not sum exactly: fp32, in rank order inside groups of
 * reduce_group ranks, then across the groups. Each way between ranks against a plain loop. */
#include "check.h"
#include "device.h"
#include "random.h"
#include "zero1/zero1.h"

#include <string.h>

enum { RANKS_MAX = 8, NUMEL = 700, PARAMS = 2 }; /* 3 blocks each */

typedef struct order_case {
  int32_t world_size, ranks_per_node, reduce_group, grad_dtype, grad_wire, guard;
  int32_t group; /* in effect */
  float first_exp_avg[RANKS_MAX][PARAMS][NUMEL];
  uint8_t owned[RANKS_MAX][PARAMS][NUMEL];
} order_case;

/* Magnitudes from 127 to 2^-31, so that many additions round; 8 bits each, so that bf16 holds
 * them. */
static float grad_of(int32_t rank, int32_t param, int32_t element) {
  random_state random = {(uint64_t)rank << 40 | (uint64_t)param << 20 | (uint64_t)element};
  const uint64_t bits = random_bits(&random);
  const float whole = (float)(int32_t)(bits % 255) - 127.0f;
  return ldexpf(whole, -(int)((bits >> 32) % 32));
}

/* Of fp32 gradients whose wire is bf16: 16 bits more, which the wire rounds away. */
static float fine_grad_of(int32_t rank, int32_t param, int32_t element) {
  random_state random = {(uint64_t)rank << 40 | (uint64_t)param << 20 | (uint64_t)element |
                         1u << 19};
  return grad_of(rank, param, element) * (1 + (float)(random_bits(&random) % 65536) * 0x1p-16f);
}

/* To nearest even. Of numbers of ordinary size. */
static float rounded(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static int is_fine(int32_t grad_dtype, int32_t grad_wire) {
  return grad_dtype == ZERO1_DTYPE_FP32 && grad_wire == ZERO1_WIRE_BF16;
}

/* (c0 + c1) + (c2 + c3) for a group of 2. */
static float sum_of(int32_t world_size, int32_t group, int32_t param, int32_t element) {
  float sum = 0;
  for (int32_t begin = 0; begin < world_size; begin += group) {
    float part = grad_of(begin, param, element);
    for (int32_t rank = begin + 1; rank < begin + group; ++rank)
      part += grad_of(rank, param, element);
    sum = begin ? sum + part : part;
  }
  return sum;
}

/* The same over a wire of bf16: R(R(c0) + R(c1)) + R(R(c2) + R(c3)), and with one group alone
 * ((R(c0) + R(c1)) + R(c2)) + R(c3). */
static float rounded_sum_of(const order_case *what, int32_t param, int32_t element) {
  const int fine = is_fine(what->grad_dtype, what->grad_wire);
  float sum = 0;
  for (int32_t begin = 0; begin < what->world_size; begin += what->group) {
    float part = 0;
    for (int32_t rank = begin; rank < begin + what->group; ++rank) {
      const float grad =
          fine ? rounded(fine_grad_of(rank, param, element)) : grad_of(rank, param, element);
      part = rank == begin ? grad : part + grad;
    }
    if (what->group < what->world_size) part = rounded(part);
    sum = begin ? sum + part : part;
  }
  return sum;
}

static zero1_optimizer *make(zero1_comm *comm, const order_case *what, void *stream) {
  const int64_t numel = NUMEL;
  const zero1_param_spec specs[PARAMS] = {{.name = "a", .shape = &numel, .ndim = 1},
                                          {.name = "b", .shape = &numel, .ndim = 1}};
  zero1_config config;
  zero1_group group;
  zero1_optimizer *optimizer;
  CHECK_STATUS(zero1_group_init(&group, sizeof group), ZERO1_OK);
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  group.beta1 = 0.5; /* exp_avg after the first step is half the sum: every bit of it */
  config.groups = &group;
  config.group_count = 1;
  config.grad_scale = 1;
  config.grad_dtype = what->grad_dtype;
  config.grad_wire_dtype = what->grad_wire;
  config.reduce_group = what->reduce_group;
  config.guard = what->guard;
  config.bucket_numel = 600;
  config.threads = 1;
  config.device = device_of_test();
  config.stream = stream;
  CHECK_STATUS(zero1_optimizer_create(comm, &config, specs, sizeof *specs, PARAMS, &optimizer),
               ZERO1_OK);
  return optimizer;
}

static void write_grads(zero1_optimizer *optimizer, const order_case *what, int32_t rank,
                        device_caller *caller) {
  const size_t bytes = (size_t)NUMEL * (what->grad_dtype == ZERO1_DTYPE_BF16 ? 2 : 4);
  for (int32_t param = 0; param < PARAMS; ++param) {
    void *tensor;
    CHECK_STATUS(zero1_optimizer_grad(optimizer, param, &tensor), ZERO1_OK);
    void *const grad = device_begin_write(caller, tensor, bytes);
    for (int32_t e = 0; e < NUMEL; ++e) {
      const float value = is_fine(what->grad_dtype, what->grad_wire) ? fine_grad_of(rank, param, e)
                                                                     : grad_of(rank, param, e);
      uint32_t bits;
      memcpy(&bits, &value, sizeof bits);
      if (what->grad_dtype == ZERO1_DTYPE_BF16) {
        CHECK_EQ(bits & 0xffff, 0);
        ((uint16_t *)grad)[e] = (uint16_t)(bits >> 16);
      } else {
        ((float *)grad)[e] = value;
      }
    }
    device_end_write(caller, tensor, grad, bytes, caller->streams[param]);
    CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, param, caller->streams[param]), ZERO1_OK);
  }
}

static void take_one_step(int32_t rank, zero1_comm *comm, void *arg) {
  order_case *const what = (order_case *)arg;
  int64_t count;
  device_caller caller;
  device_caller_begin(&caller, device_of_test(), (size_t)4 * PARAMS * NUMEL * sizeof(float));
  zero1_optimizer *optimizer = make(comm, what, caller.streams[0]);
  write_grads(optimizer, what, rank, &caller);
  CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_owned_count(optimizer, &count), ZERO1_OK);
  for (int64_t i = 0; i < count; ++i) {
    zero1_owned owned;
    CHECK_STATUS(zero1_optimizer_owned(optimizer, i, 1, &owned, sizeof owned), ZERO1_OK);
    const float *const exp_avg = (const float *)device_read(
        &caller, owned.exp_avg, (size_t)(owned.end - owned.begin) * sizeof(float),
        caller.streams[0]);
    for (int64_t e = owned.begin; e < owned.end; ++e) {
      what->first_exp_avg[rank][owned.param][e] = exp_avg[e - owned.begin];
      what->owned[rank][owned.param][e] = 1;
    }
  }
  zero1_optimizer_destroy(&optimizer);
  device_caller_end(&caller);
}

static void check_order(order_case what) {
  zero1_comm_options options;
  int64_t checked = 0;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what.ranks_per_node;
  options.workspace_bytes = 1;
  static order_case kept; /* too much for a stack */
  kept = what;
  check_threads(what.world_size, &options, take_one_step, &kept);
  for (int32_t rank = 0; rank < what.world_size; ++rank)
    for (int32_t param = 0; param < PARAMS; ++param)
      for (int32_t e = 0; e < NUMEL; ++e) {
        if (!kept.owned[rank][param][e]) continue;
        const float half = 0.5f * (what.grad_wire == ZERO1_WIRE_BF16
                                       ? rounded_sum_of(&what, param, e)
                                       : sum_of(what.world_size, what.group, param, e));
        CHECK(memcmp(&kept.first_exp_avg[rank][param][e], &half, sizeof half) == 0);
        ++checked;
      }
  CHECK_EQ(checked, PARAMS * NUMEL);
}

/* Every group that divides the ranks; 0, the default, is all of them. */
static void check_every_group(int32_t world_size, int32_t ranks_per_node) {
  for (int32_t group = 0; group <= world_size; ++group) {
    if (group && world_size % group) continue;
    for (int32_t i = 0; i < 6; ++i)
      check_order((order_case){.world_size = world_size,
                               .ranks_per_node = ranks_per_node,
                               .reduce_group = group,
                               .grad_dtype = i % 2,
                               .grad_wire = i / 2,
                               .guard = group % 2,
                               .group = group ? group : world_size});
  }
}

static void a_node_sums_in_the_order_of_every_group(void) {
  for (int32_t world_size = 1; world_size <= 6; ++world_size) check_every_group(world_size, 0);
  check_every_group(8, 0);
}

static void nodes_of_one_rank_sum_in_the_order_of_every_group(void) {
  for (int32_t world_size = 2; world_size <= 6; ++world_size) check_every_group(world_size, 1);
  check_every_group(8, 1);
}

/* The default is a node's ranks; another group is followed as well. On CUDA the ranks take the path
 * between single ranks, whose default is all of them. */
static void check_nodes(int32_t world_size, int32_t ranks_per_node) {
  const int32_t by_default = device_is_cuda() ? world_size : ranks_per_node;
  for (int32_t group = 0; group <= world_size; ++group) {
    if (group && world_size % group) continue;
    for (int32_t i = 0; i < 6; ++i)
      check_order((order_case){.world_size = world_size,
                               .ranks_per_node = ranks_per_node,
                               .reduce_group = group,
                               .grad_dtype = i % 2,
                               .grad_wire = i / 2,
                               .guard = 1,
                               .group = group ? group : by_default});
  }
}

static void nodes_of_several_ranks_sum_inside_the_node_first(void) {
  check_nodes(4, 2);
  check_nodes(6, 2);
  check_nodes(6, 3);
  check_nodes(8, 2);
  check_nodes(8, 4);
}

/* Without this, the tests above could not tell one order from another. */
static void groupings_differ_and_so_does_the_exact_sum(void) {
  order_case twos_rounded = {.world_size = 8, .group = 2, .grad_wire = ZERO1_WIRE_BF16};
  int by_two = 0, by_four = 0, in_double = 0, by_rounding = 0, by_rounding_groups = 0;
  for (int32_t e = 0; e < NUMEL; ++e) {
    double exact = 0;
    for (int32_t rank = 0; rank < 8; ++rank) exact += (double)grad_of(rank, 0, e);
    const float all = sum_of(8, 8, 0, e), twos = sum_of(8, 2, 0, e), fours = sum_of(8, 4, 0, e);
    by_two += all != twos;
    by_four += all != fours && twos != fours;
    in_double += all != (float)exact;
    twos_rounded.grad_dtype = ZERO1_DTYPE_BF16; /* 8 bits each: the groups alone are rounded */
    by_rounding_groups += rounded_sum_of(&twos_rounded, 0, e) != twos;
    twos_rounded.grad_dtype = ZERO1_DTYPE_FP32;
    by_rounding += rounded(fine_grad_of(0, 0, e)) != fine_grad_of(0, 0, e);
  }
  CHECK(by_rounding > 600 && by_rounding_groups > 100);
  CHECK(by_two > 50 && by_four > 50 && in_double > 100);
}

int main(void) {
  device_skip_without();
  RUN(groupings_differ_and_so_does_the_exact_sum);
  RUN(a_node_sums_in_the_order_of_every_group);
  RUN(nodes_of_one_rank_sum_in_the_order_of_every_group);
  RUN(nodes_of_several_ranks_sum_inside_the_node_first);
  return check_summary();
}
