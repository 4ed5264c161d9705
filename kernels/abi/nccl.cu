#include "nccl.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace chorale::nccl {

namespace {

// Milliseconds for the others to leave too: who has gone will not.
constexpr int kLeaving = 2000;

[[noreturn]] void missing(const std::string &text) { throw Failure{true, text}; }

// places lists names for dlopen: the loader's path, the folder of this library,
// and the toolkit's default.
std::vector<std::string> places() {
	const std::string name = "libnccl.so.2";
	std::vector<std::string> out = {name};
	Dl_info self;
	if (dladdr(reinterpret_cast<const void *>(&places), &self) != 0 && self.dli_fname != nullptr) {
		const std::string path = self.dli_fname;
		out.push_back(path.substr(0, path.rfind('/') + 1) + name);
	}
	out.push_back("/usr/local/cuda/lib64/" + name);
	return out;
}

void *load(const char *path) {
	if (path != nullptr && *path != 0) {
		void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		if (library == nullptr) {
			missing(std::string("NCCL cannot be loaded: ") + dlerror());
		}
		return library;
	}
	for (const std::string &place : places()) {
		if (void *library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) {
			return library;
		}
	}
	missing("libnccl.so.2 is not found: install NVIDIA's NCCL, or name the file in CHORALE_NCCL");
}

template <class F> void bind(void *library, F *&f, const char *name) {
	f = reinterpret_cast<F *>(dlsym(library, name));
	if (f == nullptr) {
		missing(std::string("the NCCL library has no ") + name + ": it is too old, 2.18 or newer is needed");
	}
}

Library bind_all(void *library) {
	Library l;
#define CH_BIND(name) bind(library, l.name, "nccl" #name)
	CH_BIND(GetVersion);
	const int v = version(l);
	if (v < kOldest) {
		missing("NCCL " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + " is too old: 2.18 or newer is needed");
	}
	CH_BIND(GetUniqueId);
	CH_BIND(GetErrorString);
	CH_BIND(GetLastError);
	CH_BIND(CommInitRankConfig);
	CH_BIND(CommGetAsyncError);
	CH_BIND(CommFinalize);
	CH_BIND(CommDestroy);
	CH_BIND(CommAbort);
	CH_BIND(AllReduce);
	CH_BIND(AllGather);
	CH_BIND(ReduceScatter);
	CH_BIND(Broadcast);
#undef CH_BIND
	return l;
}

} // namespace

const Library &open(const char *path) {
	static std::mutex mu;
	static std::unique_ptr<Library> loaded;
	std::lock_guard<std::mutex> lock(mu);
	if (!loaded) {
		loaded = std::make_unique<Library>(bind_all(load(path)));
	}
	return *loaded;
}

// version in the numbering since 2.9; before, hundreds were the major one.
int version(const Library &l) {
	int v = 0;
	if (l.GetVersion(&v) != kSuccess) {
		missing("NCCL does not tell its version");
	}
	return v < 10000 ? v / 1000 * 10000 + v % 1000 : v;
}

Id new_id(const Library &l) {
	Id id;
	const int result = l.GetUniqueId(&id);
	if (result != kSuccess) {
		throw Failure{false, std::string("NCCL id: ") + l.GetErrorString(result) + ": " + l.GetLastError(nullptr)};
	}
	return id;
}

Comm::Comm(const Library &l, int size, int rank, const Id &id, int timeout_ms) : size(size), rank(rank), l(l), id(id), timeout_ms(timeout_ms) {}

void Comm::init() {
	std::unique_lock<std::mutex> lock(mu);
	Config config;
	const int result = l.CommInitRankConfig(&comm, size, id, rank, &config);
	settle(lock, "joining", result, timeout_ms);
}

