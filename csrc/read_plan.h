/* What a run of the reader reads: which bytes of which file are whose, in the order of the files,
 * and the chunks that hold them.
 *
 * Wanted: elements [0, 300000) of a state in fp32, saved by two ranks as [0, 262144) at byte 1024 of
 * file 0, and the rest at byte 4096 of file 1:
 *
 *   piece   elements           file   bytes               chunks (1 MiB)
 *   0       [0, 262144)        0      [1024, 1049600)     0, 1
 *   1       [262144, 300000)   1      [4096, 155520)      0
 */
#ifndef ZERO1__READ_PLAN_H
#define ZERO1__READ_PLAN_H

#include <stdint.h>

#include "checkpoint_reader.h"
#include "error.h"

/** Elements that are wanted and lie together in a file. */
typedef struct zero1__piece {
  int64_t wanted;     /* index */
  int64_t begin, end; /* elements of the parameter, half-open, not empty */
  int64_t offset;     /* bytes from the begin of the file, of the first one */
  int32_t file;       /* index */
  int32_t element_bytes;
} zero1__piece;

typedef struct zero1__read_plan {
  zero1__piece *pieces; /* [count] by (file, offset); owned */
  int64_t count;
} zero1__read_plan;

/** Finds all that is wanted. ZERO1_ERR_INVALID: no such parameter, range, or state (not saved).
 *  ZERO1_ERR_MEMORY. Ended with zero1__read_plan_end, after a failure too. */
zero1_status zero1__read_plan_begin(zero1__read_plan *plan, const zero1__reader *reader,
                                    const zero1__wanted *wanted, int64_t wanted_count,
                                    zero1__error *error);
void zero1__read_plan_end(zero1__read_plan *plan);

/** The byte behind a piece. */
static inline int64_t zero1__piece_end(const zero1__piece *piece) {
  return piece->offset + (piece->end - piece->begin) * piece->element_bytes;
}

/** How many elements of a piece end at byte `end` of its file, or before. */
int64_t zero1__piece_until(const zero1__piece *piece, int64_t end);

/** Walks the chunks that hold pieces, each once:
 *    zero1__chunk_walk walk = zero1__chunk_walk_begin(&plan);
 *    while (zero1__chunk_walk_next(&walk)) ... walk.file, walk.chunk
 *  Pieces before walk.next are not looked at any more. */
typedef struct zero1__chunk_walk {
  const zero1__read_plan *plan;
  int64_t next;  /* the first piece that begins behind this chunk */
  int64_t reach; /* the byte behind those before it */
  int64_t chunk;
  int32_t file;
} zero1__chunk_walk;

zero1__chunk_walk zero1__chunk_walk_begin(const zero1__read_plan *plan);
int zero1__chunk_walk_next(zero1__chunk_walk *walk);

#endif
