/* What a run of bench_checkpoint found out: as a table, and as one JSON object. */
#ifndef BENCH_CHECKPOINT_REPORT_H
#define BENCH_CHECKPOINT_REPORT_H

#include "bench_checkpoint_options.h"
#include "bench_machine.h"
#include "bench_series.h"

/** An asynchronous save under a step whose forward and backward sleep. */
typedef struct bench_background {
  bench_quartiles step_ms;    /* such a step by itself */
  bench_quartiles with_ms;    /* with the save, its call included */
  bench_quartiles call_ms;    /* of it */
  bench_quartiles copy_ms;    /* of the call: the snapshot's */
  bench_quartiles write_ms;   /* the writer's, beside the step */
  bench_quartiles stall_ms;   /* that updates waited, as zero1_save_report says */
  bench_quartiles seen_ms;    /* with_ms - step_ms, pair by pair */
  bench_quartiles stalled;    /* stall_ms over write_ms */
  bench_quartiles stall_seen; /* seen_ms over write_ms */
} bench_background;

/** Memory of one rank besides what it had, the most of all ranks, in MiB. */
typedef struct bench_extra {
  double own_mib;      /* private */
  double resident_mib; /* with what of shared memory and of files it touched for the first time */
} bench_extra;

enum { BENCH_SAVE, BENCH_LOAD, BENCH_PINNED, BENCH_SNAPSHOT, BENCH_EXTRA_COUNT };

/** Times are the slowest rank's; ratios are of neighbouring runs. */
typedef struct bench_checkpoint_report {
  const bench_checkpoint_options *options;
  bench_machine machine;
  int world_size, threads;
  const char *backend;
  const char *filesystem;
  double bytes;                                     /* of a checkpoint, all ranks together */
  bench_quartiles plain_write_ms, save_ms, written; /* written: plain over ours */
  bench_quartiles write_ms, hash_ms, commit_ms;     /* of a synchronous save */
  bench_quartiles plain_read_ms, load_ms, read;
  double cached_plain, cached_load; /* the most of a file that was in the page cache before */
  double length_ms;                 /* of forward and backward */
  bench_background pinned, snapshot;
  double snapshot_mib;    /* that the copy took, of the rank that took most */
  bench_quartiles called; /* snapshot: the call without the copy over a synchronous save */
  bench_extra extra[BENCH_EXTRA_COUNT];
  double xxh3_gbps; /* of one thread, in pieces of a MiB, from memory */
} bench_checkpoint_report;

void bench_checkpoint_table(const bench_checkpoint_report *report, FILE *out);

/** Returns false where the file cannot be written. */
bool bench_checkpoint_json(const bench_checkpoint_report *report, const char *path);

#endif
