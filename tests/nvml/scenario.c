/* Reads the scenario: the file that NVML_SCENARIO names, at the first nvmlInit. Without it there is no driver.

   A line is a word and its values; # begins a comment. Times are seconds since `start`, which is on CLOCK_MONOTONIC so
   that all processes of the machine see the same GPUs. INDEX is NVML's. Lines about a GPU follow its `gpu` line; of the
   same word they are in the order of time. What ends in [UNTIL] lasts for ever without it.

   The machine
     start 12345.6                    when time 0 was; default: when the machine was booted
     step SECONDS [INDEX]             the energy counters, or one GPU's, move once in so many seconds; default 0.1
     phase SECONDS [INDEX]            they move at that time for the first time, less than a step; default 0
     sensor SECONDS [INDEX]           the sensor observes only the end of each step, so many seconds (A100 and H100:
                                      0.025), and the counter moves by that mean times the step; default 0: all of it
     log FILE                         each call that asks a device for something appends a line: index, function

   GPUs and what they draw
     gpu UUID WATTS                   a GPU, in the order of NVML's indices, drawing so much from time 0 on
     power INDEX SECONDS WATTS        from then on that GPU draws so much
     square INDEX SECONDS PERIOD DUTY HIGH LOW   bursts: HIGH for the first DUTY (0 to 1) of each period, then LOW
     sine INDEX SECONDS PERIOD HIGH LOW          between LOW and HIGH, beginning in the middle, upwards
     ramp INDEX SECONDS PERIOD LOW HIGH          from LOW to HIGH within PERIOD, and HIGH after that
     mig INDEX [UUID]                 MIG is on, with one more instance of this UUID (MIG-...)
     name INDEX PRODUCT NAME          if not NVIDIA H200
     capability INDEX MAJOR MINOR     compute capability, if not 9 0; 0 0 means that it cannot be read

   What fails
     lost INDEX SECONDS               the GPU is off the bus from then on: every call returns 15. It is still counted
     reset INDEX SECONDS              its counter starts again from zero
     fail INDEX CODE [FROM [UNTIL]]           reading the counter returns this nvmlReturn_t; 3: there is none
     fail-power INDEX CODE [FROM [UNTIL]]     reading power does, both ways
     fail-instant INDEX CODE [FROM [UNTIL]]   reading the field of instant power does
     fail-context INDEX CODE [FROM [UNTIL]]   reading limit, temperature, clocks, reasons and processes does
     garbage INDEX FROM [UNTIL]       power reads as 0xFFFFFFFF mW, without an error

   What surrounds the joules, each from a time on
     limit INDEX SECONDS WATTS        enforced power limit; default 700
     temperature INDEX SECONDS C      default 45
     clocks INDEX SECONDS SM MEMORY   in MHz; default 1980 3201
     reasons INDEX SECONDS BITS       throttle reasons as nvmlClocksEventReasons, such as 0x4; default 0
     processes INDEX SECONDS [PID..]  that hold a compute context on it; default none

   To widen it: a new word in read_line, a field in scenario.h, a function in nvml.c. */

#include "scenario.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct gpu gpus[MAX_GPUS];
unsigned gpu_count;
double start, step, phase, sensor;
char log_path[256];

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec - start;
}

double value_at(const struct track *track, double at, double otherwise) {
    for (int i = 0; i < track->events && track->at[i] <= at; i++) otherwise = track->value[i];
    return otherwise;
}

int fault_at(const struct fault *fault, double at) {
    return fault->from <= at && at < fault->until ? fault->code : SUCCESS;
}

static int add_gpu(const char *uuid, double power) {
    if (gpu_count == MAX_GPUS) return 0;
    struct gpu *gpu = &gpus[gpu_count];
    memset(gpu, 0, sizeof *gpu);
    gpu->self.gpu = gpu;
    snprintf(gpu->self.uuid, sizeof gpu->self.uuid, "%s", uuid);
    gpu->index = gpu_count++;
    gpu->major = 9;
    snprintf(gpu->name, sizeof gpu->name, "NVIDIA H200");
    gpu->step = gpu->phase = gpu->sensor = NAN;
    gpu->lost = INFINITY;
    gpu->power[gpu->waveforms++] = (struct waveform){CONSTANT, .high = power};
    return 1;
}

static int add_waveform(struct gpu *gpu, struct waveform waveform) {
    if (gpu->waveforms == MAX_EVENTS) return 0;
    gpu->power[gpu->waveforms++] = waveform;
    return 1;
}

static int add_event(struct track *track, double at, double value) {
    if (track->events == MAX_EVENTS) return 0;
    track->at[track->events] = at;
    track->value[track->events++] = value;
    return 1;
}

static int add_instance(struct gpu *gpu, const char *uuid) {
    gpu->mig = 1;
    if (!*uuid) return 1;
    if (gpu->instance_count == MAX_INSTANCES) return 0;
    struct device *instance = &gpu->instances[gpu->instance_count++];
    instance->gpu = gpu;
    snprintf(instance->uuid, sizeof instance->uuid, "%s", uuid);
    return 1;
}

static int add_processes(struct gpu *gpu, double at, char *rest) {
    if (gpu->process_lists == MAX_EVENTS) return 0;
    struct processes *list = &gpu->processes[gpu->process_lists++];
    list->at = at;
    for (char *pid = strtok(rest, " \t\n"); pid && list->count < MAX_PROCESSES; pid = strtok(NULL, " \t\n"))
        list->pids[list->count++] = (unsigned)strtoul(pid, NULL, 10);
    return 1;
}

