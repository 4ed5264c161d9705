package main

import (
	"fmt"
	"slices"
	"strings"
)

// lists are SGLang's flags that take several values: "--lora-paths a=x b=y".
var lists = []string{"--lora-paths", "--lora-target-modules", "--adapter-root", "--worker", "--allowed-origins", "--preload"}

// meaningless are SGLang's flags that mean nothing here, with whether a value
// follows. They are accepted so that launch scripts run unchanged.
var meaningless = map[string]bool{
	"--disable-radix-cache": false, "--trust-remote-code": false, "--enable-metrics": false,
	"--enable-torch-compile":      false,
	"--disable-custom-all-reduce": false, "--enable-mixed-chunk": false, "--enable-lora-overlap-loading": false,
	"--lora-strict-loading": false, "--disable-cuda-graph-padding": false, "--enable-p2p-check": false,
	"--disable-flashinfer": false, "--disable-piecewise-cuda-graph": false,
	"--random-seed": true, "--cuda-graph-max-bs": true, "--cuda-graph-max-bs-decode": true, "--cuda-graph-bs": true,
	"--attention-backend": true, "--sampling-backend": true, "--prefill-attention-backend": true,
	"--decode-attention-backend": true, "--grammar-backend": true, "--schedule-policy": true,
	"--schedule-conservativeness": true, "--max-prefill-tokens": true, "--page-size": true, "--stream-interval": true,
	"--watchdog-timeout": true, "--dp-size": true, "--nnodes": true, "--node-rank": true, "--dist-init-addr": true,
	"--kv-cache-dtype": true, "--quantization": true, "--tokenizer-mode": true, "--base-gpu-id": true,
	"--lora-backend": true, "--max-lora-chunk-size": true, "--lora-drain-wait-threshold": true, "--nccl-port": true,
	"--log-requests-level": true, "--decode-log-interval": true, "--num-continuous-decode-steps": true,
}

// aliases are SGLang's other spellings of flags.
var aliases = map[string]string{
	"--model": "--model-path", "--tp": "--tp-size", "--tensor-parallel-size": "--tp-size",
	"--enable-deterministic-inference": "--deterministic",
}

// one is what some meaningless flags must be set to, lest a promise be broken
// silently.
var one = map[string]string{"--dp-size": "1", "--nnodes": "1", "--node-rank": "0", "--kv-cache-dtype": "auto"}

// benchmark gives "bench" alone its help, and load on a server, which once was
// all that it measured, its name.
func benchmark(args []string) []string {
	switch {
	case len(args) == 1:
		return append(args, "--help")
	case strings.HasPrefix(args[1], "-") && args[1] != "-h" && args[1] != "--help":
		return slices.Insert(slices.Clone(args), 1, "serve")
	}
	return args
}

// compatible turns SGLang's way of writing flags into ours and takes out those
// that mean nothing. It only looks at server commands.
func compatible(args []string) (out, ignored []string, err error) {
	if len(args) > 1 && args[0] == "worker" && args[1] == "drain" {
		return args[1:], nil, nil
	}
	if len(args) > 0 && args[0] == "bench" {
		return benchmark(args), nil, nil
	}
	if len(args) == 0 || !slices.Contains([]string{"serve", "router", "adaptermgr", "worker"}, args[0]) {
		return args, nil, nil
	}
	out = append(out, args[0])
	for i := 1; i < len(args); i++ {
		name, value, inline := strings.Cut(args[i], "=")
		if !strings.HasPrefix(name, "--") {
			out = append(out, args[i])
			continue
		}
		if a, ok := aliases[name]; ok {
			name = a
		}
		takes, known := meaningless[name]
		switch {
		case known:
			ignored = append(ignored, name)
			if takes && !inline && i+1 < len(args) {
				i++
				value = args[i]
			}
			if want, ok := one[name]; ok && value != want {
				return nil, nil, fmt.Errorf("%s %s is not supported (only %s)", name, value, want)
			}
		case slices.Contains(lists, name) && !inline:
			for i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
				i++
				out = append(out, name+"="+args[i])
			}
		case inline:
			out = append(out, name+"="+value)
		default:
			out = append(out, name)
		}
	}
	return out, ignored, nil
}

func join(s []string) string { return strings.Join(s, ", ") }
