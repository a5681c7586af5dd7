/* A stand-in for the NVIDIA driver's library, so that GPUs can be accounted for on machines that have none.

   Built as libnvidia-ml.so.1 and found through LD_LIBRARY_PATH by nvidia-ml-py, by Ray and by our own code. What it
   says comes from the file that NVML_SCENARIO names, read at the first nvmlInit; without that file there is no driver.
   A line is a word and its values; times are seconds since `start`, which is on CLOCK_MONOTONIC so that all processes
   of the machine see the same GPUs:

     start 12345.6               when time 0 was; default: when the machine was booted
     step 0.1                    the energy counters move once in so many seconds
     gpu GPU-uuid WATTS          a GPU, in the order of NVML's indices, drawing so much from time 0 on
     power INDEX SECONDS WATTS   from then on that GPU draws so much; in the order of time
     reset INDEX SECONDS         its counter starts again from zero
     capability INDEX MAJOR MINOR   its compute capability, if not 9 0; 0 0 means that it cannot be read
     fail INDEX CODE             its counter cannot be read: an nvmlReturn_t, such as 3 for not supported, 15 for lost

   To widen it: a new word in read_scenario, a field in struct gpu, a function below. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9 };
enum { MAX_GPUS = 16, MAX_EVENTS = 64, FIELD_ENERGY = 83, FIELD_POWER_INSTANT = 186, TYPE_UNSIGNED_INT = 1,
       TYPE_UNSIGNED_LONG_LONG = 3 };

struct gpu {
    char uuid[96];
    unsigned index;
    int major, minor;                                /* compute capability */
    int fail;                                        /* what reading the counter returns, if not SUCCESS */
    int powers, resets;
    double power_at[MAX_EVENTS], watts[MAX_EVENTS];  /* drawn from that time on */
    double reset_at[MAX_EVENTS];
};

static struct gpu gpus[MAX_GPUS];
static unsigned count;
static double start, step = 0.1;
static int users;

/* -- the scenario --------------------------------------------------------------------------------------------------- */

static struct gpu *numbered(unsigned index) { return index < count ? &gpus[index] : NULL; }

static void malformed(const char *line) {
    fprintf(stderr, "NVML_SCENARIO: cannot read: %s\n", line);
    abort(); /* a test must not go on with other GPUs than it asked for */
}

static void read_line(const char *line) {
    char word[16], uuid[96];
    unsigned index;
    double a, b;
    if (sscanf(line, "%15s", word) != 1 || word[0] == '#') return;
    if (sscanf(line, "start %lf", &a) == 1) start = a;
    else if (sscanf(line, "step %lf", &a) == 1) step = a;
    else if (sscanf(line, "gpu %95s %lf", uuid, &a) == 2 && count < MAX_GPUS) {
        struct gpu *gpu = &gpus[count];
        memset(gpu, 0, sizeof *gpu);
        strcpy(gpu->uuid, uuid);
        gpu->index = count++;
        gpu->major = 9;
        gpu->watts[gpu->powers++] = a;
    } else if (sscanf(line, "power %u %lf %lf", &index, &a, &b) == 3 && numbered(index)
               && gpus[index].powers < MAX_EVENTS) {
        struct gpu *gpu = &gpus[index];
        gpu->power_at[gpu->powers] = a;
        gpu->watts[gpu->powers++] = b;
    } else if (sscanf(line, "reset %u %lf", &index, &a) == 2 && numbered(index) && gpus[index].resets < MAX_EVENTS)
        gpus[index].reset_at[gpus[index].resets++] = a;
    else if (sscanf(line, "capability %u %lf %lf", &index, &a, &b) == 3 && numbered(index)) {
        gpus[index].major = (int)a;
        gpus[index].minor = (int)b;
    } else if (sscanf(line, "fail %u %lf", &index, &a) == 2 && numbered(index)) gpus[index].fail = (int)a;
    else malformed(line);
}

static int read_scenario(void) {
    const char *path = getenv("NVML_SCENARIO");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    if (!file) return DRIVER_NOT_LOADED;
    count = 0;
    while (fgets(line, sizeof line, file)) read_line(line);
    fclose(file);
    return SUCCESS;
}

/* -- what the GPUs draw --------------------------------------------------------------------------------------------- */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec - start;
}

static double watts(const struct gpu *gpu, double at) {
    double value = 0;
    for (int i = 0; i < gpu->powers; i++)
        if (gpu->power_at[i] <= at) value = gpu->watts[i];
    return value;
}

/* Joules drawn from time 0 until then. */
static double drawn(const struct gpu *gpu, double until) {
    double joules = 0;
    for (int i = 0; i < gpu->powers; i++) {
        double end = i + 1 < gpu->powers && gpu->power_at[i + 1] < until ? gpu->power_at[i + 1] : until;
        if (end > gpu->power_at[i]) joules += gpu->watts[i] * (end - gpu->power_at[i]);
    }
    return joules;
}