// settle waits until what was started is under way on the device, or the group
// is set up. Abort gets in between.
void Comm::settle(std::unique_lock<std::mutex> &lock, const char *what, int result, int most_ms) {
	const auto start = std::chrono::steady_clock::now();
	for (int looks = 0; result == kInProgress; looks++) {
		if (comm != nullptr && l.CommGetAsyncError(comm, &result) != kSuccess) {
			failed(what, result);
		}
		if (result != kInProgress) {
			break;
		}
		if (std::chrono::steady_clock::now() - start > std::chrono::milliseconds(most_ms)) {
			abort_locked();
			throw Failure{false, std::string(what) + ": not all ranks came within " + std::to_string(most_ms) + " ms"};
		}
		lock.unlock();
		std::this_thread::sleep_for(std::chrono::microseconds(looks < 100 ? 1 : 200));
		lock.lock();
		if (aborted) {
			throw Failure{false, std::string(what) + ": the group was aborted"};
		}
	}
	if (result != kSuccess) {
		failed(what, result);
	}
}

// failed ends the communicator.
void Comm::failed(const char *what, int result) {
	std::string text = std::string(what) + ": NCCL: " + l.GetErrorString(result);
	if (const char *last = l.GetLastError(comm); last != nullptr && *last != 0) {
		text += std::string(": ") + last;
	}
	abort_locked();
	throw Failure{false, text};
}

void Comm::check() {
	std::unique_lock<std::mutex> lock(mu);
	if (aborted || comm == nullptr) {
		throw Failure{false, "the group was aborted"};
	}
	int state = kSuccess;
	const int result = l.CommGetAsyncError(comm, &state);
	if (result != kSuccess || (state != kSuccess && state != kInProgress)) {
		failed("the group", result != kSuccess ? result : state);
	}
}

// abort_locked stops what runs on the device and frees the communicator, on a
// thread of its own: NCCL stops at once but returns only when no graph holds its
// operations any more, and who waits here may be the one to destroy them.
void Comm::abort_locked() {
	aborted = true;
	if (comm != nullptr) {
		auto done = std::make_shared<std::promise<void>>();
		ending = done->get_future();
		std::thread([&l = l, comm = comm, done] {
			l.CommAbort(comm);
			done->set_value();
		}).detach();
		comm = nullptr;
	}
}

void Comm::abort() {
	aborted = true; // who waits gives up
	std::unique_lock<std::mutex> lock(mu);
	abort_locked();
}

void Comm::close() {
	const int leaving = std::min(timeout_ms, kLeaving);
	std::unique_lock<std::mutex> lock(mu);
	try {
		if (comm != nullptr) {
			settle(lock, "leaving", l.CommFinalize(comm), leaving);
		}
		if (comm != nullptr) {
			l.CommDestroy(comm);
			comm = nullptr;
		}
	} catch (const Failure &) {
		abort_locked(); // the others have gone: so be it
	}
	aborted = true;
	if (ending.valid()) { // in the worst case it stays behind
		ending.wait_for(std::chrono::milliseconds(leaving));
	}
}

template <class F> void Comm::start(const char *what, F f) {
	std::unique_lock<std::mutex> lock(mu);
	if (aborted || comm == nullptr) {
		throw Failure{false, std::string(what) + ": the group was aborted"};
	}
	settle(lock, what, f(), timeout_ms);
}

void Comm::all_reduce(void *data, size_t count, int type, Stream s) {
	all_reduces++;
	start("all-reduce", [&] { return l.AllReduce(data, data, count, type, kSum, comm, s); });
}

void Comm::all_gather(const void *src, void *dst, size_t count, int type, Stream s) {
	all_gathers++;
	start("all-gather", [&] { return l.AllGather(src, dst, count, type, comm, s); });
}

void Comm::reduce_scatter(const void *src, void *dst, size_t count, int type, Stream s) {
	reduce_scatters++;
	start("reduce-scatter", [&] { return l.ReduceScatter(src, dst, count, type, kSum, comm, s); });
}

void Comm::broadcast(void *data, size_t count, int type, int root, Stream s) {
	broadcasts++;
	start("broadcast", [&] { return l.Broadcast(data, data, count, type, root, comm, s); });
}

} // namespace chorale::nccl
