// Checks that ranks which share a vocabulary find what one rank finds in the whole
// rows: the same tokens to the bit, whatever is asked.
//
//	nvcc -std=c++17 -O3 -arch=sm_90a -Ikernels/include -Ikernels/device kernels/test/sample_shard_test.cu -o sample_shard_test
//	g++ -std=c++20 -O2 -ffp-contract=off -x c++ -DCHORALE_ON_CPU -Ikernels/test/on_cpu -Ikernels/include -Ikernels/device kernels/test/sample_shard_test.cu -o sample_shard_test_cpu
//	sample_shard_test [cases] [seed]
#include "sample_case.cuh"

#include "rows.cuh"
#include "sample_shard.cuh"

using namespace chorale::sampling;

namespace {

int up8(int n) { return (n + 7) / 8 * 8; }

void must(cudaError_t e) {
	if (e != cudaSuccess) {
		printf("%s\n", cudaGetErrorString(e));
		exit(1);
	}
}

// Memory is a piece of the device's, with what it begins with.
template <class T> struct Memory {
	T *p = nullptr;
	size_t n;
	explicit Memory(size_t count) : n(std::max<size_t>(count, 1)) {
		must(cudaMalloc(reinterpret_cast<void **>(&p), n * sizeof(T)));
		must(cudaMemset(p, 0xcd, n * sizeof(T)));
	}
	explicit Memory(const std::vector<T> &v) : Memory(v.size()) { must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
	~Memory() { cudaFree(p); }
	Memory(const Memory &) = delete;
	std::vector<T> get() const {
		std::vector<T> v(n);
		must(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
		return v;
	}
};

template <class A> void launch(void (*kernel)(A), int blocks, int threads, const A &args) {
#ifdef CHORALE_ON_CPU
	cudaLaunchConfig_t config = {};
	config.gridDim = blocks, config.blockDim = threads;
	cudaLaunchKernelEx(&config, kernel, args);
#else
	kernel<<<blocks, threads>>>(args);
	must(cudaDeviceSynchronize());
#endif
}

// Tables are a step's, as one rank lays them out.
struct Tables {
	std::vector<char> bytes;
	int words = 0, gathered = 0;

	template <class T> int32_t add(const std::vector<T> &list) {
		const size_t at = up8(static_cast<int>(bytes.size()));
		bytes.resize(at + list.size() * sizeof(T));
		if (!list.empty()) {
			memcpy(bytes.data() + at, list.data(), list.size() * sizeof(T));
		}
		return static_cast<int32_t>(at);
	}

	// For tokens [first, first + cols) of all; width is the most that a rank has.
	Tables(const std::vector<Asked> &rows, int first, int cols, int width, int total, bool parts) {
		const int n = static_cast<int>(rows.size());
		bytes.resize(sizeof(ch_header) + sizeof(ch_sample_row) * n);
		const auto own = [&](const std::vector<ch_adjust> &list) {
			std::vector<ch_adjust> out;
			for (ch_adjust a : list) {
				a.id -= first;
				if (a.id >= 0 && a.id < cols) {
					out.push_back(a);
				}
			}
			return out;
		};
		for (int i = 0; i < n; i++) {
			ch_sample_row p = rows[i].row;
			if (p.top_k == 1) {
				p.inverse = 0;
			}
			const auto adjust = own(rows[i].adjust), bans = own(rows[i].bans);
			p.adjust = add(adjust), p.adjusts = static_cast<int32_t>(adjust.size());
			p.bans = add(bans), p.ban_count = static_cast<int32_t>(bans.size());
			p.ids = add(rows[i].ids), p.id_count = static_cast<int32_t>(rows[i].ids.size());
			p.last = rows[i].last < 0 ? -1 : i;
			p.top = std::min(p.top, total);
			p.out = words;
			if (parts && p.given < 0 && p.inverse > 0 && (p.top_p < 1 || (p.top_k > 0 && p.top_k < total))) {
				p.gathered = ++gathered;
			}
			words += static_cast<int>(sizeof(ch_sampled)) / 4 + 2 * std::min(p.top, width) + p.id_count;
			memcpy(bytes.data() + sizeof(ch_header) + sizeof(ch_sample_row) * i, &p, sizeof p);
		}
		ch_header header = {n, n, 1, 0, {}};
		header.samples[3] = {sizeof(ch_header), n, 0, 0};
		memcpy(bytes.data(), &header, sizeof header);
	}

	int32_t out_of(int i) const {
		ch_sample_row p;
		memcpy(&p, bytes.data() + sizeof(ch_header) + sizeof(ch_sample_row) * i, sizeof p);
		return p.out;
	}
};

std::vector<float> logits_of(const std::vector<Asked> &rows, int first, int cols, int pitch) {
	std::vector<float> out(rows.size() * pitch, NAN); // padding means nothing
	for (size_t i = 0; i < rows.size(); i++) {
		std::copy_n(rows[i].logits.begin() + first, cols, out.begin() + i * pitch);
	}
	return out;
}

// Rank is one rank's memory.
struct Rank {
	Tables tables;
	Memory<char> table;
	Memory<float> logits;
	Memory<uint32_t> results;
	Memory<int32_t> tokens;
	Memory<Kept> kept;
	ShardArgs args = {};

	Rank(const std::vector<Asked> &rows, const std::vector<int32_t> &before, int first, int cols, int width, int total, bool parts)
		: tables(rows, first, cols, width, total, parts), table(tables.bytes), logits(logits_of(rows, first, cols, up8(width))), results(tables.words), tokens(before), kept(rows.size()) {
		args.a = {table.p, 0, 3, logits.p, cols, up8(width), results.p, tokens.p, static_cast<int32_t>(rows.size())};
		args.first = first, args.width = width, args.total = total;
		args.kept = kept.p;
		args.width8 = up8(width), args.total8 = up8(total);
	}
};

bool same_bits(float a, float b) { return memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)); }

void fail(const Asked &a, int ranks, const char *what, double got, double want) {
	if (failures++ < 20) {
		const ch_sample_row &p = a.row;
		printf("%zu columns, %d ranks, T %g, k %d, p %g, min %g, u %g, top %d: %s is %.9g, want %.9g\n", a.logits.size(), ranks, a.temperature, p.top_k, p.top_p, p.min_reach, p.u, p.top, what, got, want);
	}
}

// check compares a row's parts with the whole.
void check(const Asked &a, const std::vector<std::vector<uint32_t>> &parts, int at, int width, const uint32_t *want_words) {
	const int ranks = static_cast<int>(parts.size()), total = static_cast<int>(a.logits.size()), head = sizeof(ch_sampled) / 4;
	ch_sampled want;
	memcpy(&want, want_words, sizeof want);
	int best = -1;
	float max = NAN;
	double sum = 0;
	bool nan = false;
	for (const auto &words : parts) {
		ch_sampled got;
		memcpy(&got, words.data() + at, sizeof got);
		if (got.token != want.token) {
			fail(a, ranks, "token", got.token, want.token);
			return;
		}
		if (got.arg_max >= 0 && (best < 0 || got.max > max)) {
			best = got.arg_max, max = got.max;
		}
		nan |= std::isnan(got.log_sum_exp);
		sum += std::exp(static_cast<double>(got.log_sum_exp) - want.log_sum_exp);
	}
	ch_sampled owner;
	memcpy(&owner, parts[want.token / width].data() + at, sizeof owner);
	if (!same_bits(owner.logit, want.logit)) {
		fail(a, ranks, "the token's logit", owner.logit, want.logit);
	}
	if (std::max(best, 0) != want.arg_max || (best >= 0 && !same_bits(max, want.max))) {
		fail(a, ranks, "arg max", best, want.arg_max);
	}
	if (nan != std::isnan(want.log_sum_exp) || (!nan && std::isfinite(want.log_sum_exp) && std::abs(std::log(sum)) > 1e-5)) {
		fail(a, ranks, "log sum exp, relative", std::log(sum), 0);
	}
	const int top = std::min(a.row.top, total), room = std::min(top, width);
	std::vector<int> next(ranks, 0);
	for (int i = 0; i < top; i++) {
		const uint32_t id = want_words[head + 2 * i];
		const int r = static_cast<int>(id) / width, n = next[r]++;
		if (n >= room || parts[r][at + head + 2 * n] != id || parts[r][at + head + 2 * n + 1] != want_words[head + 2 * i + 1]) {
			fail(a, ranks, "a top id", n < room ? parts[r][at + head + 2 * n] : -1, id);
			break;
		}
	}
	for (size_t i = 0; i < a.ids.size(); i++) {
		const uint32_t got = parts[a.ids[i] / width][at + head + 2 * room + i], all = want_words[head + 2 * top + i];
		if (got != all) {
			fail(a, ranks, "a requested logit", got, all);
		}
	}
}

// whole_rows puts rows together and draws from them, as many at a time.
void whole_rows(std::vector<std::unique_ptr<Rank>> &ranks, int rows, int threads, int most) {
	ShardArgs &first = ranks[0]->args;
	Memory<float> gathered(static_cast<size_t>(most) * first.width8 * ranks.size()), whole(static_cast<size_t>(most) * first.total8);
	for (int from = 0; from < rows; from += most) {
		const int count = std::min(most, rows - from);
		for (auto &r : ranks) {
			ShardArgs &g = r->args;
			g.from = from, g.count = count;
			g.packed = gathered.p + static_cast<size_t>(g.rank) * count * g.width8;
			g.gathered = gathered.p, g.whole = whole.p;
			launch(pack_kernel<float>, g.rows, threads, g);
		}
		launch(assemble_kernel, count, threads, first);
		for (auto &r : ranks) {
			launch(whole_draw_kernel, count, threads, r->args);
		}
	}
}

void run(const std::vector<Asked> &rows, int total, int n, int threads) {
	const int count = static_cast<int>(rows.size());
	std::vector<int32_t> before(2 * count, -1);
	for (int i = 0; i < count; i++) {
		before[i] = rows[i].last;
	}
	Rank one(rows, before, 0, total, total, total, false);
	launch(sample_kernel<float>, count + 1, threads, one.args.a);
	const std::vector<uint32_t> want = one.results.get();

	const int width = (total + n - 1) / n + between(0, 3);
	Memory<Best> best(count * n);
	Memory<uint64_t> mass(count * n);
	Memory<int32_t> drawn(count * n);
	std::vector<std::unique_ptr<Rank>> ranks;
	for (int r = 0; r < n; r++) {
		const int first = r * width, cols = std::max(0, std::min(width, total - first));
		ranks.emplace_back(new Rank(rows, before, std::min(first, total), cols, width, total, true));
		ShardArgs &g = ranks.back()->args;
		g.first = first, g.rank = r, g.ranks = n, g.rows = count;
		g.best = best.p, g.mass = mass.p, g.drawn = drawn.p;
	}
	const auto all = [&](void (*kernel)(ShardArgs)) {
		for (auto &r : ranks) {
			launch(kernel, count, threads, r->args);
		}
	};
	all(shard_stats_kernel<float>);
	all(shard_mass_kernel<float>);
	all(shard_pick_kernel<float>);
	whole_rows(ranks, ranks[0]->tables.gathered + between(0, 2), threads, between(1, 3)); // padded
	all(shard_end_kernel<float>);
	std::vector<std::vector<uint32_t>> parts;
	for (auto &r : ranks) {
		parts.push_back(r->results.get());
	}
	for (int i = 0; i < count; i++) {
		check(rows[i], parts, ranks[0]->tables.out_of(i), width, want.data() + one.tables.out_of(i));
		for (auto &r : ranks) {
			const int kept = r->tokens.get()[count + i];
			if (kept != static_cast<int>(want[one.tables.out_of(i)])) {
				fail(rows[i], n, "the token kept", kept, want[one.tables.out_of(i)]);
			}
		}
	}
}

// embed looks tokens up in parts of a table: on one rank each is found, on the others
// its row is zero.
void embed(int total, int n) {
	const int width = (total + n - 1) / n, rows = 5, pitch = 8;
	std::vector<int32_t> ids(rows);
	for (int32_t &id : ids) {
		id = between(0, total - 1);
	}
	const ch_header header = {rows, rows, 0, 0, {}};
	Memory<int32_t> id(ids), tokens(2 * rows);
	Memory<ch_header> head(std::vector<ch_header>{header});
	for (int r = 0; r < n; r++) {
		std::vector<uint16_t> part(static_cast<size_t>(width) * pitch);
		for (size_t i = 0; i < part.size(); i++) {
			part[i] = static_cast<uint16_t>(0x3f80 + (r * width + i / pitch) % 64); // bf16: 1 and a bit
		}
		Memory<uint16_t> table(part);
		Memory<float> out(rows * pitch);
		const chorale::Ids of = {id.p, head.p, tokens.p, rows, r * width, width};
		const auto *weights = reinterpret_cast<const chorale::bf16 *>(table.p);
#ifdef CHORALE_ON_CPU
		gridDim = rows, blockDim = 32;
		for (int i = 0; i < rows; i++) {
			blockIdx = dim3(i, 0, 0);
			on_cpu::run_block(32, [&] { chorale::embed_kernel<float>(out.p, pitch, weights, of); });
		}
#else
		chorale::embed_kernel<float><<<rows, 32>>>(out.p, pitch, weights, of);
		must(cudaDeviceSynchronize());
#endif
		const std::vector<float> got = out.get();
		for (int i = 0; i < rows * pitch; i++) {
			const int token = ids[i / pitch];
			const float want = token / width == r ? 1 + static_cast<float>(token % 64) / 128 : 0;
			if (got[i] != want && failures++ < 20) {
				printf("rank %d of %d, token %d of %d: %g, want %g\n", r, n, token, total, got[i], want);
			}
		}
	}
}

} // namespace

int main(int argc, char **argv) {
	const int cases = argc > 1 ? atoi(argv[1]) : 100;
	rng.seed(argc > 2 ? atoi(argv[2]) : 1);
	for (int i = 0; i < cases; i++) {
#ifdef CHORALE_ON_CPU
		const int cols = one_of<int>({1, 2, 17, 300, 1000, 5000}), count = 4, threads = one_of<int>({32, 64});
#else
		const int cols = one_of<int>({1, 17, 1000, 5000, 49152, 128256}), count = 24, threads = std::min(1024, (cols + 255) / 256 * 32);
#endif
		std::vector<Asked> rows;
		for (int r = 0; r < count; r++) {
			rows.push_back(random_row(cols));
		}
		run(rows, cols, between(1, 4), threads);
		embed(cols, between(1, 4));
	}
	printf("%d cases, %d failures\n", cases, failures);
	return failures > 0;
}
