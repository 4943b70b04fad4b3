// sanitizers: address undefined
/* Where every element lives. */
#include "block_walk.h"
#include "layout.h"

#include "check.h"

#include <string.h>
#include <time.h>

#define MI ((int64_t)1 << 20)

/* A layout of parameters without groups. */
static zero1__layout lay(int32_t world_size, int64_t bucket_numel, int64_t param_count,
                         const int64_t *numel, const uint32_t *flags) {
  zero1__layout layout;
  int32_t *group = calloc((size_t)param_count + 1, sizeof *group);
  uint32_t *no_flags = calloc((size_t)param_count + 1, sizeof *no_flags);
  CHECK(group && no_flags);
  CHECK_STATUS(zero1__layout_create(world_size, bucket_numel, param_count, numel, group,
                                    flags ? flags : no_flags, &layout, NULL),
               ZERO1_OK);
  free(group);
  free(no_flags);
  return layout;
}

static void is_range(zero1__range range, int64_t begin, int64_t end) {
  CHECK_EQ(range.begin, begin);
  CHECK_EQ(range.end, end);
}

/* ---- the example of layout.h ---- */

static const int64_t EXAMPLE_NUMEL[] = {600, 1, 512, 300};
static const uint32_t EXAMPLE_FLAGS[] = {0, 0, 0, ZERO1_PARAM_FROZEN};

static void the_headers_example(void) {
  zero1__layout layout = lay(2, 1024, 4, EXAMPLE_NUMEL, EXAMPLE_FLAGS);
  const int64_t places[] = {3, 2, 0, 6}, slots[] = {2, 1, 0, -1};
  for (int i = 0; i < 4; ++i) {
    CHECK_EQ(layout.place_begin[i], places[i]);
    CHECK_EQ(layout.slot_of_param[i], slots[i]);
  }
  CHECK_EQ(layout.used_blocks, 6);
  CHECK_EQ(layout.trainable_blocks, 6);
  CHECK_EQ(layout.block_count, 8);
  CHECK_EQ(layout.bucket_count, 2);
  CHECK_EQ(layout.trainable_numel, 600 + 1 + 512);
  CHECK_EQ(layout.frozen_numel, 300);
  is_range(zero1__layout_bucket(&layout, 0), 0, 4);
  is_range(zero1__layout_bucket(&layout, 1), 4, 6);
  is_range(zero1__layout_shard(&layout, 0, 0), 0, 2);
  is_range(zero1__layout_shard(&layout, 0, 1), 2, 4);
  is_range(zero1__layout_shard(&layout, 1, 0), 4, 5);
  is_range(zero1__layout_shard(&layout, 1, 1), 5, 6);
  CHECK_EQ(zero1__layout_state_blocks(&layout), 3);
  CHECK_EQ(zero1__layout_state_begin(&layout, 1), 2);
  is_range(zero1__layout_buckets_of(&layout, 0), 0, 2); /* "embed" spans both */
  is_range(zero1__layout_buckets_of(&layout, 2), 0, 1);
  is_range(zero1__layout_buckets_of(&layout, 3), 0, 0);
  zero1__layout_destroy(&layout);
}

static void its_segments(void) {
  zero1__layout layout = lay(2, 1024, 4, EXAMPLE_NUMEL, EXAMPLE_FLAGS);
  /* slot, block, numel, param_begin: "scale" and "head" of blocks [1, 5), then "embed" */
  const int64_t expected[][4] = {{0, 1, 256, 256}, {1, 2, 1, 0}, {2, 3, 512, 0}};
  zero1__walk walk = zero1__walk_begin(&layout, (zero1__range){1, 5});
  zero1__segment s;
  for (int i = 0; i < 3; ++i) {
    CHECK(zero1__walk_next(&walk, &s));
    CHECK_EQ(s.slot, expected[i][0]);
    CHECK_EQ(s.block, expected[i][1]);
    CHECK_EQ(s.numel, expected[i][2]);
    CHECK_EQ(s.param_begin, expected[i][3]);
  }
  CHECK(!zero1__walk_next(&walk, &s));
  walk = zero1__walk_begin(&layout, (zero1__range){5, 6});
  CHECK(zero1__walk_next(&walk, &s));
  CHECK(s.slot == 2 && s.block == 5 && s.numel == 88 && s.param_begin == 512);
  CHECK_EQ(zero1__layout_numel(&layout, (zero1__range){2, 6}), 1 + 600);
  CHECK_EQ(zero1__layout_numel(&layout, (zero1__range){3, 3}), 0);
  zero1__layout_destroy(&layout);
}

/* ---- tiling ---- */

