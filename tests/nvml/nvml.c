/* Stands in for NVIDIA's management library, so that GPUs and their faults can be had without a GPU.
 *
 * What it answers stands in the file that NVML_STAND_IN names, which is read at each question: a line each of
 * `name value`, or `name@GPU value` for one GPU alone, which wins. A value `!15` is that error of nvml.h instead of
 * an answer, `hang` waits for ever, `crash` dies. What the file does not name is not supported (error 3).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long big;
typedef struct { big total, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;
typedef struct { unsigned pid; big memory; unsigned instance, compute; } process;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char name[32]; } place;

enum { NOT_SUPPORTED = 3, TOO_SMALL = 7, INVALID = 2 };

static int find(const char *wanted, char *value, size_t size) {
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], name[128];
    int found = 0, begin;
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%127s %n", name, &begin) == 1 && !strcmp(name, wanted)) {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, size, "%s", line + begin);
            found = 1;
        }
    fclose(file);
    return found;
}

/* The answer to a question about a GPU (-1: about none), and 0 or the error. */
static int told(const char *name, int gpu, char *value, size_t size) {
    char exact[128];
    snprintf(exact, sizeof exact, "%s@%d", name, gpu);
    if (!find(exact, value, size) && !find(name, value, size)) return NOT_SUPPORTED;
    if (!strcmp(value, "hang")) for (;;) pause();
    if (!strcmp(value, "crash")) abort();
    return *value == '!' ? atoi(value + 1) : 0;
}

static int gpu_of(void *handle) { return (int)((long)handle - 1); }

static int number(const char *name, void *handle, unsigned *answer) {
    char value[256];
    int error = told(name, gpu_of(handle), value, sizeof value);
    if (!error) *answer = (unsigned)strtoul(value, NULL, 0);
    return error;
}

static int large(const char *name, void *handle, big *answer) {
    char value[256];
    int error = told(name, gpu_of(handle), value, sizeof value);
    if (!error) *answer = strtoull(value, NULL, 0);
    return error;
}

static int text(const char *name, void *handle, char *answer, unsigned size) {
    char value[256];
    int error = told(name, gpu_of(handle), value, sizeof value);
    if (!error) snprintf(answer, size, "%s", value);
    return error;
}

/* Processes are `PID:BYTES` with blanks between; `-` bytes are those that the driver does not tell. */
static int holders(const char *name, void *handle, unsigned *count, process *answer) {
    char value[256], *rest = value, *word;
    unsigned had = *count, has = 0;
    int error = told(name, gpu_of(handle), value, sizeof value);
    if (error) return error;
    while ((word = strtok_r(rest, " ", &rest))) {
        char *bytes = strchr(word, ':');
        if (answer && has < had) {
            memset(&answer[has], 0, sizeof *answer);
            answer[has].pid = (unsigned)atoi(word);
            answer[has].memory = bytes && bytes[1] != '-' ? strtoull(bytes + 1, NULL, 0) : ~0ULL;
        }
        has++;
    }
    *count = has;
    return has > had ? TOO_SMALL : 0;
}

int nvmlInitWithFlags(unsigned flags) {
    char value[256];
    int error = told("init", -1, value, sizeof value);
    (void)flags;
    return error == NOT_SUPPORTED ? 0 : error;
}
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "an error"; }
int nvmlSystemGetDriverVersion(char *answer, unsigned size) { return text("driver", NULL, answer, size); }
int nvmlDeviceGetCount_v2(unsigned *answer) { return number("count", NULL, answer); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    char value[256];
    int error = told("handle", (int)index, value, sizeof value);
    *handle = (void *)(index + 1L);
    return error == NOT_SUPPORTED ? 0 : error;
}

int nvmlDeviceGetName(void *gpu, char *answer, unsigned size) { return text("name", gpu, answer, size); }
int nvmlDeviceGetUUID(void *gpu, char *answer, unsigned size) { return text("uuid", gpu, answer, size); }

int nvmlDeviceGetPciInfo_v3(void *gpu, place *answer) {
    memset(answer, 0, sizeof *answer);
    return text("bus", gpu, answer->name, sizeof answer->name);
}

