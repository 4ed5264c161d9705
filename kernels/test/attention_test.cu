// Checks attention against float64 on the CPU over random steps, and that
// deterministic results depend on nothing else, bit for bit.
//
//   attention_test [seed] [rounds]
#include <cmath>
#include <cstring>
#include <string>

#include "attention_case.cuh"

using namespace test;

namespace {

int failures = 0;

void expect(bool ok, const std::string &what) {
	if (!ok) {
		failures++;
		printf("FAIL %s\n", what.c_str());
	}
}

std::string name(const Case &c) {
	char text[256];
	snprintf(text, sizeof text, "heads %d/%d dim %d page %d window %d, %zu sequences, %d rows", c.shape.heads, c.shape.kv_heads, c.shape.head_dim, c.shape.page_size, c.shape.window, c.seqs.size(), c.total);
	return text;
}

std::vector<bf16> results(const Case &c, bool deterministic) {
	const auto plan = c.upload(deterministic);
	CUDA(cudaMemset(c.out, 0xff, c.padded * c.out_pitch * 2));
	launch(c.run(plan));
	CUDA(cudaDeviceSynchronize());
	std::vector<bf16> out(c.padded * c.out_pitch);
	CUDA(cudaMemcpy(out.data(), c.out, out.size() * 2, cudaMemcpyDeviceToHost));
	return out;
}

// reference computes one row and head in float64 from the generator's values.
void reference(const Case &c, int seq, int token, int head, std::vector<double> &out) {
	const int dim = c.shape.head_dim, width = c.shape.kv_heads * dim, kv = head / (c.shape.heads / c.shape.kv_heads);
	const int row = c.rows[seq].q_start + token, pos = c.seqs[seq].ctx_len - c.seqs[seq].q_len + token;
	const int first = c.shape.window > 0 ? std::max(0, pos - c.shape.window + 1) : 0;
	std::vector<double> q(dim), scores(pos + 1 - first);
	for (int d = 0; d < dim; d++) {
		q[d] = rounded(value(7, row * static_cast<uint64_t>(c.q_pitch) + head * dim + d));
	}
	double top = -INFINITY, sum = 0;
	for (int p = first; p <= pos; p++) {
		double dot = 0;
		for (int d = 0; d < dim; d++) {
			dot += q[d] * rounded(value(100 + 2 * seq, p * static_cast<uint64_t>(width) + kv * dim + d));
		}
		top = std::max(top, scores[p - first] = dot / std::sqrt(static_cast<double>(dim)));
	}
	out.assign(dim, 0);
	for (int p = first; p <= pos; p++) {
		const double w = std::exp(scores[p - first] - top);
		sum += w;
		for (int d = 0; d < dim; d++) {
			out[d] += w * rounded(value(101 + 2 * seq, p * static_cast<uint64_t>(width) + kv * dim + d));
		}
	}
	for (double &x : out) {
		x /= sum;
	}
}

// check compares a sample of rows and heads, the last row of each sequence
// among them, and that no row was left out. It returns ‖error‖/‖reference‖.
double check(const Case &c, const std::vector<bf16> &out, std::mt19937 &rng, int samples) {
	double error = 0, norm = 0;
	std::vector<double> want;
	const int dim = c.shape.head_dim;
	for (size_t s = 0; s < c.seqs.size(); s++) {
		const int per = std::max<int>(1, samples / c.seqs.size());
		for (int i = 0; i < per; i++) {
			const int token = i == 0 ? c.seqs[s].q_len - 1 : rng() % c.seqs[s].q_len, head = rng() % c.shape.heads;
			reference(c, static_cast<int>(s), token, head, want);
			const bf16 *got = &out[(c.rows[s].q_start + token) * c.out_pitch + head * dim];
			for (int d = 0; d < dim; d++) {
				const double e = __bfloat162float(got[d]) - want[d];
				error += e * e, norm += want[d] * want[d];
			}
		}
	}
	for (int64_t i = 0; i < c.total * c.out_pitch; i++) {
		if (std::isnan(__bfloat162float(out[i]))) {
			return INFINITY;
		}
	}
	return std::sqrt(error / norm);
}

bool same(const std::vector<bf16> &a, const std::vector<bf16> &b) { return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * 2) == 0; }