static struct fault *fault_named(struct gpu *gpu, const char *word) {
    return !strcmp(word, "fail")           ? &gpu->counter
           : !strcmp(word, "fail-power")   ? &gpu->readings
           : !strcmp(word, "fail-instant") ? &gpu->instant
           : !strcmp(word, "fail-context") ? &gpu->context
                                           : NULL;
}

/* Of the machine, or of one GPU. */
static int set(double *machine, size_t offset, const char *values) {
    double value;
    unsigned index;
    int found = sscanf(values, "%lf %u", &value, &index);
    if (found == 2 && index < gpu_count) *(double *)((char *)&gpus[index] + offset) = value;
    else if (found == 1) *machine = value;
    return found == 1 || (found == 2 && index < gpu_count);
}

static int read_line_of_gpu(struct gpu *gpu, const char *word, char *values) {
    double a = 0, b = 0, c = 0, d = 0, e = 0;
    int found = sscanf(values, "%lf %lf %lf %lf %lf", &a, &b, &c, &d, &e), pids_at = 0;
    struct fault *fault = fault_named(gpu, word);
    char uuid[NAME_SIZE] = "";
    unsigned bits;
    if (fault && found >= 1) {
        *fault = (struct fault){(int)a, found > 1 ? b : -INFINITY, found > 2 ? c : INFINITY};
        return 1;
    }
#define IS(name, values_wanted) (!strcmp(word, name) && found >= (values_wanted))
    if (IS("power", 2)) return add_waveform(gpu, (struct waveform){CONSTANT, .at = a, .high = b});
    if (IS("square", 5)) return add_waveform(gpu, (struct waveform){SQUARE, a, b, c, .high = d, .low = e});
    if (IS("sine", 4)) return add_waveform(gpu, (struct waveform){SINE, a, b, .high = c, .low = d});
    if (IS("ramp", 4)) return add_waveform(gpu, (struct waveform){RAMP, a, b, .low = c, .high = d});
    if (IS("limit", 2)) return add_event(&gpu->limit, a, b);
    if (IS("temperature", 2)) return add_event(&gpu->temperature, a, b);
    if (IS("clocks", 3)) return add_event(&gpu->clock_sm, a, b) && add_event(&gpu->clock_memory, a, c);
    if (IS("reasons", 1) && sscanf(values, "%*f %i", (int *)&bits) == 1) return add_event(&gpu->reasons, a, bits);
    if (IS("processes", 1) && sscanf(values, "%*f%n", &pids_at) == 0) return add_processes(gpu, a, values + pids_at);
    if (IS("reset", 1) && gpu->resets < MAX_EVENTS) return gpu->reset_at[gpu->resets++] = a, 1;
    if (IS("lost", 1)) return gpu->lost = a, 1;
    if (IS("garbage", 1)) return gpu->garbage = (struct fault){1, a, found > 1 ? b : INFINITY}, 1;
    if (IS("capability", 2)) return gpu->major = (int)a, gpu->minor = (int)b, 1;
#undef IS
    if (!strcmp(word, "name")) return sscanf(values, " %95[^\n]", gpu->name) == 1;
    if (!strcmp(word, "mig")) return sscanf(values, "%95s", uuid), add_instance(gpu, uuid);
    return 0;
}

/* Whether the line could be read. */
static int read_line(char *line) {
    char word[16], uuid[NAME_SIZE];
    int values = 0, rest = 0;
    unsigned index;
    double power;
    if (sscanf(line, "%15s%n", word, &values) != 1 || word[0] == '#') return 1;
    line += values;
    if (!strcmp(word, "start")) return sscanf(line, "%lf", &start) == 1;
    if (!strcmp(word, "step")) return set(&step, offsetof(struct gpu, step), line);
    if (!strcmp(word, "phase")) return set(&phase, offsetof(struct gpu, phase), line);
    if (!strcmp(word, "sensor")) return set(&sensor, offsetof(struct gpu, sensor), line);
    if (!strcmp(word, "log")) return sscanf(line, "%255s", log_path) == 1;
    if (!strcmp(word, "gpu")) return sscanf(line, "%95s %lf", uuid, &power) == 2 && add_gpu(uuid, power);
    return sscanf(line, "%u%n", &index, &rest) == 1 && index < gpu_count
           && read_line_of_gpu(&gpus[index], word, line + rest);
}

int read_scenario(void) {
    const char *path = getenv("NVML_SCENARIO");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    if (!file) return DRIVER_NOT_LOADED;
    gpu_count = 0;
    start = phase = sensor = 0;
    step = 0.1;
    log_path[0] = '\0';
    while (fgets(line, sizeof line, file))
        if (!read_line(line)) {
            fprintf(stderr, "NVML_SCENARIO: cannot read: %s\n", line);
            abort(); /* a test must not go on with other GPUs than it asked for */
        }
    fclose(file);
    for (struct gpu *gpu = gpus; gpu < gpus + gpu_count; gpu++) {
        if (isnan(gpu->step)) gpu->step = step;
        if (isnan(gpu->phase)) gpu->phase = phase;
        if (isnan(gpu->sensor)) gpu->sensor = sensor;
    }
    return SUCCESS;
}
