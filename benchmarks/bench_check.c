#include "bench_check.h"

#include <inttypes.h>
#include <string.h>

#include "bench_world.h"
#include "rules.h"

/* ---- who owns a sample ---- */

/* Ranges come in order of memory: tensors descend, elements ascend. */
static int before(const zero1_owned *range, const bench_sample *sample) {
  if (range->param != sample->tensor) return range->param > sample->tensor;
  return range->end <= sample->element;
}

static void find_state(bench_sample *sample, const zero1_owned *owned, int64_t count) {
  int64_t low = 0, high = count; /* the first range that is not before the sample */
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (before(&owned[middle], sample))
      low = middle + 1;
    else
      high = middle;
  }
  if (low == count || owned[low].param != sample->tensor || owned[low].begin > sample->element)
    return;
  const int64_t at = sample->element - owned[low].begin;
  sample->master_param = owned[low].master_param + at;
  sample->exp_avg = owned[low].exp_avg + at;
  sample->exp_avg_sq = owned[low].exp_avg_sq + at;
}

void bench_check_open(bench_check *check, bench_subject *subject) {
  enum { SAMPLES = 2000 };
  int64_t owned_count = 0;
  const int64_t count = subject->numel < SAMPLES ? subject->numel : SAMPLES;
  *check = (bench_check){.subject = subject, .count = count};
  check->samples = bench_alloc((size_t)count, sizeof *check->samples);
  check->expected = bench_alloc((size_t)count, sizeof *check->expected);
  check->mine = bench_alloc((size_t)count, sizeof *check->mine);
  check->all = bench_alloc((size_t)(count * subject->world_size), sizeof *check->all);
  zero1_optimizer_owned_count(subject->optimizer, &owned_count);
  zero1_owned *owned = bench_alloc((size_t)owned_count, sizeof *owned);
  const zero1_status status =
      zero1_optimizer_owned(subject->optimizer, 0, owned_count, owned, sizeof *owned);
  bench_require(!status, "owned: %s", zero1_optimizer_last_error(subject->optimizer));
  for (int64_t i = 0; i < count; ++i) { /* the first and the last element among them */
    bench_sample *sample = &check->samples[i];
    sample->flat =
        count == 1 ? 0 : (int64_t)((double)i * (double)(subject->numel - 1) / (double)(count - 1));
    sample->tensor = bench_tensor_at(subject, sample->flat);
    sample->element = sample->flat - bench_tensor_begin(subject, sample->tensor);
    find_state(sample, owned, owned_count);
  }
  free(owned);
}

void bench_check_close(bench_check *check) {
  free(check->samples);
  free(check->expected);
  free(check->mine);
  free(check->all);
}

/* ---- a step ---- */

void bench_check_before(bench_check *check) {
  const bench_subject *subject = check->subject;
  for (int64_t i = 0; i < check->count; ++i) {
    const bench_sample *sample = &check->samples[i];
    check->mine[i] =
        bench_load(subject->grads[sample->tensor], sample->element, subject->grad_dtype);
    if (sample->exp_avg)
      check->expected[i] = (reference_adamw){.param = *sample->master_param,
                                             .exp_avg = *sample->exp_avg,
                                             .exp_avg_sq = *sample->exp_avg_sq};
  }
  MPI_Allgather(check->mine, (int)check->count, MPI_FLOAT, check->all, (int)check->count, MPI_FLOAT,
                MPI_COMM_WORLD);
}

/* What ranks [begin, begin + count) come to where the wire is bf16: as zero1.h says, to the bit. */
static double rounded_sum(const bench_check *check, int64_t index, int begin, int count) {
  float sum = 0;
  for (int r = begin; r < begin + count; ++r) {
    const float value = zero1__round_to_bf16(check->all[r * check->count + index]);
    sum = r == begin ? value : sum + value;
  }
  return count < check->subject->world_size ? zero1__round_to_bf16(sum) : sum;
}

/* Ranks that are summed first, where that shows: then their sums are rounded. */
static int group_of(const bench_subject *subject) {
  if (!subject->grad_wire) return 1;
  return strcmp(zero1_comm_backend(subject->comm), "hierarchical") == 0
             ? zero1_comm_ranks_per_node(subject->comm)
             : subject->world_size;
}

/* The sum times scale and clipping, and how far fp32 may be from it: one rounding for each addition
 * after the first, of at most the sum of magnitudes; one for the factor and one for the product. */
