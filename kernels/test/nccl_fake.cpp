// Plays NCCL for nccl_test.cpp. NCCL_FAKE says how: "slow" takes a few looks at
// the state, "hang" stays in progress, "remote" fails in operations, "count"
// makes ids that hold the number of communicators that were not freed.
#include <atomic>
#include <cstdlib>
#include <cstring>

namespace {

struct Id {
	char bytes[128];
};
struct Config {
	size_t size;
	unsigned magic, version;
	int blocking;
};
struct Comm {
	int looks = 0; // that are left until what was started is done
};

std::atomic<int> live{0};

bool plays(const char *how) {
	const char *now = getenv("NCCL_FAKE");
	return now != nullptr && strcmp(now, how) == 0;
}

int begin(Comm *c) {
	if (c->looks != 0) {
		return 5; // something goes on: invalid usage
	}
	c->looks = plays("slow") ? 3 : plays("hang") ? -1 : 1;
	return 7;
}

int operate(Comm *c) { return plays("remote") ? 6 : begin(c); }

} // namespace

extern "C" {

int ncclGetVersion(int *v) {
#ifdef OLD
	*v = 21705;
#else
	*v = 22809;
#endif
	return 0;
}
int ncclGetUniqueId(Id *id) {
	memset(id, 7, sizeof *id);
	if (plays("count")) {
		id->bytes[0] = static_cast<char>(live.load());
	}
	return 0;
}
const char *ncclGetErrorString(int result) { return result == 6 ? "remote" : "other"; }
const char *ncclGetLastError(Comm *) { return "a peer has gone"; }
int ncclCommInitRankConfig(Comm **c, int, Id id, int, Config *config) {
	if (config->magic != 0xcafebeef || config->size != 48 || config->blocking != 0 || id.bytes[127] != 7) {
		return 4;
	}
	live++;
	*c = new Comm;
	return begin(*c);
}
int ncclCommGetAsyncError(Comm *c, int *state) {
	if (c->looks > 0) {
		c->looks--;
	}
	*state = c->looks == 0 ? 0 : 7;
	return 0;
}
#ifndef POOR
int ncclCommFinalize(Comm *c) { return begin(c); }
#endif
int ncclCommDestroy(Comm *c) {
	live--;
	delete c;
	return 0;
}
int ncclCommAbort(Comm *c) { return ncclCommDestroy(c); }
int ncclAllReduce(const void *, void *, size_t, int, int, Comm *c, void *) { return operate(c); }
int ncclAllGather(const void *, void *, size_t, int, Comm *c, void *) { return operate(c); }
int ncclReduceScatter(const void *, void *, size_t, int, int, Comm *c, void *) { return operate(c); }
int ncclBroadcast(const void *, void *, size_t, int, int, Comm *c, void *) { return operate(c); }
}
