/* System calls that fail, or end the process, at a chosen place: those of this program that are
 * about a folder, by a path or by a descriptor. faults.c defines the C library's functions anew, so
 * that the library's calls come there, in whatever file they are. */
#ifndef ZERO1_TESTS_FAULTS_H
#define ZERO1_TESTS_FAULTS_H

#include <stdint.h>

enum {
  FAULT_EIO,
  FAULT_ENOSPC,
  FAULT_EACCES,
  FAULT_EINTR, /* where the call may be interrupted; goes on well when it is made again */
  FAULT_SHORT, /* a write takes half of the bytes */
  FAULT_KILL_BEFORE,
  FAULT_KILL_AFTER,
  FAULT_KINDS
};

/* Calls that change something, opens and locks among them, which every run makes in the same order;
 * and calls that only look, of which there are more where a rank waits. */
enum { FAULT_CHANGES, FAULT_LOOKS, FAULT_CLASSES };

typedef struct faults_plan {
  const char *root; /* borrowed until faults_disarm, as what faults_arm is given */
  int32_t kind;     /* FAULT_ */
  int32_t what;     /* FAULT_CHANGES or FAULT_LOOKS */
  int64_t at;       /* the first is 1; 0: none */
} faults_plan;

/* May be memory that outlives the process. */
typedef struct faults_seen {
  int64_t calls;    /* of plan.what, until faults_disarm */
  int32_t happened; /* 1: the fault did */
  char what[300];   /* which call, and of what */
} faults_seen;

/* From here on calls are counted, of all threads of this process. */
void faults_arm(const faults_plan *plan, faults_seen *seen);
void faults_disarm(void);

#endif
