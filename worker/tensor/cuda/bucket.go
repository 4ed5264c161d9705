package cuda

// bucket rounds a number of rows up to one for which kernels are chosen and
// graphs recorded. Decode steps have steps of 8 rows, so that padding costs
// little; beyond 256 rows a product's time is in its arithmetic.
func bucket(rows int) int {
	switch {
	case rows <= 2:
		return rows
	case rows <= 4:
		return 4
	case rows <= 256:
		return roundUp(rows, 8)
	case rows <= 1024:
		return roundUp(rows, 64)
	case rows <= 4096:
		return roundUp(rows, 128)
	default:
		return roundUp(rows, 512)
	}
}

// Buckets lists, largest first, the numbers of rows that steps of at most n rows
// are rounded up to. Kernels are chosen and graphs recorded at the first steps of
// each.
func (b *Backend) Buckets(n int) []int {
	var out []int
	for rows := n; rows > 0; {
		size := bucket(rows)
		out = append(out, min(size, n))
		// The next smaller bucket ends where this one begins.
		for rows > 0 && bucket(rows) == size {
			rows--
		}
	}
	return out
}

// graphRows is the largest decode step that is recorded.
const graphRows = 256

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// pad8 is a row's length on the device: whole 16-byte vectors of bfloat16.
func pad8(n int) int { return roundUp(n, 8) }

// ldb is the length of a stored row of a LoRA's B; see kernels/device/lora_term.cuh.
func ldb(rank int) int {
	if rank <= 16 {
		return roundUp(rank, 4)
	}
	return roundUp(rank, 8)
}

// loraTiles is the scratch of one term, in tiles.
func loraTiles(rows, rank int32) int32 { return (rows + 7) / 8 * ((rank + 15) / 16) }
