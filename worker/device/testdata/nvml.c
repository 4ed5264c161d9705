// A management library of two GPUs, for tests. A file named by FAKE_NVML_EVENT
// holds what is to happen: "xid N", "ecc" (a double-bit error), "count" (the
// counter of uncorrectable errors is up), "lost".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct dev { int index; } *device;
static struct dev devices[2] = {{0}, {1}};
static const char *uuids[2] = {"GPU-aaaa1111-0000", "GPU-bbbb2222-0000"};

static int wish(char *kind, unsigned long long *n) {
	const char *path = getenv("FAKE_NVML_EVENT");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (f == NULL) return 0;
	int got = fscanf(f, "%15s %llu", kind, n);
	fclose(f);
	return got >= 1;
}
static int lost(void) {
	char kind[16];
	unsigned long long n;
	return wish(kind, &n) && strcmp(kind, "lost") == 0;
}

int nvmlInit_v2(void) { return getenv("FAKE_NVML_INIT") ? atoi(getenv("FAKE_NVML_INIT")) : 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int e) { return e == 999 ? "unknown error" : "some error"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { snprintf(v, n, "580.1"); return 0; }
int nvmlSystemGetCudaDriverVersion(int *v) { *v = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d) { *d = &devices[i]; return 0; }
int nvmlDeviceGetHandleByUUID(const char *u, device *d) {
	for (int i = 0; i < 2; i++)
		if (strcmp(u, uuids[i]) == 0) { *d = &devices[i]; return 0; }
	return 6;
}
int nvmlDeviceGetUUID(device d, char *u, unsigned n) { snprintf(u, n, "%s", uuids[d->index]); return lost() ? 15 : 0; }
int nvmlDeviceGetName(device d, char *s, unsigned n) { snprintf(s, n, "Fake GPU %d", d->index); return 0; }
int nvmlDeviceGetPciInfo_v3(device d, char *info) { snprintf(info + 36, 32, "00000000:0%d:00.0", d->index); return 0; }
int nvmlDeviceGetCudaComputeCapability(device d, int *major, int *minor) { *major = 9, *minor = d->index; return 0; }
int nvmlDeviceGetMemoryInfo(device d, unsigned long long *m) { m[0] = 80ull << 30, m[1] = 79ull << 30, m[2] = 1ull << 30; return 0; }
int nvmlDeviceGetUtilizationRates(device d, unsigned *u) { u[0] = 93, u[1] = 40; return 0; }
int nvmlDeviceGetTemperature(device d, int kind, unsigned *t) { *t = 41; return 0; }
int nvmlDeviceGetPowerUsage(device d, unsigned *p) { *p = 123500; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(device d, unsigned *p) { *p = 700000; return 0; }
int nvmlDeviceGetMemoryBusWidth(device d, unsigned *bits) { *bits = 5120; return 0; }
int nvmlDeviceGetMaxClockInfo(device d, int kind, unsigned *mhz) { *mhz = kind == 2 ? 2619 : 1980; return 0; }
int nvmlDeviceGetEccMode(device d, int *now, int *later) { *now = *later = d->index == 0; return d->index == 0 ? 0 : 3; }
int nvmlDeviceGetTotalEccErrors(device d, int type, int counter, unsigned long long *n) {
	char kind[16];
	unsigned long long x;
	*n = type == 0 ? 5 : 1 + (wish(kind, &x) && strcmp(kind, "count") == 0);
	return 0;
}
int nvmlEventSetCreate(void **s) { *s = malloc(1); return 0; }
int nvmlEventSetFree(void *s) { free(s); return 0; }
int nvmlDeviceRegisterEvents(device d, unsigned long long kinds, void *s) { return d->index == 0 ? 0 : 3; }

struct event { device d; unsigned long long type, data; unsigned gi, ci; };
int nvmlEventSetWait_v2(void *s, struct event *e, unsigned ms) {
	static int done;
	char kind[16];
	unsigned long long n = 0;
	if (!done && wish(kind, &n)) {
		if (strcmp(kind, "lost") == 0) return 15;
		done = 1;
		e->d = &devices[0];
		if (strcmp(kind, "xid") == 0) { e->type = 8, e->data = n; return 0; }
		if (strcmp(kind, "ecc") == 0) { e->type = 2, e->data = 0; return 0; }
	}
	usleep(1000);
	return 10;
}