/* What the counter shows, in millijoules: since the last reset, as of the last step. */
static int counter(const struct gpu *gpu, unsigned long long *millijoules) {
    double at = now(), since = 0;
    if (gpu->fail) return gpu->fail;
    for (int i = 0; i < gpu->resets; i++)
        if (gpu->reset_at[i] <= at) since = gpu->reset_at[i];
    if (step > 0) at = step * (double)(long long)(at / step);
    *millijoules = at > since ? (unsigned long long)(1e3 * (drawn(gpu, at) - drawn(gpu, since))) : 0;
    return SUCCESS;
}

/* -- NVML ----------------------------------------------------------------------------------------------------------- */

typedef struct gpu *device;

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int result = users ? SUCCESS : read_scenario();
    if (result == SUCCESS) users++;
    return result;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    if (!users) return UNINITIALIZED;
    users--;
    return SUCCESS;
}
const char *nvmlErrorString(int code) {
    return code == NOT_SUPPORTED ? "Not Supported" : code == DRIVER_NOT_LOADED ? "Driver Not Loaded"
         : code == 15 ? "GPU is lost" : "Unknown Error";
}
static int text(const char *value, char *out, unsigned length) {
    snprintf(out, length, "%s", value);
    return SUCCESS;
}
int nvmlSystemGetDriverVersion(char *out, unsigned length) { return text("570.00-standin", out, length); }
int nvmlSystemGetNVMLVersion(char *out, unsigned length) { return text("12.570.00", out, length); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *out) {
    if (!users) return UNINITIALIZED;
    *out = count;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
    if (!users) return UNINITIALIZED;
    *out = numbered(index);
    return *out ? SUCCESS : INVALID_ARGUMENT;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
    for (unsigned i = 0; i < count; i++)
        if (!strcmp(gpus[i].uuid, uuid)) { *out = &gpus[i]; return SUCCESS; }
    return NOT_FOUND;
}
int nvmlDeviceGetIndex(device gpu, unsigned *out) { *out = gpu->index; return SUCCESS; }
int nvmlDeviceGetUUID(device gpu, char *out, unsigned length) { return text(gpu->uuid, out, length); }
int nvmlDeviceGetName(device gpu, char *out, unsigned length) { (void)gpu; return text("NVIDIA H200", out, length); }

int nvmlDeviceGetCudaComputeCapability(device gpu, int *major, int *minor) {
    *major = gpu->major;
    *minor = gpu->minor;
    return gpu->major ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetTotalEnergyConsumption(device gpu, unsigned long long *out) {
    return users ? counter(gpu, out) : UNINITIALIZED;
}
int nvmlDeviceGetPowerUsage(device gpu, unsigned *out) { *out = (unsigned)(1e3 * watts(gpu, now())); return SUCCESS; }
int nvmlDeviceGetEnforcedPowerLimit(device gpu, unsigned *out) { (void)gpu; *out = 700000; return SUCCESS; }
int nvmlDeviceGetPowerManagementLimit(device gpu, unsigned *out) { return nvmlDeviceGetEnforcedPowerLimit(gpu, out); }
int nvmlDeviceGetTemperature(device gpu, unsigned sensor, unsigned *out) {
    (void)gpu, (void)sensor;
    *out = 45;
    return SUCCESS;
}
int nvmlDeviceGetComputeMode(device gpu, unsigned *out) { (void)gpu; *out = 0; return SUCCESS; }
int nvmlDeviceGetMigMode(device gpu, unsigned *current, unsigned *pending) {
    (void)gpu, (void)current, (void)pending;
    return NOT_SUPPORTED;
}

struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(device gpu, struct utilization *out) {
    (void)gpu;
    out->gpu = out->memory = 0;
    return SUCCESS;
}

struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(device gpu, struct memory *out) {
    (void)gpu;
    out->total = out->free = 141ULL << 30;
    out->used = 0;
    return SUCCESS;
}

static int no_processes(unsigned *processes) { *processes = 0; return SUCCESS; }
int nvmlDeviceGetComputeRunningProcesses_v3(device gpu, unsigned *n, void *out) {
    (void)gpu, (void)out;
    return no_processes(n);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device gpu, unsigned *n, void *out) {
    (void)gpu, (void)out;
    return no_processes(n);
}

struct field {
    uint32_t id, scope;
    int64_t timestamp, latency_us;
    int32_t type, result;
    union { double d; unsigned ui; unsigned long long ull; } value;
};
int nvmlDeviceGetFieldValues(device gpu, int n, struct field *fields) {
    for (struct field *field = fields; field < fields + n; field++) {
        field->timestamp = (int64_t)(1e6 * (now() + start));
        if (field->id == FIELD_ENERGY) {
            field->type = TYPE_UNSIGNED_LONG_LONG;
            field->result = counter(gpu, &field->value.ull);
        } else if (field->id == FIELD_POWER_INSTANT) {
            field->type = TYPE_UNSIGNED_INT;
            field->result = nvmlDeviceGetPowerUsage(gpu, &field->value.ui);
        } else
            field->result = NOT_SUPPORTED;
    }
    return SUCCESS;
}