/* Every block of a trainable parameter is in one bucket, one shard and one segment, in order. */
static void check_tiling(const zero1__layout *layout, int64_t bucket_numel) {
  int64_t next_block = 0, next_state[16] = {0}, numel = 0;
  for (int64_t b = 0; b < layout->bucket_count; ++b) {
    const zero1__range bucket = zero1__layout_bucket(layout, b);
    CHECK_EQ(bucket.begin, next_block);
    CHECK(bucket.end > bucket.begin);
    const int64_t least = (int64_t)layout->world_size * ZERO1__BLOCK;
    const int64_t hard_maximum = bucket_numel > least ? bucket_numel : least;
    CHECK((bucket.end - bucket.begin) * ZERO1__BLOCK <= hard_maximum);
    for (int32_t r = 0; r < layout->world_size; ++r) {
      const zero1__range shard = zero1__layout_shard(layout, b, r);
      CHECK_EQ(shard.begin, next_block);
      CHECK_EQ((shard.end - shard.begin) * layout->world_size, bucket.end - bucket.begin);
      CHECK_EQ(zero1__layout_state_begin(layout, b), next_state[r]);
      next_state[r] += shard.end - shard.begin;
      next_block = shard.end;
      numel += zero1__layout_numel(layout, shard);
    }
    CHECK_EQ(bucket.end, next_block);
  }
  CHECK_EQ(next_block, layout->trainable_blocks);
  CHECK(layout->trainable_blocks - layout->used_blocks < layout->world_size);
  CHECK_EQ(numel, layout->trainable_numel);
  for (int32_t r = 0; r < layout->world_size; ++r)
    CHECK_EQ(next_state[r], zero1__layout_state_blocks(layout));
}

/* Each parameter is contiguous, on blocks of its own, in the reverse order; frozen ones last. */
static void check_places(const zero1__layout *layout, const uint32_t *flags) {
  int64_t next = 0;
  for (int frozen = 0; frozen <= 1; ++frozen) {
    for (int64_t i = layout->param_count - 1; i >= 0; --i) {
      if (((flags[i] & ZERO1_PARAM_FROZEN) != 0) != frozen) continue;
      const int64_t blocks = (layout->numel[i] + ZERO1__BLOCK - 1) / ZERO1__BLOCK;
      CHECK_EQ(layout->place_begin[i], next);
      const int trains = !frozen && blocks > 0;
      CHECK_EQ(layout->slot_of_param[i] >= 0, trains);
      for (int64_t b = next; trains && b < next + blocks; ++b)
        CHECK_EQ(zero1__layout_slot_at(layout, b), layout->slot_of_param[i]);
      next += blocks;
    }
    CHECK_EQ(next, frozen ? layout->block_count : layout->used_blocks);
    if (!frozen) next = layout->trainable_blocks;
  }
  for (int64_t b = layout->used_blocks; b < layout->trainable_blocks; ++b)
    CHECK_EQ(zero1__layout_slot_at(layout, b), layout->slot_count);
}

static void buckets_shards_and_segments_tile_all_sizes(void) {
  const int64_t numel[] = {1, 0, 256, 257, 5000, 255, 0, 1000, 300, 512, 1, 7777};
  const uint32_t flags[] = {
      0, 0, 0, 0, 0, ZERO1_PARAM_FROZEN, ZERO1_PARAM_FROZEN, 0, 0, 0, 0, ZERO1_PARAM_NOT_IN_NORM};
  const int64_t bucket_numel[] = {256, 300, 512, 1000, 1024, 2560, 4096, 10000, MI};
  for (int32_t world_size = 1; world_size <= 9; ++world_size)
    for (int b = 0; b < 9; ++b)
      for (int64_t params = 0; params <= 12; ++params) {
        zero1__layout layout = lay(world_size, bucket_numel[b], params, numel, flags);
        check_tiling(&layout, bucket_numel[b]);
        check_places(&layout, flags);
        zero1__layout_destroy(&layout);
      }
}

static void a_params_place_depends_on_neither_world_nor_bucket_size(void) {
  const int64_t numel[] = {700, 1, 2000, 256};
  zero1__layout expected = lay(1, MI, 4, numel, NULL);
  for (int32_t world_size = 2; world_size <= 9; ++world_size) {
    zero1__layout layout = lay(world_size, 256 * world_size, 4, numel, NULL);
    CHECK(!memcmp(layout.place_begin, expected.place_begin, 4 * sizeof(int64_t)));
    zero1__layout_destroy(&layout);
  }
  zero1__layout_destroy(&expected);
}

