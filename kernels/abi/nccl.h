// The part of NCCL that is used, loaded at run time: neither the library nor its
// header is needed to build. Numbers are those of NVIDIA's documentation; they
// have been the same since 2.18. Nothing here needs CUDA to compile.
#pragma once

#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <future>
#include <mutex>
#include <string>

namespace chorale::nccl {

using Handle = void *;
using Stream = void *; // cudaStream_t

struct Id {
	char bytes[128];
};

// Config as of 2.18; the size tells newer libraries what is there.
struct Config {
	size_t size = sizeof(Config);
	uint32_t magic = 0xcafebeef;
	uint32_t version = 21800;
	int blocking = 0;
	int cga_cluster = INT_MIN, min_ctas = INT_MIN, max_ctas = INT_MIN; // NCCL chooses
	const char *net = nullptr;
	int split_share = INT_MIN;
};

constexpr int kOldest = 21800;
constexpr int kSuccess = 0, kRemote = 6, kInProgress = 7;
constexpr int kSum = 0;
constexpr int kByte = 1, kFloat32 = 7, kBFloat16 = 9;

// Library holds the functions, by their names without the prefix.
struct Library {
	int (*GetVersion)(int *);
	int (*GetUniqueId)(Id *);
	const char *(*GetErrorString)(int);
	const char *(*GetLastError)(Handle);
	int (*CommInitRankConfig)(Handle *, int size, Id, int rank, Config *);
	int (*CommGetAsyncError)(Handle, int *);
	int (*CommFinalize)(Handle);
	int (*CommDestroy)(Handle);
	int (*CommAbort)(Handle);
	int (*AllReduce)(const void *, void *, size_t, int type, int op, Handle, Stream);
	int (*AllGather)(const void *, void *, size_t, int type, Handle, Stream);
	int (*ReduceScatter)(const void *, void *, size_t, int type, int op, Handle, Stream);
	int (*Broadcast)(const void *, void *, size_t, int type, int root, Handle, Stream);
};

// Failure is why something did not work.
struct Failure {
	bool missing; // there is no usable library; otherwise the group failed
	std::string text;
};

// open loads the library from path, or from where it usually is when path is
// null. It is never unloaded; the first path counts. Throws Failure.
const Library &open(const char *path);

int version(const Library &l);
Id new_id(const Library &l);

// Comm is one rank's end. One thread operates at a time; abort and check are
// called by any.
class Comm {
public:
	Comm(const Library &l, int size, int rank, const Id &id, int timeout_ms);
	~Comm() { close(); }
	Comm(const Comm &) = delete;
	Comm &operator=(const Comm &) = delete;

	// init waits for all ranks. Throws Failure, as all below do.
	void init();
	void check();
	void abort();
	void close();

	void all_reduce(void *data, size_t count, int type, Stream s);
	void all_gather(const void *src, void *dst, size_t count, int type, Stream s);
	void reduce_scatter(const void *src, void *dst, size_t count, int type, Stream s);
	void broadcast(void *data, size_t count, int type, int root, Stream s);

	std::atomic<int64_t> all_reduces{0}, all_gathers{0}, reduce_scatters{0}, broadcasts{0};
	const int size, rank;

private:
	template <class F> void start(const char *what, F f);
	void settle(std::unique_lock<std::mutex> &lock, const char *what, int result, int most_ms);
	[[noreturn]] void failed(const char *what, int result);
	void abort_locked();

	const Library &l;
	const Id id;
	const int timeout_ms;
	std::mutex mu; // of comm; given up between two looks
	Handle comm = nullptr;
	std::atomic<bool> aborted{false};
	std::future<void> ending; // of the communicator that was aborted
};

} // namespace chorale::nccl
