#include "registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fnv.h"
#include "layout.h"

#define KNOWN_FLAGS (ZERO1_PARAM_FROZEN | ZERO1_PARAM_NOT_IN_NORM)

static const zero1_param_spec *spec_at(const zero1_param_spec *specs, size_t bytes, int64_t i) {
  return (const zero1_param_spec *)(const void *)((const char *)specs + (size_t)i * bytes);
}

static zero1_status check_spec(const zero1_param_spec *spec, int64_t index, int64_t group_count,
                               zero1__error *error) {
  int64_t numel;
  if (!spec->name || !spec->name[0])
    return zero1__fail(error, ZERO1_ERR_INVALID, "parameter %lld has no name", (long long)index);
  if (spec->ndim < 0 || (spec->ndim > 0 && !spec->shape))
    return zero1__fail(error, ZERO1_ERR_INVALID, "parameter %lld '%.100s' has ndim %d and %s shape",
                       (long long)index, spec->name, spec->ndim, spec->shape ? "a" : "no");
  if (zero1__shape_numel(spec->shape, spec->ndim, &numel)) {
    for (int32_t i = 0; i < spec->ndim; ++i)
      if (spec->shape[i] < 0)
        return zero1__fail(error, ZERO1_ERR_INVALID,
                           "parameter %lld '%.100s' has size %lld in "
                           "dimension %d",
                           (long long)index, spec->name, (long long)spec->shape[i], i);
    return zero1__fail(error, ZERO1_ERR_INVALID, "the size of parameter %lld '%.100s' overflows",
                       (long long)index, spec->name);
  }
  if (spec->group < 0 || spec->group >= group_count)
    return zero1__fail(error, ZERO1_ERR_INVALID,
                       "parameter %lld '%.100s' is in group %d, and there are %lld",
                       (long long)index, spec->name, spec->group, (long long)group_count);
  if (spec->flags & ~(uint32_t)KNOWN_FLAGS)
    return zero1__fail(error, ZERO1_ERR_INVALID, "parameter %lld '%.100s' has unknown flags %#x",
                       (long long)index, spec->name, spec->flags & ~(uint32_t)KNOWN_FLAGS);
  if (spec->reserved)
    return zero1__fail(error, ZERO1_ERR_INVALID, "parameter %lld '%.100s' has reserved %u, not 0",
                       (long long)index, spec->name, spec->reserved);
  return ZERO1_OK;
}

static zero1_status allocate(zero1__registry *registry, int64_t count, size_t text_bytes,
                             size_t size_count, zero1__error *error) {
  const size_t n = (size_t)count + 1;
  registry->table_size = 16;
  while (registry->table_size < 2 * count) registry->table_size *= 2;
  registry->names = calloc(n, sizeof *registry->names);
  registry->shapes = calloc(n, sizeof *registry->shapes);
  registry->ndim = calloc(n, sizeof *registry->ndim);
  registry->group = calloc(n, sizeof *registry->group);
  registry->flags = calloc(n, sizeof *registry->flags);
  registry->numel = calloc(n, sizeof *registry->numel);
  registry->table = malloc((size_t)registry->table_size * sizeof *registry->table);
  registry->text = malloc(text_bytes + 1);
  registry->sizes = calloc(size_count + 1, sizeof *registry->sizes);
  if (!registry->names || !registry->shapes || !registry->ndim || !registry->group ||
      !registry->flags || !registry->numel || !registry->table || !registry->text ||
      !registry->sizes)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the names of %lld parameters",
                       (long long)count);
  for (int64_t i = 0; i < registry->table_size; ++i) registry->table[i] = -1;
  return ZERO1_OK;
}

/* Where a name is in the table, or the free place where it would be. */
static int64_t probe(const zero1__registry *registry, const char *name) {
  uint64_t at = zero1__fnv_text(ZERO1__FNV_BEGIN, name);
  for (;; ++at) {
    const int64_t place = (int64_t)(at & (uint64_t)(registry->table_size - 1));
    const int64_t index = registry->table[place];
    if (index < 0 || !strcmp(registry->names[index], name)) return place;
  }
}