/* Segments of any range of blocks: what they hold is what the elements' places say. */
static void segments_are_the_elements_of_their_range(void) {
  const int64_t numel[] = {300, 1, 256, 700, 0, 513};
  zero1__layout layout = lay(3, 1024, 6, numel, NULL);
  for (int64_t begin = 0; begin <= layout.trainable_blocks; ++begin)
    for (int64_t end = begin; end <= layout.trainable_blocks; ++end) {
      int64_t expected = 0, found = 0;
      for (int64_t i = 0; i < 6; ++i)
        for (int64_t e = 0; e < numel[i]; ++e) {
          const int64_t block = layout.place_begin[i] + e / ZERO1__BLOCK;
          expected += block >= begin && block < end;
        }
      zero1__walk walk = zero1__walk_begin(&layout, (zero1__range){begin, end});
      for (zero1__segment s; zero1__walk_next(&walk, &s); found += s.numel) {
        const zero1__slot *slot = &layout.slots[s.slot];
        CHECK(s.numel > 0 && s.block >= begin);
        CHECK_EQ(s.param_begin, (s.block - slot->block_begin) * ZERO1__BLOCK);
        CHECK(s.param_begin + s.numel <= slot->numel);
      }
      CHECK_EQ(found, expected);
      CHECK_EQ(zero1__layout_numel(&layout, (zero1__range){begin, end}), expected);
    }
  zero1__layout_destroy(&layout);
}

/* ---- the edges ---- */

static void more_ranks_than_blocks_leave_some_ranks_with_padding(void) {
  const int64_t numel[] = {1, 300};
  zero1__layout layout = lay(8, 4096, 2, numel, NULL);
  CHECK_EQ(layout.used_blocks, 3);
  CHECK_EQ(layout.trainable_blocks, 8);
  const int64_t held[] = {256, 44, 1, 0, 0, 0, 0, 0};
  for (int32_t r = 0; r < 8; ++r)
    CHECK_EQ(zero1__layout_numel(&layout, zero1__layout_shard(&layout, 0, r)), held[r]);
  zero1__layout_destroy(&layout);
}

static void nothing_to_train_is_no_bucket(void) {
  const int64_t numel[] = {0, 300};
  const uint32_t flags[] = {0, ZERO1_PARAM_FROZEN};
  zero1__layout layout = lay(3, 4096, 2, numel, flags);
  CHECK(layout.bucket_count == 0 && layout.slot_count == 0 && layout.trainable_blocks == 0);
  CHECK_EQ(layout.block_count, 2);
  CHECK_EQ(zero1__layout_state_blocks(&layout), 0);
  is_range(zero1__layout_buckets_of(&layout, 0), 0, 0);
  is_range(zero1__layout_buckets_of(&layout, 1), 0, 0);
  zero1__layout_destroy(&layout);
  layout = lay(3, 4096, 0, NULL, NULL);
  CHECK(layout.bucket_count == 0 && layout.block_count == 0);
  zero1__layout_destroy(&layout);
}

static void sizes_beyond_31_and_40_bits(void) {
  const int64_t numel[] = {((int64_t)1 << 41) + 1, ((int64_t)1 << 31) + 7, 3};
  zero1__layout layout = lay(4, 4 * MI, 3, numel, NULL);
  CHECK_EQ(layout.place_begin[1], 1);
  CHECK_EQ(layout.place_begin[0], 1 + ((int64_t)1 << 23) + 1);
  CHECK_EQ(layout.trainable_numel, numel[0] + numel[1] + numel[2]);
  CHECK_EQ(layout.used_blocks, 1 + ((int64_t)1 << 23) + 1 + ((int64_t)1 << 33) + 1);
  const zero1__range last = zero1__layout_bucket(&layout, layout.bucket_count - 1);
  CHECK_EQ(last.end, layout.trainable_blocks);
  CHECK_EQ(zero1__layout_numel(&layout, (zero1__range){0, last.end}), layout.trainable_numel);
  is_range(zero1__layout_buckets_of(&layout, 0), layout.place_begin[0] / (4 * MI / ZERO1__BLOCK),
           layout.bucket_count);
  zero1__layout_destroy(&layout);
}

static void a_hundred_thousand_params_take_a_moment(void) {
  enum { COUNT = 100000 };
  int64_t *numel = malloc(COUNT * sizeof *numel);
  CHECK(numel != NULL);
  for (int i = 0; i < COUNT; ++i) numel[i] = 320;
  const clock_t start = clock();
  zero1__layout layout = lay(2, 4 * MI, COUNT, numel, NULL);
  CHECK_EQ(layout.used_blocks, 2 * COUNT);
  for (int64_t b = 0; b < layout.bucket_count; ++b)
    CHECK(zero1__layout_numel(&layout, zero1__layout_shard(&layout, b, 1)) > 0);
  CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 0.5);
  zero1__layout_destroy(&layout);
  free(numel);
}

/* ---- what is refused ---- */

