// sanitizers: address undefined
/* Which gradients are complete, and which buckets with them. */
#include "readiness.h"

#include "check.h"

/* The example of layout.h, 2 ranks, buckets of 4 blocks: "head" (2) and "scale" (1) lie in bucket
 * 0, "embed" (0) in buckets 0 and 1, "mask" (3) is frozen, "nothing" (4) has no elements. */
enum { EMBED, SCALE, HEAD, MASK, NOTHING, COUNT };
static const int64_t NUMEL[COUNT] = {600, 1, 512, 300, 0};
static const int32_t GROUPS[COUNT] = {0};
static const uint32_t FLAGS[COUNT] = {0, 0, 0, ZERO1_PARAM_FROZEN, 0};

typedef struct fixture {
  zero1__layout layout;
  zero1__readiness readiness;
} fixture;

static void begin(fixture *at) {
  CHECK_STATUS(zero1__layout_create(2, 1024, COUNT, NUMEL, GROUPS, FLAGS, &at->layout, NULL),
               ZERO1_OK);
  CHECK_EQ(at->layout.bucket_count, 2);
  CHECK_STATUS(zero1__readiness_begin(&at->readiness, &at->layout, NULL), ZERO1_OK);
}

static void end(fixture *at) {
  zero1__readiness_end(&at->readiness);
  zero1__layout_destroy(&at->layout);
}

static void a_bucket_is_ready_with_its_last_gradient(void) {
  fixture at;
  begin(&at);
  zero1__readiness *const ready = &at.readiness;
  CHECK_EQ(ready->waiting, 3);
  CHECK(zero1__readiness_mark(ready, HEAD, ZERO1__GRAD_READY));
  CHECK(!zero1__readiness_bucket(ready, 0) && !zero1__readiness_bucket(ready, 1));
  CHECK(zero1__readiness_mark(ready, EMBED, ZERO1__GRAD_READY)); /* before "scale" */
  CHECK(!zero1__readiness_bucket(ready, 0) && zero1__readiness_bucket(ready, 1));
  CHECK(zero1__readiness_mark(ready, SCALE, ZERO1__GRAD_READY));
  CHECK(zero1__readiness_bucket(ready, 0) && zero1__readiness_bucket(ready, 1));
  CHECK_EQ(ready->waiting, 0);
  CHECK_EQ(ready->absent, 0);
  end(&at);
}

static void a_gradient_is_marked_once(void) {
  fixture at;
  begin(&at);
  CHECK(zero1__readiness_mark(&at.readiness, HEAD, ZERO1__GRAD_READY));
  CHECK(!zero1__readiness_mark(&at.readiness, HEAD, ZERO1__GRAD_READY));
  CHECK(!zero1__readiness_mark(&at.readiness, HEAD, ZERO1__GRAD_ABSENT));
  CHECK_EQ(at.readiness.grads[HEAD], ZERO1__GRAD_READY);
  CHECK_EQ(at.readiness.waiting, 2);
  CHECK_EQ(at.readiness.absent, 0);
  end(&at);
}

static void absent_ones_are_counted_and_complete_a_bucket(void) {
  fixture at;
  begin(&at);
  for (int param = EMBED; param <= HEAD; ++param)
    CHECK(zero1__readiness_mark(&at.readiness, param, ZERO1__GRAD_ABSENT));
  CHECK(zero1__readiness_bucket(&at.readiness, 0) && zero1__readiness_bucket(&at.readiness, 1));
  CHECK_EQ(at.readiness.absent, 3);
  end(&at);
}

static void nobody_waits_for_one_without_elements(void) {
  fixture at;
  begin(&at);
  for (int param = EMBED; param <= HEAD; ++param)
    CHECK(zero1__readiness_mark(&at.readiness, param, ZERO1__GRAD_READY));
  CHECK_EQ(zero1__readiness_missing(&at.readiness), -1);
  CHECK(zero1__readiness_mark(&at.readiness, NOTHING, ZERO1__GRAD_ABSENT));
  CHECK(!zero1__readiness_mark(&at.readiness, NOTHING, ZERO1__GRAD_READY));
  CHECK_EQ(at.readiness.waiting, 0);
  CHECK_EQ(at.readiness.absent, 0);
  end(&at);
}

static void the_lowest_missing_one_is_named(void) {
  fixture at;
  begin(&at);
  CHECK_EQ(zero1__readiness_missing(&at.readiness), EMBED);
  CHECK(zero1__readiness_mark(&at.readiness, EMBED, ZERO1__GRAD_READY));
  CHECK_EQ(zero1__readiness_missing(&at.readiness), SCALE);
  CHECK(zero1__readiness_mark(&at.readiness, SCALE, ZERO1__GRAD_ABSENT));
  CHECK_EQ(zero1__readiness_missing(&at.readiness), HEAD);
  CHECK(zero1__readiness_mark(&at.readiness, HEAD, ZERO1__GRAD_READY));
  CHECK_EQ(zero1__readiness_missing(&at.readiness), -1); /* "mask" is frozen */
  end(&at);
}

static void a_new_step_begins_with_nothing(void) {
  fixture at;
  begin(&at);
  for (int param = EMBED; param <= HEAD; ++param)
    CHECK(zero1__readiness_mark(&at.readiness, param, ZERO1__GRAD_ABSENT));
  zero1__readiness_reset(&at.readiness);
  CHECK_EQ(at.readiness.waiting, 3);
  CHECK_EQ(at.readiness.absent, 0);
  CHECK(!zero1__readiness_bucket(&at.readiness, 0) && !zero1__readiness_bucket(&at.readiness, 1));
  CHECK(zero1__readiness_mark(&at.readiness, HEAD, ZERO1__GRAD_READY));
  end(&at);
}

/* Without a single gradient there is no bucket, and nothing to wait for. */
static void nothing_trainable_is_ready(void) {
  fixture at;
  const int64_t numel[1] = {300};
  const uint32_t frozen[1] = {ZERO1_PARAM_FROZEN};
  for (int64_t count = 0; count <= 1; ++count) {
    CHECK_STATUS(zero1__layout_create(2, 1024, count, numel, GROUPS, frozen, &at.layout, NULL),
                 ZERO1_OK);
    CHECK_STATUS(zero1__readiness_begin(&at.readiness, &at.layout, NULL), ZERO1_OK);
    CHECK_EQ(at.readiness.waiting, 0);
    CHECK_EQ(zero1__readiness_missing(&at.readiness), -1);
    end(&at);
  }
}

int main(void) {
  RUN(a_bucket_is_ready_with_its_last_gradient);
  RUN(a_gradient_is_marked_once);
  RUN(absent_ones_are_counted_and_complete_a_bucket);
  RUN(nobody_waits_for_one_without_elements);
  RUN(the_lowest_missing_one_is_named);
  RUN(a_new_step_begins_with_nothing);
  RUN(nothing_trainable_is_ready);
  return check_summary();
}