// Outputs and weights are rounded to bf16, 2^-9 at most each.
constexpr double kBound = 6e-3;

std::vector<Seq> random_step(std::mt19937 &rng, int kind) {
	std::vector<Seq> seqs;
	const int n = 1 + rng() % 12;
	const auto length = [&] { return 1 + static_cast<int>(rng() % (rng() % 3 ? 300 : 3000)); };
	for (int i = 0; i < n; i++) {
		const int ctx = length();
		const bool decode = kind == 0 || (kind == 2 && i % 2 == 0);
		const int q = decode ? 1 : 1 + rng() % ctx;
		seqs.push_back({q, ctx});
	}
	return seqs;
}

void random_rounds(std::mt19937 &rng, int rounds) {
	const int dims[] = {64, 96, 128, 256};
	const int heads[][2] = {{4, 4}, {6, 2}, {8, 2}, {16, 2}, {7, 1}, {20, 1}, {32, 8}};
	const int windows[] = {0, 0, 1, 17, 100, 1024};
	double worst[2] = {0, 0};
	for (int i = 0; i < rounds; i++) {
		const auto &h = heads[rng() % 7];
		const AttentionShape shape = {h[0], h[1], dims[i % 4], rng() % 4 ? 16 : 32, windows[rng() % 6]};
		const int64_t budget = rng() % 3 ? 32 << 20 : 64 << 10; // little room: tiles in one go
		const Case c(shape, random_step(rng, i / 4 % 3), budget, rng);
		for (int deterministic = 0; deterministic < 2; deterministic++) {
			const std::vector<bf16> out = results(c, deterministic);
			const double e = check(c, out, rng, 24);
			worst[deterministic] = std::max(worst[deterministic], e);
			expect(e < kBound, name(c) + (deterministic ? ", deterministic" : "") + ": error " + std::to_string(e));
			expect(same(results(c, deterministic), out), name(c) + ": a second run differs");
		}
	}
	printf("random: %d rounds, worst error %.2e fast, %.2e deterministic\n", rounds, worst[0], worst[1]);
}

// rows_alone: a sequence in company, alone, and decoded row by row must give
// the same bits. The generator makes a sequence's cache from its place, so it
// comes first in every step, and queries from the row.
void rows_alone(std::mt19937 &rng) {
	for (const int dim : {64, 96, 128, 256}) {
		for (const int window : {0, 200}) {
			const AttentionShape shape = {8, 2, dim, 16, window};
			const int ctx = 1500, q = 700;
			std::vector<Seq> company = {{q, ctx}};
			for (int i = 0; i < 40; i++) {
				company.push_back({1, 1 + static_cast<int>(rng() % 3000)});
			}
			const Case together(shape, company, 64 << 20, rng), alone(shape, {{q, ctx}}, 64 << 20, rng), cramped(shape, {{q, ctx}}, 0, rng);
			const auto want = results(alone, true);
			const size_t row = static_cast<size_t>(together.out_pitch) * 2;
			expect(memcmp(results(together, true).data(), want.data(), row * q) == 0, name(together) + ": differs from alone");
			expect(memcmp(results(cramped, true).data(), want.data(), row * q) == 0, name(cramped) + ": differs without room for chunks");
			// The first row of the chunk, as a decode row.
			const Case decode(shape, {{1, ctx - q + 1}}, 64 << 20, rng);
			expect(memcmp(results(decode, true).data(), want.data(), row) == 0, name(decode) + ": a decode row differs from the same row in a prompt");
		}
	}
}