static void a_shapes_elements_are_its_product_or_an_error(void) {
  int64_t numel = -1;
  CHECK_STATUS(zero1__shape_numel(NULL, 0, &numel), ZERO1_OK);
  CHECK_EQ(numel, 1); /* a scalar */
  CHECK_STATUS(zero1__shape_numel((const int64_t[]){3, 4, 5}, 3, &numel), ZERO1_OK);
  CHECK_EQ(numel, 60);
  CHECK_STATUS(zero1__shape_numel((const int64_t[]){INT64_MAX / 8, 1}, 2, &numel), ZERO1_OK);
  CHECK_EQ(numel, INT64_MAX / 8);
  CHECK_STATUS(zero1__shape_numel((const int64_t[]){MI * MI, 0, MI}, 3, &numel), ZERO1_OK);
  CHECK_EQ(numel, 0);
  const int64_t bad[][2] = {{3, -1}, {-1, 0}, {0, -1}, {INT64_MAX / 8, 2}, {INT64_MAX, INT64_MAX}};
  for (int i = 0; i < 5; ++i) {
    CHECK_STATUS(zero1__shape_numel(bad[i], 2, &numel), ZERO1_ERR_INVALID);
    CHECK_EQ(numel, 0);
  }
}

static void a_total_that_overflows_is_refused(void) {
  const int64_t numel[] = {INT64_MAX / 8, INT64_MAX / 8, INT64_MAX / 8};
  const int32_t group[3] = {0};
  for (int which = 0; which < 3; ++which) {
    uint32_t flags[3] = {0};
    for (int i = 0; i < 3; ++i) flags[i] = i < which ? ZERO1_PARAM_FROZEN : 0;
    zero1__layout layout;
    zero1__error error;
    zero1__error_clear(&error);
    CHECK_STATUS(zero1__layout_create(2, 4 * MI, 3, numel, group, flags, &layout, &error),
                 ZERO1_ERR_INVALID);
    CHECK(strstr(error.text, "1152921504606846975") != NULL);
    CHECK(layout.slots == NULL && layout.place_begin == NULL); /* nothing is left to destroy */
  }
}

/* ---- blocks, and what is fetched meanwhile: the example of block_walk.h ---- */

static void is_block(zero1__block block, int64_t at, int64_t numel) {
  CHECK_EQ(block.at, at);
  CHECK_EQ(block.numel, numel);
}

static void a_block_comes_with_the_one_after_the_next(void) {
  const int64_t numel[] = {320, 320, 320};
  zero1__layout layout = lay(1, 1024, 3, numel, NULL);
  zero1__block_walk walk = zero1__block_walk_begin(&layout, 0, (zero1__range){0, 6});
  const int64_t at[] = {0, 256, 512, 768, 1024, 1280}, each[] = {256, 64, 256, 64, 256, 64};
  zero1__block block, soon;
  for (int i = 0; i < 6; ++i) {
    CHECK(zero1__block_walk_next(&walk, &block, &soon));
    CHECK_EQ(block.slot, i / 2);
    is_block(block, at[i], each[i]);
    CHECK_EQ(soon.numel, i < 4 ? each[i + 2] : 0);
    if (i < 4) CHECK_EQ(soon.at, at[i + 2]);
  }
  CHECK(!zero1__block_walk_next(&walk, &block, &soon));
  zero1__layout_destroy(&layout);
}

/* Blocks 1 to 3 of 600 elements and of 100, in a job that begins at block 1. */
static void a_part_of_a_job_has_the_jobs_own_places(void) {
  const int64_t numel[] = {100, 600};
  zero1__layout layout = lay(1, 1024, 2, numel, NULL);
  zero1__block_walk walk = zero1__block_walk_begin(&layout, 1, (zero1__range){2, 4});
  zero1__block block, soon;
  CHECK(zero1__block_walk_next(&walk, &block, &soon));
  is_block(block, 256, 88);
  CHECK(zero1__block_walk_next(&walk, &block, &soon));
  is_block(block, 512, 100);
  CHECK(!zero1__block_walk_next(&walk, &block, &soon));
  zero1__layout_destroy(&layout);
}

int main(void) {
  RUN(the_headers_example);
  RUN(its_segments);
  RUN(buckets_shards_and_segments_tile_all_sizes);
  RUN(a_params_place_depends_on_neither_world_nor_bucket_size);
  RUN(segments_are_the_elements_of_their_range);
  RUN(more_ranks_than_blocks_leave_some_ranks_with_padding);
  RUN(nothing_to_train_is_no_bucket);
  RUN(sizes_beyond_31_and_40_bits);
  RUN(a_hundred_thousand_params_take_a_moment);
  RUN(a_shapes_elements_are_its_product_or_an_error);
  RUN(a_total_that_overflows_is_refused);
  RUN(a_block_comes_with_the_one_after_the_next);
  RUN(a_part_of_a_job_has_the_jobs_own_places);
  return check_summary();
}
