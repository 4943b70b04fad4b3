// needs: mpi
// quarters: 1
// cost: 16
// args: node
// args: exchange
// args: exchange-single
// args: hierarchical
// timeout: 300
// devices: host standin cuda
/* A rank that is lost: killed in the middle of something, aborting, absent, or leaving. Its peers
 * return an error that names it, at once or after the timeout that they asked for, and can go on to
 * clean up. This program starts itself under mpirun, once for each way of being lost; a surviving
 * rank leaves a file that says so, because of what mpirun makes of its exit. Nothing else may be
 * left behind. */
#include <dirent.h>
#include <fcntl.h>
#include <mpi.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "misuse.h"

extern char **environ;

/* ---- the ways of being lost ---- */

enum { LOST = 1 }; /* the rank */

typedef struct scene {
  const char *path;
  int32_t ranks_per_node;
  int32_t world_size;
  int level;
} scene;

static const scene scenes[] = {
    {"node", 0, 3, MPI_THREAD_SINGLE},
    {"exchange", 1, 3, MPI_THREAD_MULTIPLE},
    {"exchange-single", 1, 3, MPI_THREAD_SINGLE},
    {"hierarchical", 2, 4, MPI_THREAD_MULTIPLE},
};

typedef struct loss {
  const char *name;
  const char *when; /* create, sync, backward, step, wait, check */
  const char *how;  /* die, abort, stay, destroy */
  zero1_status status;
  const char *text;
} loss;

static const loss losses[] = {
    {"die-create", "create", "die", ZERO1_ERR_PEER, "rank 1 died"},
    {"die-sync", "sync", "die", ZERO1_ERR_PEER, "rank 1 died"},
    {"die-backward", "backward", "die", ZERO1_ERR_PEER, "rank 1 died"},
    {"die-step", "step", "die", ZERO1_ERR_PEER, "rank 1 died"},
    {"die-wait", "wait", "die", ZERO1_ERR_PEER, "rank 1 died"},
    {"die-check", "check", "die", ZERO1_ERR_PEER, "rank 1 died"},
    {"abort-sync", "sync", "abort", ZERO1_ERR_ABORTED, "rank 1 aborted: no more data"},
    {"abort-backward", "backward", "abort", ZERO1_ERR_ABORTED, "rank 1 aborted: no more data"},
    {"abort-check", "check", "abort", ZERO1_ERR_ABORTED, "rank 1 aborted: no more data"},
    {"stay-create", "create", "stay", ZERO1_ERR_TIMEOUT, "rank 1 "},
    {"stay-backward", "backward", "stay", ZERO1_ERR_TIMEOUT, "rank 1 "},
    {"destroy-backward", "backward", "destroy", ZERO1_ERR_ABORTED, "rank 1 aborted: destroyed"},
};
enum { LOSSES = sizeof losses / sizeof *losses };

/* ---- a rank ---- */

static void leave_mark(const char *folder, int rank) {
  char name[600];
  snprintf(name, sizeof name, "%s/survivor%d", folder, rank);
  const int file = open(name, O_CREAT | O_WRONLY, 0600);
  CHECK(file >= 0);
  close(file);
}

static int stays(const loss *way) {
  return !strcmp(way->how, "stay");
}

/* The lost rank's end; it returns in no case. */
static void be_lost(const loss *way, zero1_optimizer *optimizer) {
  const struct timespec long_enough = {stays(way) ? 4 : 1, 0};
  if (!strcmp(way->how, "die")) kill(getpid(), SIGKILL);
  if (!strcmp(way->how, "abort")) {
    zero1_optimizer_abort(optimizer, "no more data");
    CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_ERR_SPENT);
    CHECK_TEXT(zero1_optimizer_last_error(optimizer), "no more data");
  }
  if (!strcmp(way->how, "destroy")) zero1_optimizer_destroy(&optimizer);
  nanosleep(&long_enough, NULL);
  _exit(0);
}

