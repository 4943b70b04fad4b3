/* Streams of the host device: a queue and a worker thread each, so that overlap on the CPU is real;
 * and events between them. The semantics are those of device_ops.h. */
#ifndef ZERO1__STREAM_HOST_H
#define ZERO1__STREAM_HOST_H

#include <stddef.h>

#include "device_ops.h"

/** Bytes of args that a task holds. */
#define ZERO1__TASK_BYTES 192

/** inline_calls: no worker; tasks run on the enqueuing thread, at once. */
zero1_status zero1__stream_create(int inline_calls, zero1__stream **stream, zero1__error *error);
void zero1__stream_destroy(zero1__stream *stream);

/** Enqueues fn(context, copy of args). Waits where the queue is full. */
void zero1__stream_push(zero1__stream *stream, zero1__host_fn fn, void *context, const void *args,
                        size_t args_bytes);

/** Waits until all that was pushed has run. */
void zero1__stream_sync(zero1__stream *stream);

zero1_status zero1__event_create(zero1__event **event, zero1__error *error);
void zero1__event_destroy(zero1__event *event);
void zero1__event_record(zero1__event *event, zero1__stream *stream);
void zero1__stream_wait(zero1__stream *stream, zero1__event *event);
void zero1__event_sync(zero1__event *event);

#endif
