/* zero1 ckpt show: all that a checkpoint says of itself. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "dtype.h"
#include "json_out.h"
#include "size.h"
#include "table.h"

#define VALUE_CHARACTERS 44 /* of metadata: more is cut in a table, and whole in JSON */

/* An opened checkpoint, borrowed. */
typedef struct shown {
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
} shown;

static const char *flags_text(uint32_t flags) {
  const int frozen = flags & ZERO1_PARAM_FROZEN, not_in_norm = flags & ZERO1_PARAM_NOT_IN_NORM;
  return frozen ? (not_in_norm ? "frozen, not in norm" : "frozen")
                : (not_in_norm ? "not in norm" : "");
}

/* ---- as tables ---- */

static int print_summary(const shown *it) {
  char size[SIZE_TEXT_BYTES], number[SIZE_TEXT_BYTES];
  const zero1_checkpoint_info *const info = &it->info;
  table rows;
  table_begin(&rows, 2, 0);
  table_add(&rows, "updates");
  table_add(&rows, "%lld, of %lld steps", (long long)info->count, (long long)info->attempts);
  table_add(&rows, "saved by");
  table_add(&rows, "%d rank%s", (int)info->world_size, info->world_size == 1 ? "" : "s");
  table_add(&rows, "parameters");
  table_add(&rows, "%s; masters and moments F32%s", zero1__dtype_name(info->param_dtype),
            info->has_residual ? "; residuals of 8-bit gradients F32" : "");
  table_add(&rows, "size");
  table_add(&rows, "%s: %lld file%s, and manifest.json (format %d)",
            size_text((double)info->bytes, size), (long long)info->file_count,
            info->file_count == 1 ? "" : "s", (int)info->format_version);
  table_add(&rows, "grad_scale");
  table_add(&rows, "%s", real_text(info->grad_scale, number));
  table_add(&rows, "max_grad_norm");
  table_add(&rows, "%s", info->max_grad_norm ? real_text(info->max_grad_norm, number) : "off");
  table_add(&rows, "skip_grad_norm");
  table_add(&rows, "%s", info->skip_grad_norm ? real_text(info->skip_grad_norm, number) : "off");
  printf("%s\n", info->path);
  const int failed = table_print(&rows, "  ", stdout);
  table_end(&rows);
  return failed;
}

static int print_groups(const shown *it) {
  static const char *const titles[] = {"GROUP", "LR", "BETA1", "BETA2", "EPS", "WEIGHT_DECAY", ""};
  char number[SIZE_TEXT_BYTES];
  table rows;
  zero1_group group;
  table_begin(&rows, 7, 0x3f);
  for (int i = 0; i < 7; ++i) table_add(&rows, "%s", titles[i]);
  for (int64_t i = 0; i < it->info.group_count; ++i) {
    if (zero1_checkpoint_group(it->checkpoint, i, &group, sizeof group)) continue;
    const double values[] = {group.lr, group.beta1, group.beta2, group.eps, group.weight_decay};
    table_add(&rows, "%lld", (long long)i);
    for (int v = 0; v < 5; ++v) table_add(&rows, "%s", real_text(values[v], number));
    table_add(&rows, "%s", group.decoupled_weight_decay ? "AdamW" : "Adam with L2");
  }
  putchar('\n');
  const int failed = table_print(&rows, "", stdout);
  table_end(&rows);
  return failed;
}

/* Bytes of the first characters of a text. */
static int cut(const char *text, int characters) {
  const char *at = text;
  while (*at && characters-- > 0) do
      ++at;
    while (((unsigned char)*at & 0xc0) == 0x80);
  return (int)(at - text);
}

static void add_pairs(const shown *it, int32_t rank, table *rows) {
  zero1_pair pair;
  for (int64_t i = 0; !zero1_checkpoint_metadata(it->checkpoint, rank, i, &pair); ++i) {
    const int shown_bytes = cut(pair.value, VALUE_CHARACTERS);
    if (rank < 0)
      table_add(rows, "run");
    else
      table_add(rows, "rank %d", (int)rank);
    table_add(rows, "%s", pair.key);
    if (pair.value[shown_bytes])
      table_add(rows, "%.*s... (%zu bytes)", shown_bytes, pair.value, strlen(pair.value));
    else
      table_add(rows, "%s", pair.value);
  }
}

static int print_metadata(const shown *it) {
  table rows;
  table_begin(&rows, 3, 0);
  table_add(&rows, "METADATA");
  table_add(&rows, "KEY");
  table_add(&rows, "VALUE");
  for (int32_t rank = -1; rank < it->info.world_size; ++rank) add_pairs(it, rank, &rows);
  int failed = 0;
  if (rows.count > 3 || rows.failed) {
    putchar('\n');
    failed = table_print(&rows, "", stdout);
  }
  table_end(&rows);
  return failed;
}

static int print_params(const shown *it) {
  static const char *const titles[] = {"PARAMETER", "SHAPE", "ELEMENTS", "GROUP", ""};
  char shape[COMMAND_SHAPE_BYTES];
  table rows;
  zero1_param_spec spec;
  long long total = 0, frozen = 0;
  table_begin(&rows, 5, 0x0c);
  for (int i = 0; i < 5; ++i) table_add(&rows, "%s", titles[i]);
  for (int64_t i = 0; i < it->info.param_count; ++i) {
    if (zero1_checkpoint_param(it->checkpoint, i, &spec, sizeof spec)) continue;
    const long long numel = command_numel(&spec);
    total += numel;
    frozen += spec.flags & ZERO1_PARAM_FROZEN ? numel : 0;
    table_add(&rows, "%s", spec.name);
    table_add(&rows, "%s", command_shape(&spec, shape));
    table_add(&rows, "%lld", numel);
    table_add(&rows, "%d", (int)spec.group);
    table_add(&rows, "%s", flags_text(spec.flags));
  }
  putchar('\n');
  const int failed = table_print(&rows, "", stdout);
  printf("\n%lld parameters with %lld elements", (long long)it->info.param_count, total);
  if (frozen) printf(", %lld of them frozen", frozen);
  putchar('\n');
  table_end(&rows);
  return failed;
}

