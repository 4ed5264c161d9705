package tests

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

// startLimit is how long a role may take to be ready on a busy machine.
const startLimit = 90 * time.Second

// served is the base model's name in all sites.
const served = "smollm2"

// voices are the adapters that most tests use: of different ranks, modules and layers.
var voices = map[string]testkit.Adapter{
	"alto":  {Rank: 4, Modules: []string{"q_proj", "v_proj"}, Layers: testkit.ShallowLayers, Seed: 1, Strength: 1},
	"bass":  {Rank: 16, Modules: []string{"gate_proj", "up_proj", "down_proj"}, Layers: 6, Seed: 2, Strength: 1},
	"canto": {Rank: 8, Modules: []string{"k_proj", "o_proj"}, Layers: 7, Seed: 3, Strength: 1},
	"duo":   {Rank: 2, Modules: []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, RSLoRA: true, Layers: 5, Seed: 4, Strength: 1},
	"echo":  {Rank: 1, Modules: []string{"v_proj", "o_proj"}, Layers: testkit.ShallowLayers, Seed: 5, Strength: 1},
}

// names are the voices in order.
var names = []string{"alto", "bass", "canto", "duo", "echo"}

// voiceRoot is a folder with one adapter per voice.
func voiceRoot(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, a := range voices {
		a.Write(t, filepath.Join(dir, name))
	}
	return dir
}

// limits are the flags of a site that tests vary.
type limits struct {
	// All roles get all; the manager registry; the workers worker; the router face.
	all, registry, worker, face []string
	// faulty processes can have their device broken; workerEnv is their
	// environment beside the usual.
	faulty    bool
	sense     bool // the whole model, for answers that mean something
	workerEnv []string
	each      [][]string // flags of each worker beside the usual
	maxLoaded int
	workers   int // of a split site, default 2
}

// site is a running Chorale: one process, or one per role.
type site struct {
	t       testing.TB
	root    string // the adapter root
	data    string // the data folder
	http    string // http://host:port
	grpc    string // host:port
	conn    *grpc.ClientConn
	infer   pb.InferenceServiceClient
	admin   pb.AdapterServiceClient
	device  string // of the first worker, "cpu/avx2"
	split   bool
	front   *testkit.Process // serve, or the router
	manager *testkit.Process
	workers []*testkit.Process

	limits                            limits
	addrs                             []string // of the workers
	managerAddr                       string
	frontArgs, managerArgs, workerCmd []string // to start them again
}

// mode is a way to run Chorale.
type mode struct {
	name  string
	start func(t testing.TB, l limits) *site
}

var modes = []mode{{"serve", startServe}, {"split", startSplit}}

// kernel is the CPU kernel of all sites of a test run: the one that the first
// measured as the fastest. Others may round differently.
var kernel struct {
	mu   sync.Mutex
	name string
}

func kernelFlag() []string {
	kernel.mu.Lock()
	defer kernel.mu.Unlock()
	if kernel.name == "" {
		return nil
	}
	return []string{"--cpu-kernel", kernel.name}
}

// modelFlags say the model: what is tested of the whole shows on a part of it as well,
// where the words need no sense.
func modelFlags(t testing.TB, l limits) []string {
	model := testkit.Shallow
	if l.sense {
		model = testkit.Model
	}
	return []string{"--model-path", model(t), "--context-length", "512", "--log-format", "json"}
}

// workerFlags keep the memory small and the limits near.
func workerFlags(l *limits) []string {
	return slices.Concat([]string{"--max-total-tokens", "8192", "--chunked-prefill-size", "64"}, kernelFlag(), l.worker)
}

func newSite(t testing.TB, split bool) *site {
	s := &site{t: t, split: split, root: voiceRoot(t), data: filepath.Join(t.TempDir(), "data")}
	return s
}

// startServe runs everything in one process.
func startServe(t testing.TB, l limits) *site {
	t.Helper()
	s := newSite(t, false)
	s.limits = l
	s.frontArgs = slices.Concat([]string{"serve"}, modelFlags(t, l), workerFlags(&l), []string{
		"--served-model-name", served, "--port", "0", "--data-dir", s.data, "--adapter-root", s.root,
	}, l.all, l.registry, l.face)
	if l.maxLoaded > 0 {
		s.frontArgs = append(s.frontArgs, "--max-loaded-loras", fmt.Sprint(l.maxLoaded))
	}
	s.startFront()
	return s
}

