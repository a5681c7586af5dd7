/* A stand-in for the NVIDIA driver's library, so that GPUs can be accounted for on machines that have none.

   Built as libnvidia-ml.so.1 and found through LD_LIBRARY_PATH by nvidia-ml-py, Ray, CodeCarbon, zeus and our own code.
   What it says comes from the scenario (scenario.c has its words). Signatures, structures and protocols are NVML's;
   nothing can be set. A function that is not here is one that an old driver lacks: Function Not Found. */

#include "device.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { ENERGY = 83, POWER_AVERAGE = 185, POWER_INSTANT = 186, TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };
enum { ARCH_TURING = 6, ARCH_ADA = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;

/* -- the library --------------------------------------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    int result = users ? SUCCESS : read_scenario();
    if (result == SUCCESS) users++;
    pthread_mutex_unlock(&lock);
    return result;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    int result = users ? SUCCESS : UNINITIALIZED;
    if (users) users--;
    pthread_mutex_unlock(&lock);
    return result;
}
const char *nvmlErrorString(int code) {
    return code == NOT_SUPPORTED ? "Not Supported" : code == DRIVER_NOT_LOADED ? "Driver Not Loaded"
         : code == GPU_IS_LOST ? "GPU is lost" : "Unknown Error";
}
static int text(const char *value, char *out, unsigned length) {
    return (unsigned)snprintf(out, length, "%s", value) < length ? SUCCESS : INSUFFICIENT_SIZE;
}
int nvmlSystemGetDriverVersion(char *out, unsigned length) { return text("570.00-standin", out, length); }
int nvmlSystemGetNVMLVersion(char *out, unsigned length) { return text("12.570.00", out, length); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return SUCCESS; }

/* -- devices ------------------------------------------------------------------------------------------------------- */

int entered(const char *function, const struct gpu *gpu) {
    if (!users) return UNINITIALIZED;
    FILE *log = log_path[0] ? fopen(log_path, "a") : NULL;
    if (log) {
        fprintf(log, "%u %s\n", gpu->index, function);
        fclose(log);
    }
    return gpu->lost <= now() ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    if (!users) return UNINITIALIZED;
    *out = gpu_count;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
    if (!users) return UNINITIALIZED;
    if (index >= gpu_count) return INVALID_ARGUMENT;
    ENTER(&gpus[index].self);
    *out = &gpus[index].self;
    return SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
    *out = NULL;
    for (struct gpu *gpu = gpus; gpu < gpus + gpu_count; gpu++) {
        if (!strcmp(gpu->self.uuid, uuid)) *out = &gpu->self;
        for (int i = 0; i < gpu->instance_count; i++)
            if (!strcmp(gpu->instances[i].uuid, uuid)) *out = &gpu->instances[i];
    }
    if (!*out) return users ? NOT_FOUND : UNINITIALIZED;
    ENTER(*out);
    return SUCCESS;
}
int nvmlDeviceGetIndex(device device, unsigned *out) {
    ENTER(device);
    *out = device->gpu->index;
    return SUCCESS;
}
int nvmlDeviceGetUUID(device device, char *out, unsigned length) {
    ENTER(device);
    return text(device->uuid, out, length);
}
int nvmlDeviceGetName(device device, char *out, unsigned length) {
    ENTER(device);
    return text(is_instance(device) ? "NVIDIA H200 MIG 1g.18gb" : device->gpu->name, out, length);
}
int nvmlDeviceGetCudaComputeCapability(device device, int *major, int *minor) {
    ENTER(device);
    *major = device->gpu->major;
    *minor = device->gpu->minor;
    return *major ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetArchitecture(device device, unsigned *out) {
    static const unsigned by_major[] = {[6] = 4, [7] = 5, [8] = 7, [9] = 9, [10] = 10};
    const struct gpu *gpu = device->gpu;
    ENTER(device);
    if (gpu->major < 6 || gpu->major > 10) return NOT_SUPPORTED;
    *out = gpu->major == 7 && gpu->minor == 5 ? ARCH_TURING : gpu->major == 8 && gpu->minor == 9 ? ARCH_ADA
         : by_major[gpu->major];
    return SUCCESS;
}

/* -- MIG ----------------------------------------------------------------------------------------------------------- */

static int can_mig(const struct gpu *gpu) { return gpu->mig || (gpu->major >= 8 && gpu->minor == 0); }

int nvmlDeviceGetMigMode(device device, unsigned *current, unsigned *pending) {
    ENTER(device);
    if (is_instance(device) || !can_mig(device->gpu)) return NOT_SUPPORTED;
    *current = *pending = (unsigned)device->gpu->mig;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(device device, unsigned *out) {
    ENTER(device);
    *out = can_mig(device->gpu) ? MAX_INSTANCES : 0;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(device device, unsigned index, struct device **out) {
    ENTER(device);
    if (!device->gpu->mig) return NOT_SUPPORTED;
    if (index >= (unsigned)device->gpu->instance_count) return NOT_FOUND;
    *out = &device->gpu->instances[index];
    return SUCCESS;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device instance, struct device **out) {
    ENTER(instance);
    if (!is_instance(instance)) return INVALID_ARGUMENT;
    *out = &instance->gpu->self;
    return SUCCESS;
}
int nvmlDeviceIsMigDeviceHandle(device device, unsigned *out) {
    ENTER(device);
    *out = (unsigned)is_instance(device);
    return SUCCESS;
}

/* -- energy and power ---------------------------------------------------------------------------------------------- */

int nvmlDeviceGetTotalEnergyConsumption(device device, unsigned long long *out) {
    double at = now();
    ENTER(device);
    if (is_instance(device)) return NOT_SUPPORTED;
    CHECK(fault_at(&device->gpu->counter, at));
    *out = (unsigned long long)(1e3 * counted(device->gpu, at));
    return SUCCESS;
}

static int power(device device, double seconds, unsigned *out) {
    struct gpu *gpu = device->gpu;
    double at = now(), from = at > seconds ? at - seconds : 0;
    if (is_instance(device)) return NOT_SUPPORTED;
    CHECK(fault_at(&gpu->readings, at));
    *out = fault_at(&gpu->garbage, at) ? UINT32_MAX
         : (unsigned)(1e3 * (seconds > 0 && at > from ? drawn(gpu, from, at) / (at - from) : watts(gpu, at)));
    return SUCCESS;
}
/* The mean of a second from Ampere on, but for GA100; the moment's before. */
int nvmlDeviceGetPowerUsage(device device, unsigned *out) {
    const struct gpu *gpu = device->gpu;
    ENTER(device);
    int averages = gpu->major > 8 || (gpu->major == 8 && gpu->minor > 0);
    return power(device, averages ? 1 : 0, out);
}

struct field {
    uint32_t id, scope; /* scope 0: the GPU, and not its memory alone or the module it is on */
    int64_t timestamp, latency_us;
    int32_t type, result;
    union { double d; unsigned ui; unsigned long long ull; } value;
};
int nvmlDeviceGetFieldValues(device device, int n, struct field *fields) {
    ENTER(device);
    for (struct field *field = fields; field < fields + n; field++) {
        int unsupported = field->scope ? NOT_SUPPORTED : SUCCESS;
        field->timestamp = (int64_t)(1e6 * (now() + start));
        field->type = TYPE_UNSIGNED_INT;
        if (field->id == POWER_INSTANT) {
            int fault = fault_at(&device->gpu->instant, now());
            field->result = unsupported ? unsupported : fault ? fault : power(device, 0, &field->value.ui);
        } else if (field->id == POWER_AVERAGE)
            field->result = unsupported ? unsupported : power(device, 1, &field->value.ui);
        else if (field->id == ENERGY) {
            field->type = TYPE_UNSIGNED_LONG_LONG;
            field->result = nvmlDeviceGetTotalEnergyConsumption(device, &field->value.ull);
        } else
            field->result = NOT_SUPPORTED;
    }
    return SUCCESS;
}

/* -- for tests: the truth behind the counters, at times of the scenario -------------------------------------------- */

double standin_watts(unsigned index, double at) { return watts(&gpus[index], at); }
double standin_joules(unsigned index, double from, double until) { return drawn(&gpus[index], from, until); }
double standin_counter(unsigned index, double at) { return counted(&gpus[index], at); }
