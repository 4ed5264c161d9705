package peft

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// digestVersion changes whenever the form does, so that digests of different
// forms never meet.
const digestVersion = "chorale-adapter-2\n"

// firstVersion hashed the weights in one piece. Registries still hold such
// digests.
const firstVersion = "chorale-adapter-1\n"

// digestBlock is the size of the blocks in which weights are hashed. One core
// hashes 1.5 GB/s, and an adapter that is to be brought back is waited for.
const digestBlock = 1 << 20

// ErrDigest reports files that are not those of a digest.
var ErrDigest = errors.New("peft: digest mismatch")

// canonical is the part of a Config that decides the forward pass. Sets are
// sorted (PEFT writes Python sets, whose order is random), rules keep their
// order since the first match wins.
type canonical struct {
	Alpha             float64  `json:"alpha"`
	AlphaPattern      []Rule   `json:"alpha_pattern"`
	Bias              string   `json:"bias"`
	EnsureWeightTying bool     `json:"ensure_weight_tying"`
	Exclude           Selector `json:"exclude_modules"`
	LayersPattern     []string `json:"layers_pattern"`
	Layers            []int    `json:"layers_to_transform"`
	LoRABias          bool     `json:"lora_bias"`
	R                 int      `json:"r"`
	RankPattern       []Rule   `json:"rank_pattern"`
	RSLoRA            bool     `json:"rslora"`
	Target            Selector `json:"target_modules"`
}

// Digest identifies an adapter: "sha256:" and 64 hexadecimal digits over a
// version line, the canonical config as one line of JSON, and the SHA-256 of
// each MiB of weights (adapter_model.safetensors as it is). Two configs that
// differ only in formatting, order of sets, or fields without influence on the
// forward pass (names, versions, dropout, …) have the same digest. A config
// that ParseConfig refuses gives its error, a failing reader its own.
func Digest(config []byte, weights io.Reader) (string, error) {
	form, err := canonicalForm(config)
	if err != nil {
		return "", err
	}
	sums, err := hashReader(weights)
	if err != nil {
		return "", fmt.Errorf("peft: digest: weights: %w", err)
	}
	return digestOf(digestVersion, form, sums), nil
}

// Verify tells whether files in memory are those of a digest, of this version
// or the first: ErrDigest if not.
func Verify(digest string, config, weights []byte) error {
	form, err := canonicalForm(config)
	if err != nil {
		return err
	}
	got := digestOf(digestVersion, form, hashBlocks(weights))
	if got != digest && digestOf(firstVersion, form, weights) != digest {
		return fmt.Errorf("%w: the digest is %s, not %s", ErrDigest, got, digest)
	}
	return nil
}

func canonicalForm(config []byte) ([]byte, error) {
	c, err := ParseConfig(config)
	if err != nil {
		return nil, err
	}
	form, err := json.Marshal(canonical{
		Alpha: c.Alpha, AlphaPattern: c.AlphaPattern, Bias: c.Bias, EnsureWeightTying: c.EnsureWeightTying,
		Exclude: c.ExcludeModules.sorted(), LayersPattern: c.LayersPattern, Layers: sortedSet(c.LayersToTransform),
		LoRABias: c.LoRABias, R: c.R, RankPattern: c.RankPattern, RSLoRA: c.RSLoRA, Target: c.TargetModules.sorted(),
	})
	if err != nil {
		return nil, fmt.Errorf("peft: digest: %w", err)
	}
	return form, nil
}

func digestOf(version string, form, weights []byte) string {
	h := sha256.New()
	h.Write([]byte(version))
	h.Write(append(form, '\n'))
	h.Write(weights)
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// hashBlocks gives the hashes of all blocks, one after the other.
func hashBlocks(weights []byte) []byte {
	n := (len(weights) + digestBlock - 1) / digestBlock
	sums := make([]byte, n*sha256.Size)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				sum := sha256.Sum256(weights[i*digestBlock : min((i+1)*digestBlock, len(weights))])
				copy(sums[i*sha256.Size:], sum[:])
			}
		})
	}
	wg.Wait()
	return sums
}

// buffers are hashReader's: clearing a new one takes longer than hashing a small
// adapter.
var buffers = sync.Pool{New: func() any { return new([16 * digestBlock]byte) }}

// hashReader does the same with what is read, a few blocks at a time.
func hashReader(r io.Reader) ([]byte, error) {
	whole := buffers.Get().(*[16 * digestBlock]byte)
	defer buffers.Put(whole)
	var sums []byte
	for buf := whole[:]; ; {
		n, err := io.ReadFull(r, buf)
		sums = append(sums, hashBlocks(buf[:n])...)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return sums, nil
		case err != nil:
			return nil, err
		}
	}
}

func (s Selector) sorted() Selector {
	s.List = sortedSet(s.List)
	return s
}

func sortedSet[T int | string](v []T) []T {
	v = slices.Clone(v)
	slices.Sort(v)
	return slices.Compact(v)
}
