package collective

// sumBlock is how many elements are summed at a time, in the first-level cache.
const sumBlock = 1024

// Sum puts parts[0] + parts[1] + …, added in this order, into dst. All have the
// length of dst, which may be one of the parts.
func Sum(dst []float32, parts [][]float32) {
	switch len(parts) {
	case 0:
		clear(dst)
		return
	case 1:
		copy(dst, parts[0])
		return
	case 2:
		add(dst, parts[0], parts[1])
		return
	}
	var block [sumBlock]float32
	last := len(parts) - 1
	for i := 0; i < len(dst); i += sumBlock {
		n := min(sumBlock, len(dst)-i)
		acc := block[:n]
		add(acc, parts[0][i:i+n], parts[1][i:i+n])
		for _, p := range parts[2:last] {
			add(acc, acc, p[i:i+n])
		}
		add(dst[i:i+n], acc, parts[last][i:i+n]) // the last to be read, so dst may be any of them
	}
}

// addGo is add where there is nothing faster, and its oracle.
func addGo(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] + b[i]
	}
}