// startSplit runs a router, an adapter manager and workers as processes.
func startSplit(t testing.TB, l limits) *site {
	t.Helper()
	s := newSite(t, true)
	s.limits = l
	if l.workers == 0 {
		l.workers = 2
	}
	// Workers that share the cores wait for each other's threads otherwise.
	threads := max(1, runtime.NumCPU()/l.workers)
	s.workerCmd = slices.Concat([]string{"worker"}, modelFlags(t, l), []string{"--threads", fmt.Sprint(threads)}, workerFlags(&l), l.all)
	for i := range l.workers {
		s.workers = append(s.workers, testkit.Start(t, testkit.Options{
			Name: fmt.Sprintf("worker %d", i), Args: s.workerArgs(i, "127.0.0.1:0"),
			Faulty: l.faulty, Env: l.workerEnv,
		}))
	}
	for _, w := range s.workers {
		s.addrs = append(s.addrs, w.Message(t, "worker ready", startLimit)["grpc"].(string))
	}
	s.managerArgs = slices.Concat([]string{"adaptermgr", "--log-format", "json", "--data-dir", s.data, "--adapter-root", s.root, "--worker"}, s.addrs, l.all, l.registry)
	s.frontArgs = slices.Concat([]string{"router"}, modelFlags(t, l), []string{"--served-model-name", served, "--port", "0", "--worker"}, s.addrs, l.all, l.face)
	if l.maxLoaded > 0 {
		s.managerArgs = append(s.managerArgs, "--max-loaded-loras", fmt.Sprint(l.maxLoaded))
		s.frontArgs = append(s.frontArgs, "--max-loaded-loras", fmt.Sprint(l.maxLoaded))
	}
	s.startManager("127.0.0.1:0")
	s.frontArgs = append(s.frontArgs, "--adaptermgr", s.managerAddr)
	s.startFront()
	return s
}

// startManager starts the manager (again).
func (s *site) startManager(addr string) {
	s.t.Helper()
	s.manager = testkit.Start(s.t, testkit.Options{Name: "adaptermgr", Args: append(slices.Clone(s.managerArgs), "--listen", addr)})
	s.managerAddr = s.manager.Message(s.t, "adapter manager ready", startLimit)["grpc"].(string)
}

// workerArgs are a worker's arguments.
func (s *site) workerArgs(i int, addr string) []string {
	args := append(slices.Clone(s.workerCmd), "--listen", addr)
	if i < len(s.limits.each) {
		args = append(args, s.limits.each[i]...)
	}
	return args
}

// startWorker starts a worker again, at its old address.
func (s *site) startWorker(i int) {
	s.t.Helper()
	s.workers[i] = testkit.Start(s.t, testkit.Options{
		Name: fmt.Sprintf("worker %d again", i), Args: s.workerArgs(i, s.addrs[i]),
		Faulty: s.limits.faulty, Env: s.limits.workerEnv,
	})
}

// startFront starts serve or the router; again, at the same ports.
func (s *site) startFront() {
	s.t.Helper()
	args := slices.Clone(s.frontArgs)
	if s.http != "" {
		args = append(args, "--port", s.http[strings.LastIndex(s.http, ":")+1:], "--grpc-port", s.grpc[strings.LastIndex(s.grpc, ":")+1:])
	}
	name := "serve"
	if s.split {
		name = "router"
	}
	o := testkit.Options{Name: name, Args: args}
	if !s.split {
		o.Faulty, o.Env = s.limits.faulty, s.limits.workerEnv
	}
	s.front = testkit.Start(s.t, o)
	ready := s.front.Message(s.t, "serving", startLimit)
	s.http, s.grpc = ready["http"].(string), ready["grpc"].(string)
	if s.conn == nil {
		s.dial()
	}
	s.ready()
}

func (s *site) dial() {
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	s.conn, s.infer, s.admin = conn, pb.NewInferenceServiceClient(conn), pb.NewAdapterServiceClient(conn)
}

// ready waits until all worker groups are connected.
func (s *site) ready() {
	s.t.Helper()
	s.until("all worker groups are connected", startLimit, func() bool {
		info := s.info()
		for _, g := range info.WorkerGroups {
			if !g.Connected {
				return false
			}
			s.device = g.Device
		}
		return len(info.WorkerGroups) > 0
	})
	kernel.mu.Lock()
	defer kernel.mu.Unlock()
	if name, cpu := strings.CutPrefix(s.device, "cpu/"); cpu && kernel.name == "" {
		kernel.name = name
	}
}

// until polls for a condition.
func (s *site) until(what string, limit time.Duration, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v it is not so that %s", limit, what)
		}
	}
}

// group is a worker group of /chorale/v1/server.
type group struct {
	Address          string
	Connected        bool
	Device           string
	Running          int
	Waiting          int
	LastStepRows     int
	LastStepAdapters int
	MaxStepAdapters  int
	ResidentAdapters []string
	Steps            uint64 `json:",string"`
	Error            string
}

type serverInfo struct {
	Version      string
	Running      int
	Queued       int
	WorkerGroups []group
}

// info reads /chorale/v1/server; zero when the server cannot be reached.
func (s *site) info() serverInfo {
	var out serverInfo
	if code, body := s.get("/chorale/v1/server"); code == 200 {
		if err := json.Unmarshal(body, &out); err != nil {
			s.t.Fatalf("/chorale/v1/server: %v in %s", err, body)
		}
	}
	return out
}

// idle waits until no sequence runs anywhere.
func (s *site) idle(limit time.Duration) {
	s.t.Helper()
	s.until("nothing runs", limit, func() bool {
		info := s.info()
		n := info.Running + info.Queued
		for _, g := range info.WorkerGroups {
			n += g.Running + g.Waiting
		}
		return len(info.WorkerGroups) > 0 && n == 0
	})
}

// running tells whether a worker computes a sequence.
func (s *site) running() bool {
	for _, g := range s.info().WorkerGroups {
		if g.Running > 0 {
			return true
		}
	}
	return false
}

// in gives the site to a subtest, which is blamed for what goes wrong.
func (s *site) in(t testing.TB) *site {
	c := *s
	c.t = t
	return &c
}

// terminate is SIGTERM.
const terminate = syscall.SIGTERM
