/* A host that is lost in mid-step: what the others are told, and when.
 *
 *   mpirun --enable-recovery ... lost_host die|late|cut TIMEOUT FOLDER
 *
 * Trains on the ranks of several hosts. In the third step, with gradients on their way, rank LOST
 * dies (die), or asks for its link to be cut (cut: it makes FOLDER/cut) and goes on. Each rank that
 * lives writes FOLDER/rankR: the status of the call that failed, the seconds since then, the text.
 * It leaves without MPI_Finalize, which would wait for the lost one. scripts/netns_bench reads what
 * they wrote. */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "zero1/zero1.h"

enum { LOST = 1, LOST_IN_STEP = 3, STEPS = 1000, PARAMS = 4 };

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void make(const char *folder, const char *name, const char *text) {
  char path[600], part[610];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  snprintf(part, sizeof part, "%s.part", path);
  FILE *file = fopen(part, "w");
  if (!file || fputs(text, file) < 0 || fclose(file) || rename(part, path)) {
    fprintf(stderr, "lost_host: %s cannot be written\n", path);
    _exit(1);
  }
}

static _Noreturn void fail(const char *what, const char *text) {
  fprintf(stderr, "lost_host: %s: %s\n", what, text);
  MPI_Abort(MPI_COMM_WORLD, 1);
  abort();
}

static zero1_optimizer *create(zero1_comm *comm, double timeout_seconds) {
  static const int64_t shape[] = {1 << 20};
  zero1_param_spec specs[PARAMS];
  zero1_config config;
  zero1_optimizer *optimizer;
  memset(specs, 0, sizeof specs);
  for (int i = 0; i < PARAMS; ++i)
    specs[i] = (zero1_param_spec){.name = "abcd" + i, .shape = shape, .ndim = 1};
  zero1_config_init(&config, sizeof config);
  config.threads = 1;
  config.bucket_numel = 1 << 20;
  config.timeout_seconds = timeout_seconds;
  if (zero1_optimizer_create(comm, &config, specs, sizeof *specs, PARAMS, &optimizer))
    fail("no optimizer", zero1_comm_last_error(comm));
  return optimizer;
}

/* One step; in the one that is meant the lost rank is lost once half of its gradients are ready. */
static zero1_status step(zero1_optimizer *optimizer, int lost, const char *how,
                         const char *folder) {
  zero1_status status = ZERO1_OK;
  for (int64_t i = PARAMS - 1; i >= 0 && !status; --i) {
    if (i == PARAMS / 2 && lost && !strcmp(how, "die")) kill(getpid(), SIGKILL);
    if (i == PARAMS / 2 && lost && !strcmp(how, "cut")) make(folder, "cut", "");
    status = zero1_optimizer_grad_ready(optimizer, i, ZERO1_STREAM_DEFAULT);
  }
  if (lost && !strcmp(how, "late")) {
    sleep(1);
    kill(getpid(), SIGKILL);
  }
  if (!status) status = zero1_optimizer_step(optimizer);
  return status ? status : zero1_optimizer_wait_params(optimizer, ZERO1_STREAM_DEFAULT);
}

int main(int argc, char **argv) {
  zero1_comm *comm;
  zero1_comm_options options;
  char name[32], text[700];
  int rank, level;
  if (argc != 4) {
    fprintf(stderr, "usage: mpirun --enable-recovery ... lost_host die|late|cut TIMEOUT FOLDER\n");
    return 2;
  }
  const double timeout_seconds = atof(argv[2]);
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  zero1_comm_options_init(&options, sizeof options);
  options.timeout_seconds = timeout_seconds;
  options.error_text = text;
  options.error_bytes = sizeof text;
  if (zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &comm))
    fail("no communicator", text);
  zero1_optimizer *optimizer = create(comm, timeout_seconds);
  zero1_status status = zero1_optimizer_sync_params(optimizer, 0);
  if (status) fail("sync_params", zero1_optimizer_last_error(optimizer));
  double begin = 0;
  for (int i = 1; i <= STEPS && !status; ++i) {
    if (i <= LOST_IN_STEP) begin = seconds();
    status = step(optimizer, rank == LOST && i == LOST_IN_STEP, argv[1], argv[3]);
  }
  snprintf(name, sizeof name, "rank%d", rank);
  snprintf(text, sizeof text, "%d %.3f %.500s\n", (int)status, seconds() - begin,
           zero1_optimizer_last_error(optimizer));
  make(argv[3], name, text);
  zero1_optimizer_destroy(&optimizer); /* neither of them waits for anybody */
  zero1_comm_destroy(&comm);
  fflush(NULL);
  _exit(0);
}
