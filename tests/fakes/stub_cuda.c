/* libcuda.so.1 and libcudart.so in one: one GPU whose memory is the host's. Handles lie above 4 GiB, so that a cut-off pointer crashes. */
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
static int capturing;
#define STREAM ((void *)0x7f0000001000ull)
#define GRAPH ((void *)0x7f0000002000ull)
#define EXEC ((void *)0x7f0000003000ull)
#define CHECK(good) return (good) ? 0 : 1

int cuInit(unsigned flags) { CHECK(flags == 0); }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stub GPU", size); CHECK(device == 0); }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; CHECK(device == 0); }

const char *cudaGetErrorString(int code) { return code == 1 ? "stub says no" : "?"; }
int cudaMemGetInfo(size_t *free, size_t *all) { *free = 5ull << 32; *all = 6ull << 32; return 0; }
int cudaMalloc(void **memory, size_t size) { *memory = malloc(size); return 0; }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) { *memory = malloc(size); CHECK(flags == 0); }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = STREAM; CHECK(flags == 1); }
int cudaStreamDestroy(void *stream) { CHECK(stream == STREAM); }
int cudaStreamSynchronize(void *stream) { CHECK(stream == STREAM); }
int cudaMemcpyAsync(void *to, void *from, size_t size, int kind, void *stream) {
    if (!capturing) memcpy(to, from, size);
    CHECK((kind == 1 || kind == 2) && stream == STREAM);
}
int cudaStreamBeginCapture(void *stream, int mode) { capturing = 1; CHECK(stream == STREAM && mode == 1); }
int cudaStreamEndCapture(void *stream, void **graph) { *graph = GRAPH; CHECK(capturing-- && stream == STREAM); }
int cudaGraphInstantiateWithFlags(void **exec, void *graph, u64 flags) { *exec = EXEC; CHECK(graph == GRAPH && flags == 0); }
int cudaGraphDestroy(void *graph) { CHECK(graph == GRAPH); }
int cudaGraphLaunch(void *exec, void *stream) { CHECK(exec == EXEC && stream == STREAM); }
int cudaGraphExecDestroy(void *exec) { CHECK(exec == EXEC); }