static double gradient_of(const bench_check *check, int64_t index, double clip_coef,
                          double *bound) {
  const int world = check->subject->world_size, group = group_of(check->subject);
  const double factor = clip_coef / world;
  double sum = 0, magnitude = 0;
  for (int r = 0; r < world; r += group) {
    const double value = check->subject->grad_wire ? rounded_sum(check, index, r, group)
                                                   : check->all[r * check->count + index];
    sum += value;
    magnitude += fabs(value);
  }
  *bound = 0x1p-24 * factor * ((world - 1) * magnitude + 2 * fabs(sum)) * 1.01;
  return sum * factor;
}

static void require_near(const bench_sample *sample, const char *what, double is, double expected,
                         double bound) {
  bench_require(fabs(is - expected) <= bound,
                "wrong result: %s of element %" PRId64 " of tensor %" PRId64
                " is %.9g, not %.9g (within %.2g)",
                what, sample->element, sample->tensor, is, expected, bound);
}

/* Every rank's copy of the parameters, against what the owners expect. */
static void check_params(const bench_check *check) {
  const bench_subject *subject = check->subject;
  const size_t count = (size_t)check->count;
  const int narrow = subject->param_dtype == ZERO1_DTYPE_BF16 || subject->param_wire;
  const double rounding = narrow ? 0x1p-8 : 0;
  double *mine = bench_alloc(2 * count, sizeof *mine), *all = bench_alloc(2 * count, sizeof *all);
  for (size_t i = 0; i < count; ++i) { /* the others add nothing */
    if (!check->samples[i].exp_avg) continue;
    mine[i] = check->expected[i].param;
    mine[count + i] = check->expected[i].param_bound + rounding * fabs(mine[i]);
  }
  MPI_Allreduce(mine, all, 2 * (int)count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  for (size_t i = 0; i < count; ++i) {
    const bench_sample *sample = &check->samples[i];
    require_near(sample, "the parameter",
                 bench_load(subject->params[sample->tensor], sample->element, subject->param_dtype),
                 all[i], all[count + i]);
  }
  free(all);
  free(mine);
}

void bench_check_after(bench_check *check, int64_t count, const bench_step_times *times) {
  for (int64_t i = 0; i < check->count; ++i) {
    const bench_sample *sample = &check->samples[i];
    reference_adamw *expected = &check->expected[i];
    double bound;
    const double grad = gradient_of(check, i, times->clip_coef, &bound);
    if (!sample->exp_avg) continue;
    reference_adamw_step(&check->subject->group, count, grad, bound, expected);
    require_near(sample, "master_param", *sample->master_param, expected->param,
                 expected->param_bound);
    require_near(sample, "exp_avg", *sample->exp_avg, expected->exp_avg, expected->exp_avg_bound);
    require_near(sample, "exp_avg_sq", *sample->exp_avg_sq, expected->exp_avg_sq,
                 expected->exp_avg_sq_bound);
  }
  check_params(check);
}

/* ---- the norm, and the baseline ---- */

double bench_check_norm(const bench_subject *subject) {
  enum { PIECE = 65536 };
  double *mine = bench_alloc(PIECE, sizeof *mine), *all = bench_alloc(PIECE, sizeof *all);
  double squares = 0;
  for (int64_t i = 0; i < subject->tensors; ++i) {
    const int64_t numel = bench_tensor_begin(subject, i + 1) - bench_tensor_begin(subject, i);
    for (int64_t begin = 0; begin < numel; begin += PIECE) {
      const int count = numel - begin < PIECE ? (int)(numel - begin) : PIECE;
      for (int e = 0; e < count; ++e)
        mine[e] = bench_load(subject->grads[i], begin + e, subject->grad_dtype);
      MPI_Allreduce(mine, all, count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
      for (int e = 0; e < count; ++e) squares += all[e] * all[e];
    }
  }
  free(all);
  free(mine);
  return sqrt(squares) / subject->world_size;
}

/* Sums in another order move the first update, of about lr, by some 2^-24 of itself; a bf16
 * parameter may then round the other way. */
void bench_check_alike(const bench_check *check, const void *baseline_params) {
  const bench_subject *subject = check->subject;
  const double rounding = subject->param_dtype == ZERO1_DTYPE_BF16 ? 0x1p-7 : 0x1p-22;
  for (int64_t i = 0; i < check->count; ++i) {
    const bench_sample *sample = &check->samples[i];
    const double is = bench_load(baseline_params, sample->flat, subject->param_dtype);
    const double expected =
        bench_load(subject->params[sample->tensor], sample->element, subject->param_dtype);
    require_near(sample, "the baseline's parameter", is, expected,
                 rounding * fabs(expected) + 1e-5 * subject->group.lr);
  }
}
