/* What the functions about a device have in common. */

#ifndef DEVICE_H
#define DEVICE_H

#include "scenario.h"

typedef struct device *device;

/* Notes the call. Returns what keeps the function from going on, or SUCCESS. */
int entered(const char *function, const struct gpu *gpu);

static inline int is_instance(device device) { return device != &device->gpu->self; }

/* Returns from the function whatever is not SUCCESS. */
#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        int result_of_call = (call);                                                                                   \
        if (result_of_call) return result_of_call;                                                                     \
    } while (0)

#define ENTER(device) CHECK(entered(__func__, (device)->gpu))

#endif
