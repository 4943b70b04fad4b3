/* Devices of the stand-in runtime (no GPU), and its configuration. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

/* ---- configuration ---- */

static standin_config config;
static pthread_once_t config_once = PTHREAD_ONCE_INIT;

static long long number(const char *name, long long otherwise) {
  const char *text = getenv(name);
  return text && *text ? strtoll(text, NULL, 10) : otherwise;
}

static bool listed(const char *list, const char *word) {
  const size_t length = strlen(word);
  while (list && *list) {
    const size_t item = strcspn(list, ",");
    if (item == length && !strncmp(list, word, item)) return true;
    list += item + (list[item] == ',');
  }
  return false;
}

static void load(void) {
  static const struct {
    const char *word;
    standin_failure failure;
  } failures[] = {{"no-device", STANDIN_FAIL_NO_DEVICE},
                  {"no-driver", STANDIN_FAIL_NO_DRIVER},
                  {"old-driver", STANDIN_FAIL_OLD_DRIVER},
                  {"ipc", STANDIN_FAIL_IPC},
                  {"peer", STANDIN_FAIL_PEER}};
  const char *list = getenv("ZERO1_STANDIN_FAIL");
  const long long devices = number("ZERO1_STANDIN_DEVICES", 1);
  config.devices = devices < 1                     ? 1
                   : devices > STANDIN_MAX_DEVICES ? STANDIN_MAX_DEVICES
                                                   : (int)devices;
  config.memory_bytes = (size_t)number("ZERO1_STANDIN_MEMORY", 4LL << 30);
  config.delay_us = (uint64_t)number("ZERO1_STANDIN_DELAY_US", 0);
  config.seed = (uint64_t)number("ZERO1_STANDIN_SEED", 1);
  config.failures = 0;
  for (size_t i = 0; i < sizeof failures / sizeof *failures; ++i)
    if (listed(list, failures[i].word)) config.failures |= failures[i].failure;
}

const standin_config *standin_configuration(void) {
  pthread_once(&config_once, load);
  return &config;
}

void standin_reload(void) {
  standin_configuration();
  load();
}

/* ---- devices ---- */

static _Thread_local int current_device;
static _Atomic uint32_t devices_with_peers[STANDIN_MAX_DEVICES];

int standin_device(void) {
  return current_device;
}

static bool is_device(int device) {
  return device >= 0 && device < standin_configuration()->devices;
}

cudaError_t cudaGetDeviceCount(int *count) {
  const cudaError_t error = standin_enter();
  *count = error ? 0 : standin_configuration()->devices;
  return standin_leave(error);
}

cudaError_t cudaGetDevice(int *device) {
  const cudaError_t error = standin_enter();
  if (!error) *device = current_device;
  return standin_leave(error);
}

cudaError_t cudaSetDevice(int device) {
  cudaError_t error = standin_enter();
  if (!error && !is_device(device)) error = cudaErrorInvalidDevice;
  if (!error) current_device = device;
  return standin_leave(error);
}

cudaError_t cudaDriverGetVersion(int *version) {
  const unsigned failures = standin_configuration()->failures;
  *version = failures & STANDIN_FAIL_NO_DRIVER    ? 0
             : failures & STANDIN_FAIL_OLD_DRIVER ? 11000
                                                  : CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
  cudaError_t error = standin_enter();
  if (!error && !is_device(device)) error = cudaErrorInvalidDevice;
  if (error) return standin_leave(error);
  memset(prop, 0, sizeof *prop);
  snprintf(prop->name, sizeof prop->name, "stand-in, no GPU");
  memcpy(prop->uuid.bytes, "zero1 stand-in ", 15);
  prop->uuid.bytes[15] = (char)device;
  prop->totalGlobalMem = standin_configuration()->memory_bytes;
  prop->sharedMemPerBlock = 48 << 10;
  prop->regsPerBlock = 65536;
  prop->warpSize = 32;
  prop->maxThreadsPerBlock = 1024;
  prop->major = 9;
  prop->multiProcessorCount = 4;
  prop->canMapHostMemory = 1;
  prop->concurrentKernels = 1;
  prop->pciBusID = device + 1;
  prop->asyncEngineCount = 2;
  prop->unifiedAddressing = 1;
  prop->l2CacheSize = 1 << 20;
  prop->maxThreadsPerMultiProcessor = 2048;
  prop->streamPrioritiesSupported = 1;
  prop->regsPerMultiprocessor = 65536;
  prop->hostRegisterSupported = 1;
  prop->canUseHostPointerForRegisteredMem = 1;
  return cudaSuccess;
}

static int attribute(enum cudaDeviceAttr attr, int device) {
  switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
      return 1024;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return 48 << 10;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      return 65536;
    case cudaDevAttrMultiProcessorCount:
      return 4;
    case cudaDevAttrPciBusId:
      return device + 1;
    case cudaDevAttrL2CacheSize:
      return 1 << 20;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return 2048;
    case cudaDevAttrAsyncEngineCount:
      return 2;
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrStreamPrioritiesSupported:
    case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrCanUseHostPointerForRegisteredMem:
      return 1;
    case cudaDevAttrGPUDirectRDMAFlushWritesOptions:
      return cudaFlushGPUDirectRDMAWritesOptionHost;
    default:
      return 0; /* it has nothing else */
  }
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device) {
  cudaError_t error = standin_enter();
  if (!error && !is_device(device)) error = cudaErrorInvalidDevice;
  if (!error) *value = attribute(attr, device);
  return standin_leave(error);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
  cudaError_t error = standin_enter();
  if (!error && !is_device(device)) error = cudaErrorInvalidDevice;
  if (!error && snprintf(text, (size_t)length, "0000:%02x:00.0", device + 1) >= length)
    error = cudaErrorInvalidValue;
  return standin_leave(error);
}

/* No network card writes the stand-in's memory: there is nothing to wait for. It says that there
 * is, so that what would have to be called is. */
cudaError_t cudaDeviceFlushGPUDirectRDMAWrites(enum cudaFlushGPUDirectRDMAWritesTarget target,
                                               enum cudaFlushGPUDirectRDMAWritesScope scope) {
  cudaError_t error = standin_enter();
  if (!error && (target != cudaFlushGPUDirectRDMAWritesTargetCurrentDevice ||
                 scope != cudaFlushGPUDirectRDMAWritesToOwner))
    error = cudaErrorInvalidValue;
  return standin_leave(error);
}

/* ---- peers ---- */

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
  cudaError_t error = standin_enter();
  if (!error && (!is_device(device) || !is_device(peer))) error = cudaErrorInvalidDevice;
  if (!error) *can = device != peer && !(standin_configuration()->failures & STANDIN_FAIL_PEER);
  return standin_leave(error);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags) {
  int can = 0;
  cudaError_t error = cudaDeviceCanAccessPeer(&can, current_device, peer);
  if (error) return error;
  if (flags) return standin_leave(cudaErrorInvalidValue);
  if (peer == current_device) return standin_leave(cudaErrorInvalidDevice);
  if (!can) return standin_leave(cudaErrorPeerAccessUnsupported);
  const uint32_t before = atomic_fetch_or_explicit(&devices_with_peers[current_device],
                                                   UINT32_C(1) << peer, memory_order_relaxed);
  return standin_leave(before >> peer & 1 ? cudaErrorPeerAccessAlreadyEnabled : cudaSuccess);
}