static int print_tables(const shown *it) {
  const int failed =
      print_summary(it) || print_groups(it) || print_metadata(it) || print_params(it);
  return failed ? COMMAND_FAILED : COMMAND_FINE;
}

/* ---- as JSON ---- */

static json_t *pairs_of(const shown *it, int32_t rank) {
  json_t *const object = json_object();
  zero1_pair pair;
  for (int64_t i = 0; !zero1_checkpoint_metadata(it->checkpoint, rank, i, &pair); ++i)
    json_out_string(object, pair.key, pair.value);
  return object;
}

static json_t *groups_of(const shown *it) {
  json_t *const list = json_array();
  zero1_group group;
  for (int64_t i = 0; !zero1_checkpoint_group(it->checkpoint, i, &group, sizeof group); ++i) {
    json_t *const object = json_object();
    json_out_real(object, "lr", group.lr);
    json_out_real(object, "beta1", group.beta1);
    json_out_real(object, "beta2", group.beta2);
    json_out_real(object, "eps", group.eps);
    json_out_real(object, "weight_decay", group.weight_decay);
    json_object_set_new(object, "decoupled_weight_decay",
                        json_boolean(group.decoupled_weight_decay));
    json_array_append_new(list, object);
  }
  return list;
}

static json_t *params_of(const shown *it) {
  json_t *const list = json_array();
  zero1_param_spec spec;
  for (int64_t i = 0; !zero1_checkpoint_param(it->checkpoint, i, &spec, sizeof spec); ++i) {
    json_t *const object = json_object(), *const shape = json_array();
    for (int32_t d = 0; d < spec.ndim; ++d)
      json_array_append_new(shape, json_integer(spec.shape[d]));
    json_out_string(object, "name", spec.name);
    json_object_set_new(object, "shape", shape);
    json_out_integer(object, "numel", command_numel(&spec));
    json_out_integer(object, "group", spec.group);
    json_object_set_new(object, "frozen", json_boolean(spec.flags & ZERO1_PARAM_FROZEN));
    json_object_set_new(object, "not_in_norm", json_boolean(spec.flags & ZERO1_PARAM_NOT_IN_NORM));
    json_array_append_new(list, object);
  }
  return list;
}

static json_t *files_of(const shown *it) {
  json_t *const list = json_array();
  const char *name;
  uint64_t bytes;
  for (int64_t i = 0; !zero1_checkpoint_file(it->checkpoint, i, &name, &bytes); ++i) {
    json_t *const object = json_object();
    json_out_string(object, "name", name);
    json_out_integer(object, "bytes", (int64_t)bytes);
    json_array_append_new(list, object);
  }
  return list;
}

static int print_json(const shown *it) {
  const zero1_checkpoint_info *const info = &it->info;
  json_t *const all = json_object(), *const ranks = json_array();
  for (int32_t rank = 0; rank < info->world_size; ++rank)
    json_array_append_new(ranks, pairs_of(it, rank));
  json_out_string(all, "path", info->path);
  json_out_integer(all, "format_version", info->format_version);
  json_out_integer(all, "count", info->count);
  json_out_integer(all, "attempts", info->attempts);
  json_out_integer(all, "world_size", info->world_size);
  json_out_string(all, "param_dtype", zero1__dtype_name(info->param_dtype));
  json_object_set_new(all, "has_residual", json_boolean(info->has_residual));
  json_out_integer(all, "bytes", (int64_t)info->bytes);
  json_out_real(all, "grad_scale", info->grad_scale);
  json_out_real(all, "max_grad_norm", info->max_grad_norm);
  json_out_real(all, "skip_grad_norm", info->skip_grad_norm);
  json_object_set_new(all, "groups", groups_of(it));
  json_object_set_new(all, "metadata", pairs_of(it, -1));
  json_object_set_new(all, "rank_metadata", ranks);
  json_object_set_new(all, "parameters", params_of(it));
  json_object_set_new(all, "files", files_of(it));
  return json_out_print(all);
}

static int run(int argc, char **argv) {
  static const struct option options[] = {
      {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
  int json = 0, option;
  shown it = {0};
  while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
    if (option == 'h') return command_help(&ckpt_show);
    if (option != 'j') return command_usage(&ckpt_show, NULL);
    json = 1;
  }
  if (argc - optind != 1) return command_usage(&ckpt_show, "one checkpoint or root is needed");
  int code = command_open(argv[optind], &it.checkpoint, &it.info);
  if (code) return code;
  code = json ? print_json(&it) : print_tables(&it);
  zero1_checkpoint_close(&it.checkpoint);
  return code;
}

const command_verb ckpt_show = {
    .name = "show",
    .summary = "one checkpoint: parameters, data types, ranks, metadata",
    .help =
        "usage: zero1 ckpt show DIR [--json]\n"
        "\n"
        "Shows a checkpoint, or a root's latest: updates, ranks, sizes, hyper-parameters of the\n"
        "groups, metadata of the run and of its ranks, and the parameters with their shapes.\n"
        "Reads the manifest alone.\n"
        "\n"
        "  --json   all of it as one object; values of metadata are whole\n"
        "\n"
        "Exits with 0: fine; 1: the manifest is damaged; 2: wrong usage; 3: not found, or\n"
        "reading failed.\n",
    .run = run};
