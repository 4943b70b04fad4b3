#include "bench_stream.h"

#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench_world.h"

#define PIECE_BYTES ((size_t)256 << 10)
#define NAME_BYTES 256

void bench_stream_meet(void) {
  const struct timespec moment = {0, 200000};
  MPI_Request request;
  int done = 0;
  for (MPI_Ibarrier(MPI_COMM_WORLD, &request); !done; nanosleep(&moment, NULL))
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
}

/* ---- sockets ---- */

static int listen_anywhere(int *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
  socklen_t bytes = sizeof address;
  const int socket_in = socket(AF_INET, SOCK_STREAM, 0);
  bench_require(socket_in >= 0 && !bind(socket_in, (struct sockaddr *)&address, bytes) &&
                    !listen(socket_in, 1) &&
                    !getsockname(socket_in, (struct sockaddr *)&address, &bytes),
                "a raw stream: no socket: %s", strerror(errno));
  *port = ntohs(address.sin_port);
  return socket_in;
}

static int connect_to(const char *name, int port) {
  const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
  struct addrinfo *found = NULL;
  char service[16];
  snprintf(service, sizeof service, "%d", port);
  const int unknown = getaddrinfo(name, service, &hints, &found);
  bench_require(!unknown, "a raw stream: host %s: %s", name, gai_strerror(unknown));
  const int to = socket(AF_INET, SOCK_STREAM, 0);
  bench_require(to >= 0 && !connect(to, found->ai_addr, found->ai_addrlen),
                "a raw stream: host %s cannot be connected to: %s", name, strerror(errno));
  freeaddrinfo(found);
  return to;
}

typedef struct place {
  char name[NAME_BYTES];
  int port;
} place;

/* Host i connects to host i + 1: the connection is made before that accepts it. */
static void join(bench_stream *stream, MPI_Comm leaders) {
  place mine = {0}, *all = bench_alloc((size_t)stream->host_count, sizeof *all);
  const int waiting = listen_anywhere(&mine.port);
  gethostname(mine.name, sizeof mine.name - 1);
  MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, leaders);
  const place *next = &all[(stream->host + 1) % stream->host_count];
  stream->to = connect_to(next->name, next->port);
  stream->from = accept(waiting, NULL, NULL);
  bench_require(stream->from >= 0, "a raw stream: nobody came: %s", strerror(errno));
  close(waiting);
  free(all);
}

void bench_stream_open(bench_stream *stream) {
  MPI_Comm node, leaders;
  int rank, node_rank;
  *stream = (bench_stream){.to = -1, .from = -1, .piece = bench_alloc(PIECE_BYTES, 1)};
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &node_rank);
  MPI_Comm_size(node, &stream->ranks_per_host);
  stream->leads = node_rank == 0;
  MPI_Comm_split(MPI_COMM_WORLD, !stream->leads, rank, &leaders);
  int where[2] = {0, 0};
  if (stream->leads) {
    MPI_Comm_rank(leaders, &where[0]);
    MPI_Comm_size(leaders, &where[1]);
  }
  MPI_Bcast(where, 2, MPI_INT, 0, node);
  stream->host = where[0];
  stream->host_count = where[1];
  if (stream->leads && stream->host_count > 1) join(stream, leaders);
  MPI_Comm_free(&leaders);
  MPI_Comm_free(&node);
}

void bench_stream_close(bench_stream *stream) {
  if (stream->to >= 0) close(stream->to);
  if (stream->from >= 0) close(stream->from);
  free(stream->piece);
}

/* ---- bytes ---- */

/* Moves what can be moved at once. */
static void move(bench_stream *stream, int64_t *to_send, int64_t *to_receive) {
  const size_t most = PIECE_BYTES;
  struct pollfd ends[2] = {{.fd = *to_send ? stream->to : -1, .events = POLLOUT},
                           {.fd = *to_receive ? stream->from : -1, .events = POLLIN}};
  bench_require(poll(ends, 2, 30000) > 0, "a raw stream: nothing moved for 30 s");
  if (ends[0].revents) {
    const size_t bytes = (size_t)*to_send < most ? (size_t)*to_send : most;
    const ssize_t sent = send(stream->to, stream->piece, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    bench_require(sent > 0 || errno == EAGAIN, "a raw stream: %s", strerror(errno));
    if (sent > 0) *to_send -= sent;
  }
  if (ends[1].revents) {
    const size_t bytes = (size_t)*to_receive < most ? (size_t)*to_receive : most;
    const ssize_t got = recv(stream->from, stream->piece, bytes, MSG_DONTWAIT);
    bench_require(got > 0 || (got < 0 && errno == EAGAIN), "a raw stream: %s",
                  got ? strerror(errno) : "it ended");
    if (got > 0) *to_receive -= got;
  }
}

double bench_stream_run(bench_stream *stream, int64_t bytes) {
  int64_t to_send = stream->to >= 0 ? bytes : 0, to_receive = to_send;
  bench_stream_meet();
  const int64_t begin_ns = zero1__now_ns();
  while (to_send || to_receive) move(stream, &to_send, &to_receive);
  const double mine_ms = bench_ms_since(begin_ns);
  bench_stream_meet();
  const double ms = bench_max(stream->to >= 0 ? mine_ms : 0);
  return ms > 0 ? (double)bytes / ms * 1e3 : 0;
}
