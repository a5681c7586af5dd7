/* What the GPUs draw, exactly, and what their counters make of it. */

#include "scenario.h"

#include <math.h>
#include <pthread.h>

static const double TURN = 6.283185307179586;

static double watts_after(const struct waveform *w, double after) {
    double turns = w->period > 0 ? after / w->period : INFINITY;
    switch (w->shape) {
    case SQUARE: return turns - floor(turns) < w->duty ? w->high : w->low;
    case SINE: return (w->high + w->low) / 2 + (w->high - w->low) / 2 * sin(TURN * turns);
    case RAMP: return turns < 1 ? w->low + (w->high - w->low) * turns : w->high;
    default: return w->high;
    }
}

/* Joules from the waveform's beginning until so many seconds after it. */
static double joules_after(const struct waveform *w, double after) {
    double turns = w->period > 0 ? after / w->period : INFINITY, whole, high;
    switch (w->shape) {
    case SQUARE:
        whole = floor(turns);
        high = whole * w->duty + fmin(turns - whole, w->duty);
        return w->period * (w->high * high + w->low * (turns - high));
    case SINE:
        return after * (w->high + w->low) / 2 + (w->high - w->low) / 2 * w->period / TURN * (1 - cos(TURN * turns));
    case RAMP:
        if (turns >= 1) return w->period * (w->low + w->high) / 2 + w->high * (after - w->period);
        return after * (w->low + (w->high - w->low) * turns / 2);
    default: return w->high * after;
    }
}

double watts(const struct gpu *gpu, double at) {
    double value = 0;
    for (int i = 0; i < gpu->waveforms && gpu->power[i].at <= at; i++)
        value = watts_after(&gpu->power[i], at - gpu->power[i].at);
    return value;
}

double drawn(const struct gpu *gpu, double from, double until) {
    double joules = 0;
    for (int i = 0; i < gpu->waveforms; i++) {
        const struct waveform *w = &gpu->power[i];
        double begin = fmax(from, w->at), end = until;
        if (i + 1 < gpu->waveforms) end = fmin(end, gpu->power[i + 1].at);
        if (end > begin) joules += joules_after(w, end - w->at) - joules_after(w, begin - w->at);
    }
    return joules;
}

/* Joules that the sensor has seen by the end of so many steps: the mean at the end of each stands for all of it. Sums
   are kept, for counters are read in the order of time. */
static double observed(struct gpu *gpu, long steps) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (steps < gpu->observed_steps) gpu->observed_steps = 0, gpu->observed_j = 0;
    while (gpu->observed_steps < steps) {
        double end = gpu->phase + gpu->step * (double)++gpu->observed_steps;
        gpu->observed_j += drawn(gpu, end - gpu->sensor, end) / gpu->sensor * gpu->step;
    }
    double joules = gpu->observed_j;
    pthread_mutex_unlock(&lock);
    return drawn(gpu, 0, gpu->phase) + joules;
}

/* Joules that a counter which never was reset shows then: as of its last movement. */
static double unreset(struct gpu *gpu, double at) {
    if (gpu->step <= 0) return drawn(gpu, 0, at);
    if (at < gpu->phase) return 0;
    long steps = (long)floor((at - gpu->phase) / gpu->step);
    return gpu->sensor > 0 ? observed(gpu, steps) : drawn(gpu, 0, gpu->phase + gpu->step * (double)steps);
}

double counted(struct gpu *gpu, double at) {
    double since = -INFINITY;
    for (int i = 0; i < gpu->resets; i++)
        if (gpu->reset_at[i] <= at) since = gpu->reset_at[i];
    return unreset(gpu, at) - (since > 0 ? unreset(gpu, since) : 0);
}