typedef struct rank_state {
  const loss *way;
  int lost;
} rank_state;

static void maybe_lost(const rank_state *self, const char *when, zero1_optimizer *optimizer) {
  if (self->lost && !strcmp(self->way->when, when)) be_lost(self->way, optimizer);
}

/* Trains until something goes wrong. */
static zero1_status train(const rank_state *self, zero1_optimizer *optimizer) {
  maybe_lost(self, "sync", optimizer);
  zero1_status status = zero1_optimizer_sync_params(optimizer, 0);
  for (int step = 0; step < 20 && !status; ++step) {
    status = zero1_optimizer_zero_grad(optimizer, device_thread_stream());
    for (int64_t i = MISUSE_PARAMS - 1; i >= 0 && !status; --i) {
      if (step == 3 && i == 1) maybe_lost(self, "backward", optimizer);
      status = zero1_optimizer_grad_ready(optimizer, i, device_thread_stream());
    }
    if (step == 3) maybe_lost(self, "step", optimizer);
    if (!status) status = zero1_optimizer_step(optimizer);
    if (step == 3) maybe_lost(self, "wait", optimizer);
    if (!status) status = zero1_optimizer_wait_params(optimizer, device_thread_stream());
  }
  maybe_lost(self, "check", optimizer);
  return status ? status : zero1_optimizer_check_replicas(optimizer, NULL);
}

static void check_told(const loss *way, const char *text, double begin) {
  /* Between nodes, who waited too long for a rank that waits itself cannot tell. */
  CHECK_TEXT(text, stays(way) ? " within " : way->text);
  CHECK(misuse_seconds() - begin < 20); /* on a busy machine; else well under a second */
}

static void run_rank(const scene *at, const loss *way, const char *folder) {
  int rank, level;
  zero1_comm_options options;
  zero1_comm *comm;
  zero1_optimizer *optimizer;
  zero1_info info;
  CHECK(MPI_Init_thread(NULL, NULL, at->level, &level) == MPI_SUCCESS);
  CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank) == MPI_SUCCESS);
  const rank_state self = {way, rank == LOST};
  misuse_options(at->ranks_per_node, stays(way) ? 1 : 60, &options);
  CHECK_STATUS(zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &comm), ZERO1_OK);
  CHECK(!strncmp(zero1_comm_backend(comm), at->path, strlen(zero1_comm_backend(comm))));
  device_skip_without(); /* on a GPU the first that is done there takes seconds */
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  const double begin = misuse_seconds();
  maybe_lost(&self, "create", NULL);
  zero1_status status = misuse_create(comm, &optimizer);
  if (status) {
    CHECK_STATUS(status, way->status);
    CHECK(!optimizer);
    check_told(way, zero1_comm_last_error(comm), begin);
  } else {
    CHECK_STATUS(train(&self, optimizer), way->status);
    check_told(way, zero1_optimizer_last_error(optimizer), begin);
    CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_ERR_SPENT);
    check_told(way, zero1_optimizer_last_error(optimizer), begin);
    CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 0, device_thread_stream()), ZERO1_ERR_SPENT);
    CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_ERR_SPENT);
    CHECK_STATUS(zero1_optimizer_wait_param(optimizer, 0, device_thread_stream()), way->status);
    CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), way->status);
    zero1_optimizer_destroy(&optimizer);
  }
  if (!strcmp(way->how, "die")) {
    CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_ERR_PEER);
    CHECK_TEXT(zero1_comm_last_error(comm), "rank 1 died");
  }
  zero1_comm_destroy(&comm);
  leave_mark(folder, rank);
  fflush(NULL);
  _exit(0); /* MPI_Finalize would wait for the lost rank */
}

/* ---- the program that starts them ---- */