static zero1_status add(zero1__registry *registry, const zero1_param_spec *spec, char **text,
                        int64_t **sizes, zero1__error *error) {
  const int64_t index = registry->count;
  const size_t bytes = strlen(spec->name) + 1;
  memcpy(*text, spec->name, bytes);
  if (spec->ndim) memcpy(*sizes, spec->shape, (size_t)spec->ndim * sizeof **sizes);
  registry->names[index] = *text;
  registry->shapes[index] = *sizes;
  registry->ndim[index] = spec->ndim;
  registry->group[index] = spec->group;
  registry->flags[index] = spec->flags;
  zero1__shape_numel(spec->shape, spec->ndim, &registry->numel[index]);
  *text += bytes;
  *sizes += spec->ndim;
  const int64_t place = probe(registry, registry->names[index]);
  if (registry->table[place] >= 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "parameters %lld and %lld are both named '%.100s'",
                       (long long)registry->table[place], (long long)index, spec->name);
  registry->table[place] = index;
  registry->count += 1;
  return ZERO1_OK;
}

zero1_status zero1__registry_begin(zero1__registry *registry, const zero1_param_spec *specs,
                                   size_t spec_bytes, int64_t count, int64_t group_count,
                                   zero1__error *error) {
  size_t text_bytes = 0, size_count = 0;
  memset(registry, 0, sizeof *registry);
  if (count < 0 || (count > 0 && !specs))
    return zero1__fail(error, ZERO1_ERR_INVALID, "param_count is %lld with specs %s",
                       (long long)count, specs ? "given" : "NULL");
  if (spec_bytes != sizeof(zero1_param_spec))
    return zero1__fail(error, ZERO1_ERR_VERSION, "spec_bytes is %zu; this library knows %zu",
                       spec_bytes, sizeof(zero1_param_spec));
  if (count > INT64_MAX / 1024)
    return zero1__fail(error, ZERO1_ERR_INVALID, "param_count is %lld: too many", (long long)count);
  for (int64_t i = 0; i < count; ++i) {
    const zero1_param_spec *spec = spec_at(specs, spec_bytes, i);
    const zero1_status status = check_spec(spec, i, group_count, error);
    if (status) return status;
    text_bytes += strlen(spec->name) + 1;
    size_count += (size_t)spec->ndim;
  }
  zero1_status status = allocate(registry, count, text_bytes, size_count, error);
  char *text = registry->text;
  int64_t *sizes = registry->sizes;
  for (int64_t i = 0; i < count && !status; ++i)
    status = add(registry, spec_at(specs, spec_bytes, i), &text, &sizes, error);
  return status;
}

void zero1__registry_end(zero1__registry *registry) {
  free(registry->names);
  free(registry->shapes);
  free(registry->ndim);
  free(registry->group);
  free(registry->flags);
  free(registry->numel);
  free(registry->table);
  free(registry->text);
  free(registry->sizes);
  memset(registry, 0, sizeof *registry);
}

int64_t zero1__registry_find(const zero1__registry *registry, const char *name) {
  return registry->table ? registry->table[probe(registry, name)] : -1;
}

uint64_t zero1__registry_hash(const zero1__registry *registry, int64_t index) {
  uint64_t hash = zero1__fnv_text(ZERO1__FNV_BEGIN, registry->names[index]);
  hash = zero1__fnv(hash, registry->shapes[index], (size_t)registry->ndim[index] * sizeof(int64_t));
  hash = zero1__fnv(hash, &registry->ndim[index], sizeof(int32_t));
  hash = zero1__fnv(hash, &registry->group[index], sizeof(int32_t));
  return zero1__fnv(hash, &registry->flags[index], sizeof(uint32_t));
}

void zero1__registry_describe(const zero1__registry *registry, int64_t index, char *text,
                              size_t text_bytes) {
  if (index >= registry->count) {
    snprintf(text, text_bytes, "no parameter");
    return;
  }
  char shape[64] = "";
  size_t used = 0;
  for (int32_t i = 0; i < registry->ndim[index] && used < sizeof shape - 24; ++i)
    used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%lld", i ? ", " : "",
                             (long long)registry->shapes[index][i]);
  snprintf(text, text_bytes, "'%.60s' [%s] in group %d with flags %u", registry->names[index],
           shape, registry->group[index], registry->flags[index]);
}
