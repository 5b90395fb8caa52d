// A libcuda that has an H100 and launches nothing: it records the last launch, for tests/launcher.py.
#include <cuda.h>
#include <stdint.h>
#include <string.h>

enum { MOST = 128, THREADS = 1024, H100_SMEM = 227 * 1024 };

struct {
    uint32_t launches, asked, grid[3], block, smem, cooperative;
    uint64_t parameters[MOST];  // each its first 8 bytes
} recorded;

uint32_t parameters = 0;  // of a launch: only the compiled kernel knows how many there are

CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { *version = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { *count = 1; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int number) { *device = number; return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* context) { *context = (CUcontext)1; return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* device) { *device = 0; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t* value, CUlimit limit) { *value = 0; return CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) { return cuCtxGetCurrent(context); }
CUresult cuGetErrorString(CUresult error, const char** text) { *text = "none"; return CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule* module, const void* image) { *module = (CUmodule)2; return CUDA_SUCCESS; }
CUresult cuModuleUnload(CUmodule module) { return CUDA_SUCCESS; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute name, int value) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache config) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction* f, CUmodule module, const char* name) {
    *f = (CUfunction)3;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute name, CUdevice device) {
    switch (name) {
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = H100_SMEM; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = H100_SMEM + 1024; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    default: *value = 65536;
    }
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute name, CUfunction f) {
    *value = name == CU_FUNC_ATTRIBUTE_NUM_REGS ? 168 : name == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? THREADS : 0;
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

// Asked of a tensor that is passed as one; an address is passed as it is.
CUresult cuPointerGetAttribute(void* value, CUpointer_attribute name, CUdeviceptr pointer) {
    recorded.asked++;
    *(CUdeviceptr*)value = pointer;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int* count, CUfunction f, const CUlaunchConfig* launch) {
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* launch, CUfunction f, void** values, void** extra) {
    recorded.launches++;
    recorded.grid[0] = launch->gridDimX;
    recorded.grid[1] = launch->gridDimY;
    recorded.grid[2] = launch->gridDimZ;
    recorded.block = launch->blockDimX;
    recorded.smem = launch->sharedMemBytes;
    recorded.cooperative = 0;
    for (unsigned n = 0; n < launch->numAttrs; n++)
        if (launch->attrs[n].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
            recorded.cooperative = launch->attrs[n].value.cooperative;
    for (uint32_t n = 0; n < parameters && n < MOST; n++) memcpy(&recorded.parameters[n], values[n], 8);
    return CUDA_SUCCESS;
}
