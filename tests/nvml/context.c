/* The functions about what surrounds the joules: limit, temperature, clocks, reasons, processes. */

#include "device.h"

#include <stddef.h>
#include <stdint.h>

enum { CLOCK_MEMORY = 2, DEFAULT_LIMIT_W = 700, LEAST_LIMIT_W = 200 };

static int context(device device, const struct track *track, double otherwise, double unit, unsigned *out) {
    CHECK(fault_at(&device->gpu->context, now()));
    *out = (unsigned)(unit * value_at(track, now(), otherwise));
    return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(device device, unsigned *out) {
    ENTER(device);
    return context(device, &device->gpu->limit, DEFAULT_LIMIT_W, 1e3, out);
}
int nvmlDeviceGetPowerManagementLimit(device device, unsigned *out) {
    return nvmlDeviceGetEnforcedPowerLimit(device, out);
}
int nvmlDeviceGetPowerManagementDefaultLimit(device device, unsigned *out) {
    ENTER(device);
    *out = 1000 * DEFAULT_LIMIT_W;
    return SUCCESS;
}
int nvmlDeviceGetPowerManagementLimitConstraints(device device, unsigned *least, unsigned *most) {
    ENTER(device);
    CHECK(fault_at(&device->gpu->context, now()));
    *least = 1000 * LEAST_LIMIT_W;
    *most = 1000 * DEFAULT_LIMIT_W;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(device device, unsigned sensor_type, unsigned *out) {
    ENTER(device);
    if (sensor_type) return INVALID_ARGUMENT;
    return context(device, &device->gpu->temperature, 45, 1, out);
}
struct temperature { unsigned version, sensor_type; int celsius; };
int nvmlDeviceGetTemperatureV(device device, struct temperature *out) {
    return nvmlDeviceGetTemperature(device, out->sensor_type, (unsigned *)&out->celsius);
}
int nvmlDeviceGetClockInfo(device device, unsigned type, unsigned *out) {
    struct gpu *gpu = device->gpu;
    ENTER(device);
    if (type > CLOCK_MEMORY) return NOT_SUPPORTED;
    return type == CLOCK_MEMORY ? context(device, &gpu->clock_memory, 3201, 1, out)
                                : context(device, &gpu->clock_sm, 1980, 1, out);
}
static int reasons(device device, unsigned long long *out) {
    unsigned bits;
    int result = context(device, &device->gpu->reasons, 0, 1, &bits);
    if (result == SUCCESS) *out = bits;
    return result;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device device, unsigned long long *out) {
    ENTER(device);
    return reasons(device, out);
}
int nvmlDeviceGetCurrentClocksEventReasons(device device, unsigned long long *out) {
    ENTER(device);
    return reasons(device, out);
}

struct process {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};
/* *n is the room in `out` on the way in, and what was or would have been filled on the way out. */
int nvmlDeviceGetComputeRunningProcesses_v3(device device, unsigned *n, struct process *out) {
    struct gpu *gpu = device->gpu;
    const struct processes *list = NULL;
    unsigned room = *n;
    ENTER(device);
    CHECK(fault_at(&gpu->context, now()));
    for (int i = 0; i < gpu->process_lists && gpu->processes[i].at <= now(); i++) list = &gpu->processes[i];
    *n = list ? (unsigned)list->count : 0;
    if (*n > room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *n; i++) out[i] = (struct process){list->pids[i], 1ULL << 30, UINT32_MAX, UINT32_MAX};
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v2(device device, unsigned *n, struct process *out) {
    return nvmlDeviceGetComputeRunningProcesses_v3(device, n, out);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device device, unsigned *n, struct process *out) {
    ENTER(device);
    (void)out;
    *n = 0;
    return SUCCESS;
}
int nvmlDeviceGetComputeMode(device device, unsigned *out) { ENTER(device); *out = 0; return SUCCESS; }
int nvmlDeviceGetPersistenceMode(device device, unsigned *out) { ENTER(device); *out = 1; return SUCCESS; }
int nvmlDeviceSetPersistenceMode(device device, unsigned mode) { ENTER(device); (void)mode; return NO_PERMISSION; }
int nvmlDeviceSetPowerManagementLimit(device device, unsigned limit) {
    ENTER(device);
    (void)limit;
    return NO_PERMISSION;
}
int nvmlDeviceGetC2cModeInfoV(device device, unsigned *out) { ENTER(device); (void)out; return NOT_SUPPORTED; }

struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(device device, struct utilization *out) {
    ENTER(device);
    out->gpu = out->memory = 0;
    return SUCCESS;
}

struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(device device, struct memory *out) {
    ENTER(device);
    out->total = out->free = 141ULL << 30;
    out->used = 0;
    return SUCCESS;
}
