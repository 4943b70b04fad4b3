/* Numbers as people read and write them. */
#ifndef ZERO1_COMMAND_SIZE_H
#define ZERO1_COMMAND_SIZE_H

#include <stdint.h>

#define SIZE_TEXT_BYTES 32

/** "9.2 MiB" */
const char *size_text(double bytes, char text[SIZE_TEXT_BYTES]);

/** "5 min": one unit, rounded down; "now" for what is not over. */
const char *age_text(int64_t seconds, char text[SIZE_TEXT_BYTES]);

/** Of a number of the fewest digits that give the same one again: "0.1". */
const char *real_text(double value, char text[SIZE_TEXT_BYTES]);

/** "5GB", "512MiB", "1000000": a whole number of bytes, or of units of 1000 or 1024. 0 where the
 *  text is none, or is 0 or too much. */
int size_parse(const char *text, int64_t *bytes);

#endif
