// Row-wise operations that do not depend on the storage type: norms, silu,
// rounding, logit statistics.

#define SERIAL 16384 // values below which an operation stays on its caller

// pieces cuts m rows of n values into units of about SERIAL values.
AI long rows_per_unit(long n) { return most(1, SERIAL / most(n, 1)); }

// inverse_rms is 1/sqrt(mean(x²)+eps) in every lane.
AI vf inverse_rms(const float *x, long n, float eps) {
	vf sum = v_zero();
	EACH(n, {
		vf v = v_loadw(x + i, whole, m);
		sum = v_fma(v, v, sum);
	});
	return v_set(1.0f / __builtin_sqrtf(v_sum(sum) / (float)n + eps));
}

static void norm_unit(void *arg, long unit) {
	const ck_norm *a = arg;
	const long n = a->n, per = rows_per_unit(n);
	for (long t = unit * per; t < least(a->m, (unit + 1) * per); t++) {
		float *x = a->x + t * n, *y = a->y + t * n;
		uint16_t *yb = a->yb ? a->yb + t * a->ldyb : 0;
		if (a->delta) {
			const float *delta = a->delta + t * n;
			EACH(n, { v_storew(x + i, whole, m, v_add(v_loadw(x + i, whole, m), v_loadw(delta + i, whole, m))); });
		}
		const vf inv = inverse_rms(x, n, a->eps);
		EACH(n, {
			vf v = v_mul(v_mul(v_loadw(x + i, whole, m), inv), v_loadw(a->w + i, whole, m));
			v_storew(y + i, whole, m, v);
			if (yb) v_roundw(yb + i, whole, m, v);
		});
	}
}

static void NAME(norm)(ck_pool *pool, ck_norm *a) { ck_pool_run(pool, norm_unit, a, up(a->m, rows_per_unit(a->n))); }

static void silu_unit(void *arg, long unit) {
	const ck_silu *a = arg;
	const long f = a->f, per = rows_per_unit(4 * f);
	for (long t = unit * per; t < least(a->m, (unit + 1) * per); t++) {
		const float *gate = a->x + t * 2 * f, *high = gate + f;
		uint16_t *yb = a->yb ? a->yb + t * a->ldyb : 0;
		EACH(f, {
			vf g = v_loadw(gate + i, whole, m);
			vf e = v_exp(v_sub(v_zero(), g));
			vf v = v_mul(v_div(g, v_add(v_set(1.0f), e)), v_loadw(high + i, whole, m));
			v_storew(a->y + t * f + i, whole, m, v);
			if (yb) v_roundw(yb + i, whole, m, v);
		});
	}
}

static void NAME(silu)(ck_pool *pool, ck_silu *a) { ck_pool_run(pool, silu_unit, a, up(a->m, rows_per_unit(4 * a->f))); }

static void round_unit(void *arg, long unit) {
	const ck_round *a = arg;
	const long n = a->n, per = rows_per_unit(n);
	for (long t = unit * per; t < least(a->m, (unit + 1) * per); t++) {
		const float *x = a->x + t * n;
		uint16_t *xb = a->xb + t * a->ldxb;
		EACH(n, { v_roundw(xb + i, whole, m, v_loadw(x + i, whole, m)); });
	}
}

static void NAME(round)(ck_pool *pool, ck_round *a) { ck_pool_run(pool, round_unit, a, up(a->m, rows_per_unit(a->n))); }

// log_sum_exp sums 512 values at a time in float32 and those in float64.
static double sum_exp(const float *x, long n, float top) {
	double sum = 0;
	for (long at = 0; at < n; at += 512) {
		const float *from = x + at;
		vf part = v_zero();
		EACH(least(512, n - at), {
			vf e = v_exp(v_sub(v_loadw(from + i, whole, m), v_set(top)));
			part = v_add(part, whole ? e : v_pick(m, e, v_zero()));
		});
		sum += v_sum(part);
	}
	return sum;
}

static void stats_unit(void *arg, long t) {
	const ck_stats *a = arg;
	const float *x = a->x + t * a->n;
	const long n = a->n;
	// Each lane keeps its largest value and where it first saw it. Positions are
	// kept in float32 as a count of vectors: exact up to 2^24 of them.
	vf top = v_set(-__builtin_inff()), at = v_zero();
	EACH(n, {
		vf v = v_loadw(x + i, whole, m);
		if (!whole) v = v_pick(m, v, v_set(-__builtin_inff()));
		vm gt = v_gt(v, top);
		top = v_pick(gt, v, top);
		at = v_pick(gt, v_set((float)(i / 16)), at);
	});
	float tops[16], ats[16];
	v_store(tops, top);
	v_store(ats, at);
	ck_stat s = {.max = v_top(top), .arg_max = INT32_MAX};
	for (int l = 0; l < 16; l++) {
		long i = (long)ats[l] * 16 + l;
		if (tops[l] == s.max && i < s.arg_max && i < n) s.arg_max = (int32_t)i;
	}
	s.log_sum_exp = (float)(s.max + log(sum_exp(x, n, s.max)));
	a->out[t] = s;
}

static void NAME(stats)(ck_pool *pool, ck_stats *a) { ck_pool_run(pool, stats_unit, a, a->m); }
