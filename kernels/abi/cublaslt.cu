#include "cublaslt.h"

#include <dlfcn.h>

#include <string>
#include <vector>

#include "context.h"

namespace chorale::cublaslt {

namespace {

// places lists names for dlopen: the loader's path, the folder of this library,
// and the toolkit's default.
std::vector<std::string> places() {
	std::vector<std::string> folders = {""};
	Dl_info self;
	if (dladdr(reinterpret_cast<const void *>(&ch_abi_version), &self) != 0 && self.dli_fname != nullptr) {
		const std::string path = self.dli_fname;
		folders.push_back(path.substr(0, path.rfind('/') + 1));
	}
	folders.push_back("/usr/local/cuda/lib64/");
	std::vector<std::string> out;
	for (const std::string &folder : folders) {
		for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
			out.push_back(folder + name);
		}
	}
	return out;
}

void *load(const char *path) {
	if (path != nullptr && *path != 0) {
		void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		if (library == nullptr) {
			fail(CH_UNSUPPORTED, "cuBLASLt cannot be loaded: %s", dlerror());
		}
		return library;
	}
	for (const std::string &place : places()) {
		if (void *library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) {
			return library;
		}
	}
	fail(CH_UNSUPPORTED, "libcublasLt.so.13 is not found: install NVIDIA's cuBLAS, or name the file in CHORALE_CUBLASLT");
}

template <class F> void bind(void *library, F *&f, const char *name) {
	f = reinterpret_cast<F *>(dlsym(library, name));
	if (f == nullptr) {
		fail(CH_UNSUPPORTED, "the cuBLASLt library has no %s: it is too old", name);
	}
}

Library bind_all(void *library) {
	Library l;
#define CH_BIND(name) bind(library, l.name, "cublasLt" #name)
	CH_BIND(Create);
	CH_BIND(Destroy);
	CH_BIND(GetVersion);
	CH_BIND(GetStatusString);
	CH_BIND(MatmulDescCreate);
	CH_BIND(MatmulDescDestroy);
	CH_BIND(MatmulDescSetAttribute);
	CH_BIND(MatrixLayoutCreate);
	CH_BIND(MatrixLayoutDestroy);
	CH_BIND(MatmulPreferenceCreate);
	CH_BIND(MatmulPreferenceDestroy);
	CH_BIND(MatmulPreferenceSetAttribute);
	CH_BIND(MatmulAlgoGetHeuristic);
	CH_BIND(MatmulAlgoCheck);
	CH_BIND(Matmul);
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

} // namespace chorale::cublaslt