/* Entries of a folder that would be ours. */
static int count_ours(const char *folder) {
  int count = 0;
  DIR *const entries = opendir(folder);
  if (!entries) return 0;
  for (const struct dirent *entry; (entry = readdir(entries));)
    count += strstr(entry->d_name, "zero1") != NULL;
  closedir(entries);
  return count;
}

static void set_environment(void) {
  const char *const settings[][2] = {
      {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
      {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
      {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
      {"OMPI_MCA_mpi_yield_when_idle", "1"},
      {"OMPI_MCA_btl_vader_single_copy_mechanism", "none"},
      {"OMPI_MCA_hwloc_base_binding_policy", "none"},
      {"MPIEXEC_TIMEOUT", "60"},
  };
  for (size_t i = 0; i < sizeof settings / sizeof *settings; ++i)
    CHECK(setenv(settings[i][0], settings[i][1], 1) == 0);
}

static pid_t start(const scene *at, const loss *way, const char *folder, const char *program) {
  char ranks[12], *argv[] = {"mpirun",
                             "--enable-recovery",
                             "--oversubscribe",
                             "-n",
                             ranks,
                             (char *)(uintptr_t)program,
                             "rank",
                             (char *)(uintptr_t)at->path,
                             (char *)(uintptr_t)way->name,
                             (char *)(uintptr_t)folder,
                             NULL};
  pid_t child;
  snprintf(ranks, sizeof ranks, "%d", at->world_size);
  if (posix_spawnp(&child, "mpirun", NULL, NULL, argv, environ)) SKIP("there is no mpirun");
  return child;
}

/* Whether a rank has said that it survived; the mark is taken away. */
static int take_mark(const char *folder, int rank) {
  char name[600];
  snprintf(name, sizeof name, "%s/survivor%d", folder, rank);
  return unlink(name) == 0;
}

static void lose_a_rank(const scene *at, const loss *way, const char *program) {
  char folder[] = "/tmp/death-XXXXXX";
  int result;
  CHECK(mkdtemp(folder));
  const int in_shm = count_ours("/dev/shm"), in_tmp = count_ours("/tmp");
  printf("%s %s\n", at->path, way->name);
  fflush(stdout);
  const pid_t child = start(at, way, folder, program);
  CHECK(waitpid(child, &result, 0) == child);
  int survivors = 0;
  for (int rank = 0; rank < at->world_size; ++rank) survivors += take_mark(folder, rank);
  CHECK(rmdir(folder) == 0);
  CHECK_EQ(survivors, at->world_size - 1);
  CHECK_EQ(count_ours("/dev/shm"), in_shm);
  CHECK_EQ(count_ours("/tmp"), in_tmp);
}

static const scene *find_scene(const char *path) {
  for (size_t i = 0; i < sizeof scenes / sizeof *scenes; ++i)
    if (!strcmp(scenes[i].path, path)) return &scenes[i];
  CHECK(!"a known path");
  return NULL;
}

static void require_open_mpi(void) {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length;
  MPI_Get_library_version(text, &length);
  if (strncmp(text, "Open MPI v4", 11) != 0) SKIP("how mpirun keeps survivors is Open MPI 4's way");
}

int main(int argc, char **argv) {
  if (argc == 5 && !strcmp(argv[1], "rank")) {
    for (int i = 0; i < LOSSES; ++i)
      if (!strcmp(losses[i].name, argv[3])) run_rank(find_scene(argv[2]), &losses[i], argv[4]);
    return 1;
  }
  CHECK(argc >= 2);
  require_open_mpi();
  device_skip_without();
  if (device_is_cuda() && !strcmp(argv[1], "hierarchical"))
    SKIP("on a device its ranks exchange messages: that is the scene before");
  set_environment();
  for (int i = 0; i < LOSSES; ++i) {
    if (argc > 2 && strcmp(argv[2], losses[i].name) != 0) continue;
    lose_a_rank(find_scene(argv[1]), &losses[i], argv[0]);
    ++check__passed;
  }
  return check_summary();
}
