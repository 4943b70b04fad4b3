/* What the wire gives: each host sends raw bytes over TCP to the next one, all at once, so that
 * every link is busy both ways, and nothing else is done.
 *
 * One rank of each host takes part; the others sleep meanwhile. */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include <stddef.h>
#include <stdint.h>

typedef struct bench_stream {
  int host, host_count; /* this rank's host; hosts in all */
  int ranks_per_host;   /* of this rank's host */
  int leads;            /* 1: this rank is the one of its host */
  int to, from;         /* sockets; -1: it does not lead, or there is one host */
  char *piece;
} bench_stream;

/** Collective over MPI_COMM_WORLD; so are the others. Hosts find each other by their names. A
 * failure ends all ranks. */
void bench_stream_open(bench_stream *stream);
void bench_stream_close(bench_stream *stream);

/** Bytes per second that each host sends while it receives as many, of the slowest host; 0 where
 *  there is one host.
 *  [in] bytes  that each host sends */
double bench_stream_run(bench_stream *stream, int64_t bytes);

/** Waits until all ranks are here, asleep: whoever works keeps the cores. */
void bench_stream_meet(void);

#endif
