#include "diff_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "dtype.h"
#include "size.h"
#include "table.h"

static void add_row(table *rows, const char *what, const char *a, const char *b) {
  table_add(rows, "%s", what);
  table_add(rows, "%s", a);
  table_add(rows, "%s", b);
}

static void compare_integers(table *rows, const char *what, int64_t a, int64_t b) {
  char text[2][SIZE_TEXT_BYTES];
  if (a == b) return;
  snprintf(text[0], sizeof text[0], "%" PRId64, a);
  snprintf(text[1], sizeof text[1], "%" PRId64, b);
  add_row(rows, what, text[0], text[1]);
}

static void compare_reals(table *rows, const char *what, double a, double b) {
  char text[2][SIZE_TEXT_BYTES];
  if (a != b) add_row(rows, what, real_text(a, text[0]), real_text(b, text[1]));
}

static void compare_info(const diff_pair *pair, table *rows) {
  const zero1_checkpoint_info *const a = &pair->info[0], *const b = &pair->info[1];
  compare_integers(rows, "updates", a->count, b->count);
  compare_integers(rows, "steps", a->attempts, b->attempts);
  if (a->param_dtype != b->param_dtype)
    add_row(rows, "data type of parameters", zero1__dtype_name(a->param_dtype),
            zero1__dtype_name(b->param_dtype));
  if (a->has_residual != b->has_residual)
    add_row(rows, "residuals", a->has_residual ? "yes" : "no", b->has_residual ? "yes" : "no");
  compare_reals(rows, "grad_scale", a->grad_scale, b->grad_scale);
  compare_reals(rows, "max_grad_norm", a->max_grad_norm, b->max_grad_norm);
  compare_reals(rows, "skip_grad_norm", a->skip_grad_norm, b->skip_grad_norm);
  compare_integers(rows, "groups", a->group_count, b->group_count);
}

static void compare_groups(const diff_pair *pair, table *rows) {
  static const char *const names[] = {"lr", "beta1", "beta2", "eps", "weight_decay"};
  zero1_group group[2];
  for (int64_t i = 0; !zero1_checkpoint_group(pair->side[0], i, &group[0], sizeof group[0]) &&
                      !zero1_checkpoint_group(pair->side[1], i, &group[1], sizeof group[1]);
       ++i) {
    double values[2][5];
    char what[64];
    for (int side = 0; side < 2; ++side) {
      const zero1_group *const of = &group[side];
      const double all[] = {of->lr, of->beta1, of->beta2, of->eps, of->weight_decay};
      memcpy(values[side], all, sizeof all);
    }
    for (int v = 0; v < 5; ++v) {
      snprintf(what, sizeof what, "%s of group %" PRId64, names[v], i);
      compare_reals(rows, what, values[0][v], values[1][v]);
    }
    snprintf(what, sizeof what, "decoupled_weight_decay of group %" PRId64, i);
    compare_integers(rows, what, group[0].decoupled_weight_decay, group[1].decoupled_weight_decay);
  }
}

/* ---- metadata ---- */

/* Adds a row; values are cut, as the state of a random generator is long: where they begin to
 * differ is not said. */
static void add_values(table *rows, int32_t rank, const char *key, const char *a, const char *b) {
  const char *const values[] = {a, b};
  if (rank < 0)
    table_add(rows, "metadata %s", key);
  else
    table_add(rows, "metadata %s of rank %d", key, (int)rank);
  for (int side = 0; side < 2; ++side) {
    const size_t bytes = values[side] ? strlen(values[side]) : 0;
    if (!values[side])
      table_add(rows, "(none)");
    else if (bytes > 24)
      table_add(rows, "(%zu bytes)", bytes);
    else
      table_add(rows, "'%s'", values[side]);
  }
}

static void compare_metadata(const diff_pair *pair, int32_t rank, table *rows) {
  zero1_pair of;
  for (int64_t i = 0; !zero1_checkpoint_metadata(pair->side[0], rank, i, &of); ++i) {
    const char *const other = zero1_checkpoint_value(pair->side[1], rank, of.key);
    if (!other || strcmp(of.value, other)) add_values(rows, rank, of.key, of.value, other);
  }
  for (int64_t i = 0; !zero1_checkpoint_metadata(pair->side[1], rank, i, &of); ++i)
    if (!zero1_checkpoint_value(pair->side[0], rank, of.key))
      add_values(rows, rank, of.key, NULL, of.value);
}

/* ---- parameters ---- */

static void add_spec(table *rows, const zero1_param_spec *spec) {
  char shape[COMMAND_SHAPE_BYTES];
  table_add(rows, "%s group %d%s%s", command_shape(spec, shape), (int)spec->group,
            spec->flags & ZERO1_PARAM_FROZEN ? " frozen" : "",
            spec->flags & ZERO1_PARAM_NOT_IN_NORM ? " not in norm" : "");
}

static int same_spec(const zero1_param_spec *a, const zero1_param_spec *b) {
  return command_same_shape(a, b) && a->group == b->group && a->flags == b->flags;
}

static void compare_params(const diff_pair *pair, table *rows) {
  zero1_param_spec spec, other;
  int64_t index;
  for (int64_t i = 0; !zero1_checkpoint_param(pair->side[0], i, &spec, sizeof spec); ++i) {
    const int is_there = !zero1_checkpoint_find(pair->side[1], spec.name, &index) &&
                         !zero1_checkpoint_param(pair->side[1], index, &other, sizeof other);
    if (is_there && same_spec(&spec, &other)) continue;
    table_add(rows, "%s", spec.name);
    add_spec(rows, &spec);
    if (is_there)
      add_spec(rows, &other);
    else
      table_add(rows, "(none)");
  }
  for (int64_t i = 0; !zero1_checkpoint_param(pair->side[1], i, &spec, sizeof spec); ++i) {
    if (!zero1_checkpoint_find(pair->side[0], spec.name, &index)) continue;
    table_add(rows, "%s", spec.name);
    table_add(rows, "(none)");
    add_spec(rows, &spec);
  }
}

int diff_text(const diff_pair *pair) {
  const int32_t ranks = pair->info[0].world_size, other_ranks = pair->info[1].world_size;
  table rows;
  table_begin(&rows, 3, 0);
  add_row(&rows, "", "A", "B");
  compare_info(pair, &rows);
  compare_groups(pair, &rows);
  compare_metadata(pair, -1, &rows);
  if (ranks == other_ranks)
    for (int32_t rank = 0; rank < ranks; ++rank) compare_metadata(pair, rank, &rows);
  compare_params(pair, &rows);
  printf("A  %s\nB  %s\n", pair->info[0].path, pair->info[1].path);
  if (ranks != other_ranks)
    printf("A was saved by %d ranks, B by %d: what is of ranks is not compared\n", (int)ranks,
           (int)other_ranks);
  putchar('\n');
  int code = rows.count > 3 ? COMMAND_DIFFERS : COMMAND_FINE;
  if (code || rows.failed) {
    if (table_print(&rows, "", stdout)) code = COMMAND_FAILED;
    putchar('\n');
  }
  table_end(&rows);
  return code;
}
