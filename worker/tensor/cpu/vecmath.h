// exp, shared by both vector widths.

// v_exp is within 2 units in the last place; below -110 it is 0, above 89 it is
// +Inf, NaN stays. exp(x) = 2^n exp(r), |r| <= ln2/2; the polynomial
// interpolates (exp(r)-1-r)/r^2 at Chebyshev nodes (relative error 8e-10).
AI vf v_exp(vf x) {
	x = v_max(v_set(-110.0f), x);
	x = v_sub(v_zero(), v_max(v_set(-100.0f), v_sub(v_zero(), x))); // min(100, x), NaN kept
	vf n = v_nearest(v_mul(x, v_set(0x1.715476p+0f)));
	vf r = v_fnma(n, v_set(0x1.62e4p-1f), x);
	r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
	vf q = v_set(0x1.a125f6p-13f);
	q = v_fma(q, r, v_set(0x1.6d444ap-10f));
	q = v_fma(q, r, v_set(0x1.1110e0p-7f));
	q = v_fma(q, r, v_set(0x1.5554e8p-5f));
	q = v_fma(q, r, v_set(0x1.555556p-3f));
	q = v_fma(q, r, v_set(0.5f));
	vf y = v_add(v_set(1.0f), v_fma(v_mul(r, r), q, r));
	return v_scale2(y, n);
}