// far_pages: addresses beyond 2^32 elements.
void far_pages(std::mt19937 &rng) {
	const AttentionShape shape = {8, 2, 128, 16, 0};
	const int first = static_cast<int>((int64_t{1} << 32) / (2 * 2 * 16 * 2 * 128)) - 20;
	const Case c(shape, {{1, 900}, {300, 700}, {5, 400}}, 1 << 20, rng, first);
	const double e = check(c, results(c, false), rng, 60), d = check(c, results(c, true), rng, 60);
	printf("far pages: error %.2e, %.2e\n", e, d);
	expect(e < kBound && d < kBound, name(c) + " beyond 2^32 elements");
}

// graph: one recorded launch serves later plans of the same padded rows.
void graph(std::mt19937 &rng) {
	const AttentionShape shape = {32, 8, 128, 16, 0};
	std::vector<Seq> seqs(16);
	for (Seq &s : seqs) {
		s = {1, 1 + static_cast<int>(rng() % 2500)};
	}
	Case c(shape, seqs, 16 << 20, rng);
	cudaStream_t stream;
	CUDA(cudaStreamCreate(&stream));
	cudaGraph_t g;
	cudaGraphExec_t exec;
	const auto run = c.run(c.upload(false));
	CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	launch(run, stream);
	CUDA(cudaStreamEndCapture(stream, &g));
	CUDA(cudaGraphInstantiate(&exec, g, 0));
	for (int round = 0; round < 4; round++) {
		for (size_t i = 0; i < c.seqs.size(); i++) { // shorter contexts over the same cache; some rows are padding
			c.seqs[i].ctx_len = 1 + static_cast<int>(rng() % seqs[i].ctx_len);
			c.rows[i].ctx_len = c.seqs[i].ctx_len;
		}
		if (round == 3) {
			c.seqs.resize(5), c.rows.resize(5), c.total = 5;
		}
		c.upload(false);
		CUDA(cudaMemset(c.out, 0xff, c.padded * c.out_pitch * 2));
		CUDA(cudaGraphLaunch(exec, stream));
		CUDA(cudaStreamSynchronize(stream));
		std::vector<bf16> out(c.padded * c.out_pitch);
		CUDA(cudaMemcpy(out.data(), c.out, out.size() * 2, cudaMemcpyDeviceToHost));
		const double e = check(c, out, rng, 60);
		expect(e < kBound, name(c) + " in a graph, round " + std::to_string(round) + ": error " + std::to_string(e));
	}
	CUDA(cudaGraphExecDestroy(exec));
	CUDA(cudaGraphDestroy(g));
	CUDA(cudaStreamDestroy(stream));
}

void refusals() {
	using chorale::attention_supports;
	expect(attention_supports({32, 8, 80, 16, 0}) == CH_UNSUPPORTED, "head size 80");
	expect(attention_supports({32, 8, 128, 8, 0}) == CH_UNSUPPORTED, "pages of 8");
	expect(attention_supports({32, 5, 128, 16, 0}) == CH_UNSUPPORTED, "32 heads on 5");
	expect(attention_supports({17, 1, 128, 16, 0}) == CH_OK, "17 heads, one by one"); // 17 virtual heads of one
	expect(attention_supports({32, 1, 128, 16, 0}) == CH_OK, "32 heads on 1");
	const ch_seq bad[] = {{0, 5, 4, 0}};
	std::vector<char> table(chorale::attention_table_bytes(8));
	chorale::AttentionPlan plan;
	expect(chorale::attention_plan({{32, 8, 128, 16, 0}, bad, 1, 8, 132, 0, false}, table.data(), &plan) == CH_INVALID, "more queries than context");
}

} // namespace

int main(int argc, char **argv) {
	std::mt19937 rng(argc > 1 ? atoi(argv[1]) : 1);
	refusals();
	rows_alone(rng);
	far_pages(rng);
	graph(rng);
	random_rounds(rng, argc > 2 ? atoi(argv[2]) : 96);
	printf(failures ? "%d failures\n" : "attention: ok\n", failures);
	return failures != 0;
}
