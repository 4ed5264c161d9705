// Checks how NCCL is loaded and driven, without a GPU, against a library that
// plays its part (nccl_fake.cpp).
//
//	g++ -std=c++17 -shared -fPIC kernels/test/nccl_fake.cpp -o libnccl_fake.so
//	g++ -std=c++17 -shared -fPIC -DOLD kernels/test/nccl_fake.cpp -o libnccl_old.so
//	g++ -std=c++17 -shared -fPIC -DPOOR kernels/test/nccl_fake.cpp -o libnccl_poor.so
//	g++ -std=c++17 -Ikernels/abi -x c++ kernels/abi/nccl.cu kernels/test/nccl_test.cpp -ldl -lpthread -o nccl_test
//	nccl_test FOLDER
#include "nccl.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>

using namespace chorale;

namespace {

int wrong = 0;

void expect(bool ok, const char *what) {
	if (!ok) {
		wrong++;
		printf("FAIL %s\n", what);
	}
}

// fails runs f and gives why it failed.
nccl::Failure fails(const std::function<void()> &f) {
	try {
		f();
	} catch (const nccl::Failure &e) {
		return e;
	}
	return {false, ""};
}

bool says(const nccl::Failure &e, bool missing, const char *part) {
	if (e.missing == missing && e.text.find(part) != std::string::npos) {
		return true;
	}
	printf("got: %s\n", e.text.c_str());
	return false;
}

void play(const char *how) { setenv("NCCL_FAKE", how, 1); }

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

void loading(const std::string &folder) {
	expect(says(fails([&] { nccl::open((folder + "/none.so").c_str()); }), true, "NCCL cannot be loaded"), "a missing file");
	expect(says(fails([&] { nccl::open((folder + "/libnccl_old.so").c_str()); }), true, "NCCL 2.17 is too old: 2.18"), "an old library");
	expect(says(fails([&] { nccl::open((folder + "/libnccl_poor.so").c_str()); }), true, "no ncclCommFinalize"), "a library without a function");
}

void working(const nccl::Library &l) {
	expect(nccl::version(l) == 22809, "version");
	play("slow"); // everything takes a few looks
	nccl::Comm c(l, 1, 0, nccl::new_id(l), 5000);
	c.init();
	float x[2] = {1, 2}, y[2] = {};
	c.all_reduce(x, 2, nccl::kFloat32, nullptr);
	c.all_gather(x, y, 2, nccl::kFloat32, nullptr);
	c.reduce_scatter(x, y, 2, nccl::kFloat32, nullptr);
	c.broadcast(x, 2, nccl::kFloat32, 0, nullptr);
	c.check();
	expect(c.all_reduces == 1 && c.all_gathers == 1 && c.reduce_scatters == 1 && c.broadcasts == 1, "counts");
	c.close();
	expect(says(fails([&] { c.check(); }), false, "aborted"), "a closed one");
	c.close();
}

void failing(const nccl::Library &l) {
	play("hang"); // never all there
	nccl::Comm late(l, 2, 0, nccl::new_id(l), 50);
	const auto start = Clock::now();
	expect(says(fails([&] { late.init(); }), false, "not all ranks came within 50 ms"), "a rank that does not come");
	expect(since(start) < 5, "the timeout");

	nccl::Comm stuck(l, 2, 0, nccl::new_id(l), 60000);
	std::thread rescuer([&] {
		std::this_thread::sleep_for(std::chrono::milliseconds(20));
		stuck.abort();
	});
	expect(says(fails([&] { stuck.init(); }), false, "was aborted"), "abort frees who waits");
	rescuer.join();

	play("remote"); // the other side dies once the group stands
	nccl::Comm left(l, 2, 0, nccl::new_id(l), 60000);
	left.init();
	float x[2] = {};
	expect(says(fails([&] { left.all_reduce(x, 2, nccl::kFloat32, nullptr); }), false, "all-reduce: NCCL: remote: a peer has gone"), "a dead rank");
	expect(says(fails([&] { left.all_reduce(x, 2, nccl::kFloat32, nullptr); }), false, "aborted"), "afterwards");
	left.abort();
	left.close();
}

} // namespace

int main(int, char **argv) {
	const std::string folder = argv[1];
	loading(folder);
	play("");
	const nccl::Library &l = nccl::open((folder + "/libnccl_fake.so").c_str());
	working(l);
	failing(l);
	play("count");
	nccl::Id left;
	l.GetUniqueId(&left);
	expect(left.bytes[0] == 0, "communicators are left");
	printf(wrong ? "%d wrong\n" : "ok\n", wrong);
	return wrong != 0;
}
