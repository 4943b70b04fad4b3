/* What a fuzz target is: libFuzzer's one function. */
#ifndef ZERO1_TESTS_FUZZ_H
#define ZERO1_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/** Takes any bytes. What is wrong ends the process: a sanitizer, or abort. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#endif
