/* What the stand-in knows of the machine it plays; scenario.c reads it, power.c integrates it, nvml.c tells it. */

#ifndef SCENARIO_H
#define SCENARIO_H

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };
enum { MAX_GPUS = 16, MAX_EVENTS = 64, MAX_INSTANCES = 7, MAX_PROCESSES = 16, NAME_SIZE = 96 };

enum shape { CONSTANT, SQUARE, SINE, RAMP };

/* Power from a time on. */
struct waveform {
    enum shape shape;
    double at, period, duty, high, low; /* constant: high alone; ramp: from low to high within period */
};

/* A quantity that jumps at times. */
struct track {
    int events;
    double at[MAX_EVENTS], value[MAX_EVENTS];
};

/* What a call returns between two times, if not SUCCESS. */
struct fault {
    int code;
    double from, until;
};

struct processes {
    int count;
    double at;
    unsigned pids[MAX_PROCESSES];
};

struct gpu;

/* What nvmlDevice_t points to: a GPU or, with a UUID of its own, one of its MIG instances. */
struct device {
    struct gpu *gpu;
    char uuid[NAME_SIZE];
};

struct gpu {
    struct device self, instances[MAX_INSTANCES];
    int mig, instance_count;
    unsigned index;
    int major, minor; /* compute capability */
    char name[NAME_SIZE];
    double step, phase, sensor; /* of the counter; not a number where the machine's hold */
    double lost; /* from when on */
    int waveforms, resets, process_lists;
    struct waveform power[MAX_EVENTS];
    double reset_at[MAX_EVENTS];
    struct fault counter, readings, instant, context, garbage;
    struct track limit, temperature, clock_sm, clock_memory, reasons;
    struct processes processes[MAX_EVENTS];
    double observed_j; /* the sensor's joules as of so many steps: see power.c */
    long observed_steps;
};

extern struct gpu gpus[MAX_GPUS];
extern unsigned gpu_count;
extern double start, step, phase, sensor;
extern char log_path[256];

int read_scenario(void);                                     /* SUCCESS or why there is no driver */
double now(void);                                            /* seconds since start */
double value_at(const struct track *track, double at, double otherwise);
int fault_at(const struct fault *fault, double at);          /* SUCCESS or what the call returns */

double watts(const struct gpu *gpu, double at);
double drawn(const struct gpu *gpu, double from, double until); /* joules in truth */
double counted(struct gpu *gpu, double at);                  /* joules on the counter, resets and sensor included */

#endif
