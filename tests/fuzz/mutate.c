/* The driver of a fuzz target where the compiler has none (no clang): random mutations of the
 * seeds, not guided by what they reach.
 *
 *   TARGET -max_total_time=SECONDS -artifact_prefix=FOLDER/ SEEDS...    SEEDS: folders
 *   TARGET FILE...    runs the target once on each
 *
 * Other options are left to libFuzzer, which this stands in for. An input that ends the process is
 * left in FOLDER/crash, or in the file that FOLDER names. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fuzz.h"

enum { SEEDS_MAX = 1000, BYTES_MAX = 1 << 16, CHANGES_MAX = 6 };

typedef struct seed {
  uint8_t *data;
  size_t bytes;
} seed;

static seed seeds[SEEDS_MAX];
static size_t seed_count;
static uint64_t state = 0x9e3779b97f4a7c15u;

static uint64_t next_random(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static size_t below(size_t end) {
  return end ? (size_t)(next_random() % end) : 0;
}

static void add_seed(const char *path) {
  FILE *const file = fopen(path, "rb");
  uint8_t *const data = malloc(BYTES_MAX);
  if (!file || !data || seed_count == SEEDS_MAX) exit(2);
  seeds[seed_count++] = (seed){data, fread(data, 1, BYTES_MAX, file)};
  fclose(file);
}

static void add_folder(const char *path) {
  DIR *const folder = opendir(path);
  char name[4096];
  if (!folder) exit(2);
  for (struct dirent *entry; (entry = readdir(folder));) {
    snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
    if (entry->d_name[0] != '.') add_seed(name);
  }
  closedir(folder);
}

/* ---- mutations ---- */

static const char *const words[] = {"0",
                                    "1",
                                    "-1",
                                    "2147483647",
                                    "2147483648",
                                    "4294967296",
                                    "9223372036854775807",
                                    "9223372036854775808",
                                    "1e999",
                                    "1e-400",
                                    "0.5",
                                    "true",
                                    "null",
                                    "{}",
                                    "[]",
                                    "\"\"",
                                    "[[[[[[[[",
                                    "\\u0000",
                                    "\\ud800",
                                    "\\ud83d\\udc0e",
                                    "\"",
                                    ",",
                                    ":",
                                    "{",
                                    "}",
                                    "[",
                                    "]",
                                    " ",
                                    "\xff",
                                    "\xc3",
                                    "\"frozen\": true",
                                    "\"format\"",
                                    "\"version\": 2",
                                    "\"index\"",
                                    "\"xxh3\""};

/* Takes [at, at + cut) out and puts bytes in, as far as there is room. */
static void replace(uint8_t *data, size_t *bytes, size_t at, size_t cut, const void *with,
                    size_t with_bytes) {
  if (*bytes - cut + with_bytes > BYTES_MAX) return;
  memmove(data + at + with_bytes, data + at + cut, *bytes - at - cut);
  memcpy(data + at, with, with_bytes);
  *bytes += with_bytes - cut;
}

/* The number or the word that begins at `at`, or one character. */
static size_t token_length(const uint8_t *data, size_t bytes, size_t at) {
  size_t end = at;
  while (end < bytes && data[end] && strchr("0123456789.-+eEabcdfx", data[end])) ++end;
  return end > at ? end - at : bytes > at;
}

/* Swaps two pieces that follow each other. */
static void swap(uint8_t *data, size_t bytes) {
  uint8_t piece[64];
  const size_t length = 1 + below(sizeof piece - 1), at = below(bytes);
  if (at + 2 * length > bytes) return;
  memcpy(piece, data + at, length);
  memmove(data + at, data + at + length, length);
  memcpy(data + at + length, piece, length);
}

static void change(uint8_t *data, size_t *bytes) {
  static uint8_t piece[256];
  const size_t at = below(*bytes + 1), left = *bytes - at;
  const char *const word = words[below(sizeof words / sizeof *words)];
  const seed *const other = &seeds[below(seed_count)];
  const size_t from = below(other->bytes);
  size_t length = 1 + below(sizeof piece - 1);
  switch (below(9)) {
    case 0: /* a bit */
      if (left) data[at] ^= (uint8_t)(1u << below(8));
      break;
    case 1: /* a byte */
      if (left) data[at] = (uint8_t)next_random();
      break;
    case 2: /* an insertion */
      replace(data, bytes, at, 0, word, strlen(word));
      break;
    case 3: /* a number or a word becomes another */
      replace(data, bytes, at, token_length(data, *bytes, at), word, strlen(word));
      break;
    case 4: /* a deletion */
      replace(data, bytes, at, length < left ? length : left, "", 0);
      break;
    case 5: /* a splice of another seed */
      if (length > other->bytes - from) length = other->bytes - from;
      replace(data, bytes, at, below(left < 64 ? left + 1 : 64), other->data + from, length);
      break;
    case 6: /* something twice */
      if (length > left) length = left;
      memcpy(piece, data + at, length);
      replace(data, bytes, at, 0, piece, length);
      break;
    case 7: /* a digit */
      for (size_t i = at; i < *bytes; ++i)
        if (data[i] >= '0' && data[i] <= '9') {
          data[i] = (uint8_t)('0' + below(10));
          break;
        }
      break;
    default:
      swap(data, *bytes);
  }
}

/* ---- the run ---- */

/* Left behind if the target ends the process; overwritten by the next input else. */
static void keep(const char *path, const uint8_t *data, size_t bytes) {
  FILE *const file = fopen(path, "wb");
  if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file)) exit(2);
}

static void run(const char *crash, long seconds) {
  static uint8_t data[BYTES_MAX];
  const time_t end = time(NULL) + seconds;
  unsigned long long runs = 0;
  for (; time(NULL) < end; ++runs) {
    const seed *const from = &seeds[below(seed_count)];
    size_t bytes = from->bytes;
    memcpy(data, from->data, bytes);
    for (size_t changes = runs < seed_count ? 0 : 1 + below(CHANGES_MAX); changes-- > 0;)
      change(data, &bytes);
    keep(crash, data, bytes);
    LLVMFuzzerTestOneInput(data, bytes);
  }
  remove(crash);
  printf("%llu runs, no failure\n", runs);
}

int main(int argc, char **argv) {
  long seconds = 0;
  char crash[4096] = "crash";
  state ^= (uint64_t)time(NULL) << 20;
  for (int i = 1; i < argc; ++i) {
    struct stat info;
    if (!strncmp(argv[i], "-max_total_time=", 16))
      seconds = atol(argv[i] + 16);
    else if (!strncmp(argv[i], "-artifact_prefix=", 17))
      snprintf(crash, sizeof crash, "%scrash", argv[i] + 17);
    else if (argv[i][0] == '-')
      continue; /* libFuzzer's */
    else if (stat(argv[i], &info))
      return 2;
    else if (S_ISDIR(info.st_mode))
      add_folder(argv[i]);
    else
      add_seed(argv[i]);
  }
  for (size_t i = 0; i < seed_count && !seconds; ++i)
    LLVMFuzzerTestOneInput(seeds[i].data, seeds[i].bytes);
  if (seconds && !seed_count) return 2;
  if (seconds) run(crash, seconds);
  for (size_t i = 0; i < seed_count; ++i) free(seeds[i].data);
  return 0;
}