int nvmlDeviceGetMemoryInfo(void *gpu, memory *answer) {
    int error = large("memory.total", gpu, &answer->total);
    if (!error) error = large("memory.used", gpu, &answer->used);
    answer->free = answer->total - answer->used;
    return error;
}

int nvmlDeviceGetUtilizationRates(void *gpu, rates *answer) {
    answer->memory = 0;
    return number("utilization", gpu, &answer->gpu);
}

int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *answer) {
    (void)sensor;
    return number("temperature", gpu, answer);
}

int nvmlDeviceGetTemperatureThreshold(void *gpu, int kind, unsigned *answer) {
    return kind == 1 ? number("slowdown", gpu, answer) : NOT_SUPPORTED;
}

int nvmlDeviceGetTotalEccErrors(void *gpu, int error, int counter, big *answer) {
    static const char *names[2][2] = {
        {"corrected.volatile", "corrected.aggregate"}, {"uncorrected.volatile", "uncorrected.aggregate"}};
    return large(names[error & 1][counter & 1], gpu, answer);
}

int nvmlDeviceGetRemappedRows(void *gpu, unsigned *right, unsigned *wrong, unsigned *pending, unsigned *failed) {
    char value[256];
    int error = told("remapped", gpu_of(gpu), value, sizeof value);
    if (!error) sscanf(value, "%u %u %u %u", right, wrong, pending, failed);
    return error;
}

int nvmlDeviceGetRetiredPagesPendingStatus(void *gpu, unsigned *answer) {
    return number("retired.pending", gpu, answer);
}

/* An older library knows this only by its older name. */
#ifdef OLD
int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, big *answer) { return large("reasons", gpu, answer); }
#else
int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, big *answer) { return large("reasons", gpu, answer); }
#endif

int nvmlDeviceGetPowerUsage(void *gpu, unsigned *answer) { return number("power", gpu, answer); }
int nvmlDeviceGetEnforcedPowerLimit(void *gpu, unsigned *answer) { return number("power.limit", gpu, answer); }
int nvmlDeviceGetPowerManagementDefaultLimit(void *gpu, unsigned *answer) {
    return number("power.default", gpu, answer);
}
int nvmlDeviceGetCurrPcieLinkGeneration(void *gpu, unsigned *answer) { return number("pcie.generation", gpu, answer); }
int nvmlDeviceGetMaxPcieLinkGeneration(void *gpu, unsigned *answer) {
    return number("pcie.generation.max", gpu, answer);
}
int nvmlDeviceGetCurrPcieLinkWidth(void *gpu, unsigned *answer) { return number("pcie.width", gpu, answer); }
int nvmlDeviceGetMaxPcieLinkWidth(void *gpu, unsigned *answer) { return number("pcie.width.max", gpu, answer); }

/* The links are a word of 1 and 0. */
int nvmlDeviceGetNvLinkState(void *gpu, unsigned link, unsigned *answer) {
    char value[256];
    int error = told("nvlinks", gpu_of(gpu), value, sizeof value);
    if (error) return error;
    if (link >= strlen(value)) return INVALID;
    *answer = value[link] == '1';
    return 0;
}

int nvmlDeviceGetPersistenceMode(void *gpu, unsigned *answer) { return number("persistence", gpu, answer); }
int nvmlDeviceGetPerformanceState(void *gpu, unsigned *answer) { return number("state", gpu, answer); }

int nvmlDeviceGetClockInfo(void *gpu, int kind, unsigned *answer) {
    return kind == 1 ? number("clock", gpu, answer) : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxClockInfo(void *gpu, int kind, unsigned *answer) {
    return kind == 1 ? number("clock.max", gpu, answer) : NOT_SUPPORTED;
}

int nvmlDeviceGetMigMode(void *gpu, unsigned *now, unsigned *pending) {
    char value[256];
    int error = told("mig", gpu_of(gpu), value, sizeof value);
    if (!error) sscanf(value, "%u %u", now, pending);
    return error;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, process *answer) {
    return holders("processes", gpu, count, answer);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *gpu, unsigned *count, process *answer) {
    return holders("graphics", gpu, count, answer);
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *gpu, unsigned *count, process *answer) {
    return holders("mps", gpu, count, answer);
}
