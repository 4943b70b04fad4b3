#include "bench_checkpoint_report.h"

#include <inttypes.h>
#include <string.h>

#include "bench_arguments.h"
#include "bench_json.h"
#include "bench_subject.h"

static const char *const extra_names[] = {"save", "load", "pinned", "snapshot"};

/* ---- the table ---- */

static void spread(FILE *out, const char *what, bench_quartiles of, const char *unit) {
  fprintf(out, "  %-42s %9.3f%s (quartiles %.3f to %.3f)\n", what, of.median, unit, of.q1, of.q3);
}

static void table_rates(const bench_checkpoint_report *report, FILE *out) {
  fprintf(out, "write\n");
  spread(out, "plain writer", report->plain_write_ms, " ms");
  spread(out, "zero1_checkpoint_save", report->save_ms, " ms");
  spread(out, "plain / save, at least 0.9 is asked", report->written, "");
  spread(out, "of a save: written and flushed", report->write_ms, " ms");
  spread(out, "of that: checksums", report->hash_ms, " ms");
  spread(out, "of a save: other ranks, manifest, rename", report->commit_ms, " ms");
  fprintf(out, "  %-42s %9.3f GB/s a thread\n", "XXH3", report->xxh3_gbps);
  fprintf(out, "read, the page cache dropped\n");
  spread(out, "plain reader", report->plain_read_ms, " ms");
  spread(out, "zero1_checkpoint_load", report->load_ms, " ms");
  spread(out, "plain / load, at least 0.9 is asked", report->read, "");
  fprintf(out, "  %-42s %9.3f and %.3f\n", "cached before, of a file", report->cached_plain,
          report->cached_load);
}

static void table_background(const bench_background *way, FILE *out) {
  spread(out, "a step by itself", way->step_ms, " ms");
  spread(out, "with the save", way->with_ms, " ms");
  spread(out, "of it: the call", way->call_ms, " ms");
  spread(out, "the writer", way->write_ms, " ms");
  spread(out, "updates waited for it", way->stall_ms, " ms");
  spread(out, "updates waited / the writer", way->stalled, "");
  spread(out, "(with the save - without) / the writer", way->stall_seen, "");
}

void bench_checkpoint_table(const bench_checkpoint_report *report, FILE *out) {
  const bench_options *subject = &report->options->subject;
  fprintf(out,
          "%" PRId64 " elements in %" PRId64
          " tensors, %s parameters, %.1f MB on %s, %d ranks "
          "(%s), %d threads, %" PRId64 " rounds\n",
          subject->numel, subject->tensors, bench_dtype_name(subject->param_dtype),
          report->bytes / 1e6, report->filesystem, report->world_size, report->backend,
          report->threads, subject->steps);
  if (!strcmp(report->filesystem, "tmpfs") || !strcmp(report->filesystem, "ramfs"))
    fprintf(out, "%s is memory: nothing here is about a disk; --dir names another folder\n",
            report->filesystem);
  table_rates(report, out);
  fprintf(out, "pinned, under %.0f ms of forward and backward; at most 0.05 is asked\n",
          report->length_ms);
  table_background(&report->pinned, out);
  fprintf(out, "snapshot, under the same\n");
  table_background(&report->snapshot, out);
  spread(out, "of the call: the copy", report->snapshot.copy_ms, " ms");
  spread(out, "(call - copy) / save, at most 0.05 is asked", report->called, "");
  fprintf(out, "memory of a rank besides, at the most\n");
  for (int i = 0; i < BENCH_EXTRA_COUNT; ++i)
    fprintf(out, "  %-42s %9.1f MiB of its own, %.1f MiB resident\n", extra_names[i],
            report->extra[i].own_mib, report->extra[i].resident_mib);
  fprintf(out, "  %-42s %9.1f MiB\n", "the snapshot's copy", report->snapshot_mib);
}

/* ---- JSON ---- */

static void json_case(bench_json *object, const bench_checkpoint_report *report) {
  const bench_options *subject = &report->options->subject;
  bench_json_whole(object, "world_size", report->world_size);
  bench_json_text(object, "backend", report->backend);
  bench_json_whole(object, "threads", report->threads);
  bench_json_whole(object, "numel", subject->numel);
  bench_json_whole(object, "tensors", subject->tensors);
  bench_json_dtypes(object, subject);
  bench_json_real(object, "clip", subject->clip);
  bench_json_whole(object, "rounds", subject->steps);
  bench_json_text(object, "filesystem", report->filesystem);
  bench_json_real(object, "bytes", report->bytes);
}

static void json_rates(bench_json *object, const bench_checkpoint_report *report) {
  bench_json_spread(object, "plain_write_ms", report->plain_write_ms);
  bench_json_spread(object, "save_ms", report->save_ms);
  bench_json_spread(object, "write_ratio", report->written);
  bench_json_spread(object, "write_ms", report->write_ms);
  bench_json_spread(object, "hash_ms", report->hash_ms);
  bench_json_spread(object, "commit_ms", report->commit_ms);
  bench_json_real(object, "xxh3_gbps", report->xxh3_gbps);
  bench_json_spread(object, "plain_read_ms", report->plain_read_ms);
  bench_json_spread(object, "load_ms", report->load_ms);
  bench_json_spread(object, "read_ratio", report->read);
  bench_json_real(object, "cached_plain", report->cached_plain);
  bench_json_real(object, "cached_load", report->cached_load);
}

static void json_background(bench_json *object, const char *mode, const bench_background *way) {
  bench_json_item(object);
  bench_json_text(object, "mode", mode);
  bench_json_spread(object, "step_ms", way->step_ms);
  bench_json_spread(object, "with_ms", way->with_ms);
  bench_json_spread(object, "call_ms", way->call_ms);
  bench_json_spread(object, "copy_ms", way->copy_ms);
  bench_json_spread(object, "write_ms", way->write_ms);
  bench_json_spread(object, "stall_ms", way->stall_ms);
  bench_json_spread(object, "seen_ms", way->seen_ms);
  bench_json_spread(object, "stalled", way->stalled);
  bench_json_spread(object, "stall_seen", way->stall_seen);
  bench_json_item_end(object);
}

static void json_memory(bench_json *object, const bench_checkpoint_report *report) {
  bench_json_list(object, "memory");
  for (int i = 0; i < BENCH_EXTRA_COUNT; ++i) {
    bench_json_item(object);
    bench_json_text(object, "mode", extra_names[i]);
    bench_json_real(object, "own_mib", report->extra[i].own_mib);
    bench_json_real(object, "resident_mib", report->extra[i].resident_mib);
    bench_json_item_end(object);
  }
  bench_json_list_end(object);
}

bool bench_checkpoint_json(const bench_checkpoint_report *report, const char *path) {
  FILE *out = fopen(path, "w");
  if (!out) return false;
  bench_json object = bench_json_begin(out);
  json_case(&object, report);
  json_rates(&object, report);
  bench_json_real(&object, "length_ms", report->length_ms);
  bench_json_list(&object, "background");
  json_background(&object, "pinned", &report->pinned);
  json_background(&object, "snapshot", &report->snapshot);
  bench_json_list_end(&object);
  bench_json_real(&object, "snapshot_mib", report->snapshot_mib);
  bench_json_spread(&object, "snapshot_called", report->called);
  json_memory(&object, report);
  bench_machine_json(&object, &report->machine);
  bench_json_end(&object);
  const bool good = !ferror(out);
  return fclose(out) == 0 && good;
}
