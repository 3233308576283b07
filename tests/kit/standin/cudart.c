/* The calls of the CUDA runtime that a kit makes, on the memory of the host: signatures as in cuda_runtime_api.h. */
#include <stdlib.h>
#include <string.h>

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : 7; /* cudaDevAttrComputeCapabilityMajor, else Minor */
    return device;
}
int cudaRuntimeGetVersion(int *version) { *version = 12060; return 0; }
int cudaMalloc(void **address, size_t size) {
    if (size > (size_t)1 << 40) return 2; /* cudaErrorMemoryAllocation */
    *address = malloc(size);
    return 0;
}
int cudaFree(void *address) { free(address); return 0; }
int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
    if (kind != 1 && kind != 2) return 21; /* cudaErrorInvalidMemcpyDirection */
    memcpy(target, source, size);
    return stream == (void *)0x51 ? 0 : 400; /* cudaErrorInvalidResourceHandle */
}
int cudaStreamCreate(void **stream) { *stream = (void *)0x51; return 0; }
int cudaStreamSynchronize(void *stream) { return stream == (void *)0x51 ? 0 : 400; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "invalid"; }
