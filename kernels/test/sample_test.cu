// Checks the sampling kernel against double precision on the CPU: random rows of
// several shapes and random parameters, strange values, ties.
//
//	nvcc -std=c++17 -O3 -arch=sm_90a -Ikernels/include -Ikernels/device kernels/test/sample_test.cu -o sample_test
//	g++ -std=c++20 -O2 -ffp-contract=off -x c++ -DCHORALE_ON_CPU -Ikernels/test/on_cpu -Ikernels/include -Ikernels/device kernels/test/sample_test.cu -o sample_test_cpu
//	sample_test [cases] [seed]
#include "sample_case.cuh"

#include "rows.cuh"
#include "sample.cuh"

using namespace chorale::sampling;

namespace {

float changed_on_host(const ch_sample_row &p, float x, float bias, int count, bool seen) {
	x = x + bias;
	if (seen && p.repetition != 1) {
		x = x > 0 ? x / p.repetition : x * p.repetition;
	}
	if (count > 0) {
		const volatile float f = p.frequency * static_cast<float>(count);
		x = x - (f + p.presence);
	}
	return x;
}

bool before(float a, int i, float b, int j) { // a's entry comes first
	if (std::isnan(a) != std::isnan(b)) {
		return std::isnan(b);
	}
	return std::isnan(a) || a == b ? i < j : a > b;
}

void fail(const Asked &a, const char *what, double got, double want) {
	if (failures++ < 20) {
		const ch_sample_row &p = a.row;
		printf("%zu columns, T %g, k %d, p %g, min %g, u %g, top %d, %zu adjusted, %zu banned, last %d: %s is %.9g, want %.9g\n", a.logits.size(), a.temperature, p.top_k, p.top_p, p.min_reach, p.u, p.top, a.adjust.size(), a.bans.size(), a.last, what, got, want);
	}
}

// check compares a result with what double precision says.
void check(const Asked &a, const uint32_t *words) {
	ch_sampled got;
	memcpy(&got, words, sizeof got);
	words += sizeof got / 4;
	const int cols = static_cast<int>(a.logits.size());
	std::vector<float> l = a.logits;
	std::vector<int> order(cols);
	const auto sorted = [&] {
		for (int i = 0; i < cols; i++) {
			order[i] = i;
		}
		std::sort(order.begin(), order.end(), [&](int i, int j) { return before(l[i], i, l[j], j); });
	};
	sorted();
	if (got.arg_max != order[0]) {
		fail(a, "arg max", got.arg_max, order[0]);
	}
	double sum = 0;
	bool nan = false;
	for (float x : l) {
		sum += std::exp(static_cast<double>(x) - l[order[0]]);
		nan |= std::isnan(x);
	}
	const double lse = l[order[0]] + std::log(sum);
	if (!nan && std::isfinite(l[order[0]]) && std::abs(lse - got.log_sum_exp) > 1e-5 * (1 + std::abs(lse))) {
		fail(a, "log sum exp", got.log_sum_exp, lse);
	}
	const auto bits = [](float x) {
		uint32_t u;
		memcpy(&u, &x, 4);
		return std::isnan(x) ? 0x7fffffffu : u;
	};
	for (int i = 0; i < std::min(a.row.top, cols); i++) {
		float x;
		memcpy(&x, words + 2 * i + 1, 4);
		if (static_cast<int>(words[2 * i]) != order[i] || bits(x) != bits(l[order[i]])) {
			fail(a, "a top id", words[2 * i], order[i]);
			break;
		}
	}
	words += 2 * std::min(a.row.top, cols);
	for (size_t i = 0; i < a.ids.size(); i++) {
		float x;
		memcpy(&x, words + i, 4);
		if (bits(x) != bits(l[a.ids[i]])) {
			fail(a, "a requested logit", x, l[a.ids[i]]);
		}
	}
	if (got.token < 0 || got.token >= cols || bits(got.logit) != bits(a.logits[got.token])) {
		fail(a, "the token's logit", got.logit, got.token);
		return;
	}
	if (a.row.given >= 0) {
		if (got.token != a.row.given) {
			fail(a, "given token", got.token, a.row.given);
		}
		return;
	}
	bool listed = false;
	for (const ch_adjust &d : a.adjust) {
		const bool again = d.id == a.last;
		listed |= again;
		l[d.id] = changed_on_host(a.row, l[d.id], d.bias, d.count + again, d.seen || again);
	}
	if (a.last >= 0 && !listed) {
		l[a.last] = changed_on_host(a.row, l[a.last], 0, 1, true);
	}
	for (const ch_adjust &d : a.bans) {
		l[d.id] = -INFINITY;
	}
	sorted();
	const float top = l[order[0]];
	if (a.temperature == 0 || !std::isfinite(top) || a.row.top_k == 1) {
		if (got.token != order[0]) {
			fail(a, "greedy token", got.token, order[0]);
		}
		return;
	}
	// The cut may fall elsewhere by what weights differ in float32.
	for (const double slack : {0.0, 1e-5, -1e-5}) {
		std::vector<double> w(cols, 0);
		double all = 0;
		int n = 0;
		for (; n < cols && l[order[n]] - top >= a.row.reach && (a.row.top_k <= 0 || n < a.row.top_k); n++) {
			all += w[order[n]] = std::exp((static_cast<double>(l[order[n]]) - top) * a.row.inverse);
		}
		double upto = 0;
		for (int i = 0; i < n; i++) {
			if ((a.row.top_p < 1 && upto >= (a.row.top_p + slack) * all) || l[order[i]] - top < a.row.min_reach) {
				w[order[i]] = i == 0 ? w[order[i]] : 0;
			}
			upto += i == 0 || w[order[i]] > 0 ? std::exp((static_cast<double>(l[order[i]]) - top) * a.row.inverse) : 0;
		}
		double total = 0, below = 0;
		for (int i = 0; i < cols; i++) {
			total += w[i];
			below += i < got.token ? w[i] : 0;
		}
		if (w[got.token] > 0 && below <= (a.row.u + 1e-5) * total && below + w[got.token] >= (a.row.u - 1e-5) * total) {
			return;
		}
	}
	fail(a, "token drawn", got.token, -1);
}

// check_ids lets the next step look up the tokens that this one kept, which the
// host has in tokens and the device in kept, both [2][n].
void check_ids(const std::vector<int32_t> &tokens, const int32_t *kept, int n) {
	const int32_t rows = *std::max_element(tokens.begin(), tokens.end()) + 1;
	std::vector<uint16_t> table(static_cast<size_t>(rows) * 8); // bf16: the row's number in three digits, exact
	for (int32_t i = 0; i < rows; i++) {
		const float digits[3] = {static_cast<float>(i % 128), static_cast<float>(i / 128 % 128), static_cast<float>(i / 16384)};
		for (int d = 0; d < 3; d++) {
			uint32_t bits;
			memcpy(&bits, &digits[d], 4);
			table[static_cast<size_t>(i) * 8 + d] = static_cast<uint16_t>(bits >> 16);
		}
	}
	std::vector<int32_t> ids(n + 1);
	for (int i = 0; i < n; i++) {
		ids[i] = -1 - (n - 1 - i);
	}
	ids[n] = rows / 2;
	const ch_header header = {n + 1, n + 1, 0, 0, {}};
	void *p[4];
	const size_t sizes[4] = {table.size() * 2, ids.size() * 4, sizeof header, ids.size() * 8 * sizeof(float)};
	const void *from[4] = {table.data(), ids.data(), &header, nullptr};
	for (int i = 0; i < 4; i++) {
		if (cudaMalloc(&p[i], sizes[i]) != cudaSuccess) {
			printf("out of memory\n");
			exit(1);
		}
		if (from[i]) {
			cudaMemcpy(p[i], from[i], sizes[i], cudaMemcpyHostToDevice);
		}
	}
	const auto *weights = static_cast<const chorale::bf16 *>(p[0]);
	const chorale::Ids of = {static_cast<const int32_t *>(p[1]), static_cast<const ch_header *>(p[2]), kept, n};
#ifdef CHORALE_ON_CPU
	gridDim = n + 1, blockDim = 32;
	for (int i = 0; i <= n; i++) {
		blockIdx = dim3(i, 0, 0);
		on_cpu::run_block(32, [&] { chorale::embed_kernel<float>(static_cast<float *>(p[3]), 8, weights, of); });
	}
#else
	chorale::embed_kernel<float><<<n + 1, 32>>>(static_cast<float *>(p[3]), 8, weights, of);
#endif
	std::vector<float> out(ids.size() * 8);
	cudaMemcpy(out.data(), p[3], sizes[3], cudaMemcpyDeviceToHost);
	for (int i = 0; i <= n; i++) {
		const int32_t want = i < n ? tokens[n + n - 1 - i] : ids[n];
		const float got = out[i * 8] + 128 * out[i * 8 + 1] + 16384 * out[i * 8 + 2];
		if (got != static_cast<float>(want) && failures++ < 20) {
			printf("row %d looks up %g, want %d\n", i, got, want);
		}
	}
	for (void *m : p) {
		cudaFree(m);
	}
}

// run serves rows of one width as one list and checks them.
void run(std::vector<Asked> &rows, int cols, int threads) {
	const int n = static_cast<int>(rows.size()), pitch = (cols + 7) / 8 * 8;
	std::vector<char> tables(sizeof(ch_header) + sizeof(ch_sample_row) * n);
	const auto add = [&](const auto &list) {
		const size_t at = (tables.size() + 15) / 16 * 16, bytes = list.size() * sizeof(list[0]);
		tables.resize(at + bytes);
		if (bytes > 0) {
			memcpy(tables.data() + at, list.data(), bytes);
		}
		return static_cast<int32_t>(at);
	};
	std::vector<float> logits(static_cast<size_t>(pitch) * n, 0);
	std::vector<int32_t> tokens(2 * n, -1);
	int words = 0;
	for (int i = 0; i < n; i++) {
		Asked &a = rows[i];
		std::copy(a.logits.begin(), a.logits.end(), logits.begin() + static_cast<size_t>(i) * pitch);
		if (a.row.top_k == 1) {
			a.row.inverse = 0;
		}
		a.row.adjust = add(a.adjust), a.row.adjusts = static_cast<int32_t>(a.adjust.size());
		a.row.bans = add(a.bans), a.row.ban_count = static_cast<int32_t>(a.bans.size());
		a.row.ids = add(a.ids), a.row.id_count = static_cast<int32_t>(a.ids.size());
		a.row.last = a.last < 0 ? -1 : i;
		tokens[i] = a.last;
		a.row.out = words;
		words += sizeof(ch_sampled) / 4 + 2 * std::min(a.row.top, cols) + static_cast<int>(a.ids.size());
		memcpy(tables.data() + sizeof(ch_header) + sizeof(ch_sample_row) * i, &a.row, sizeof a.row);
	}
	ch_header header = {n, n, 1, 0, {}};
	header.samples[3] = {sizeof(ch_header), n, 0, 0};
	memcpy(tables.data(), &header, sizeof header);
	Args args = {};
	void *p[4];
	const size_t sizes[4] = {tables.size(), logits.size() * 4, static_cast<size_t>(words) * 4, tokens.size() * 4};
	for (int i = 0; i < 4; i++) {
		if (cudaMalloc(&p[i], sizes[i]) != cudaSuccess) {
			printf("out of memory\n");
			exit(1);
		}
	}
	cudaMemcpy(p[0], tables.data(), sizes[0], cudaMemcpyHostToDevice);
	cudaMemcpy(p[1], logits.data(), sizes[1], cudaMemcpyHostToDevice);
	cudaMemset(p[2], 0xcd, sizes[2]);
	cudaMemcpy(p[3], tokens.data(), sizes[3], cudaMemcpyHostToDevice);
	args.tables = static_cast<char *>(p[0]), args.list = 3, args.logits = p[1], args.cols = cols, args.pitch = pitch;
	args.results = static_cast<uint32_t *>(p[2]), args.tokens = static_cast<int32_t *>(p[3]), args.max_rows = n;
#ifdef CHORALE_ON_CPU
	cudaLaunchConfig_t config = {};
	config.gridDim = n + 1, config.blockDim = threads;
	cudaLaunchKernelEx(&config, sample_kernel<float>, args);
#else
	sample_kernel<float><<<n + 1, threads>>>(args);
	if (cudaDeviceSynchronize() != cudaSuccess) {
		printf("%s\n", cudaGetErrorString(cudaGetLastError()));
		exit(1);
	}
#endif
	std::vector<uint32_t> results(words);
	cudaMemcpy(results.data(), p[2], sizes[2], cudaMemcpyDeviceToHost);
	cudaMemcpy(tokens.data(), p[3], sizes[3], cudaMemcpyDeviceToHost);
	for (int i = 0; i < n; i++) {
		check(rows[i], results.data() + rows[i].row.out);
		if (tokens[n + i] != static_cast<int32_t>(results[rows[i].row.out])) {
			fail(rows[i], "the token kept", tokens[n + i], results[rows[i].row.out]);
		}
	}
	check_ids(tokens, static_cast<const int32_t *>(p[3]), n);
	for (void *m : p) {
		cudaFree(m);
	}
}

} // namespace

int main(int argc, char **argv) {
	const int cases = argc > 1 ? atoi(argv[1]) : 200;
	rng.seed(argc > 2 ? atoi(argv[2]) : 1);
	for (int i = 0; i < cases; i++) {
#ifdef CHORALE_ON_CPU
		const int cols = one_of<int>({1, 2, 17, 300, 1000, 5000, 20000}), n = 4, threads = one_of<int>({32, 64, 128});
#else
		const int cols = one_of<int>({1, 17, 1000, 5000, 49152, 128256, 300001}), n = 32, threads = std::min(1024, (cols + 255) / 256 * 32);
#endif
		std::vector<Asked> rows;
		for (int r = 0; r < n; r++) {
			rows.push_back(random_row(cols));
		}
		run(rows, cols, threads);
	}
	printf("%d cases, %d failures\n", cases, failures);
	return failures > 0;
}
