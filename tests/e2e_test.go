package tests

import (
	"sync"
	"testing"
)

// TestE2E is the suite of the whole: everything in one process, and split into
// router, adapter manager and two workers.
func TestE2E(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			s := m.start(t, limits{all: []string{"--max-loras-per-batch", "4", "--max-resident-loras", "4"}})
			for _, c := range []struct {
				name string
				test func(s *site)
			}{
				{"no adapters at first", testEmpty},
				{"load over every face", testLoadFaces},
				{"own answers", testOwnAnswers},
				{"one step", testOneStep},
				{"same seed same text", testSeeds},
				{"grpc", testGRPC},
				{"native rest", testNative},
				{"sglang generate", testSGLang},
				{"sglang stream", testSGLangStream},
				{"sglang logprobs", testSGLangLogprobs},
				{"sglang information", testSGLangInfo},
				{"openai completions", testCompletions},
				{"openai chat", testChat},
				{"stop strings", testStops},
				{"models", testModels},
				{"tokenize", testTokenize},
				{"metrics", testMetrics},
				{"health", testHealth},
				{"unknown adapter", testUnknownAdapter},
				{"wrong types", testWrongTypes},
				{"unknown fields", testUnknownFields},
				{"sampling values", testSamplingValues},
				{"prompts", testPrompts},
				{"broken adapters", testBrokenAdapters},
				{"sources", testSources},
				{"names", testNames},
				{"disconnect", testDisconnect},
				{"abort", testAbort},
				{"unload while running", testUnloadRunning},
				{"replace while running", testReplaceRunning},
				{"versions", testVersions},
				{"unload over every face", testUnloadFaces},
			} {
				t.Run(c.name, func(t *testing.T) {
					c.test(s.in(t))
					s.in(t).idle(callLimit)
				})
			}
		})
	}
}

// TestE2ELimits: more adapters than places on the device, in a batch, and among
// the loaded.
func TestE2ELimits(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Run("resident", func(t *testing.T) {
				s := m.start(t, limits{
					all:  []string{"--max-loras-per-batch", "2", "--max-resident-loras", "2", "--lora-eviction-policy", "lfu"},
					face: []string{"--metrics-max-adapters", "2"},
				})
				testMoreThanResident(s)
				testResidencyMetrics(s, len(names))
			})
			t.Run("loaded", func(t *testing.T) {
				s := m.start(t, limits{all: []string{"--max-loras-per-batch", "2"}, maxLoaded: 2})
				testMoreThanLoaded(s)
			})
		})
	}
}

// texts remembers answers of the first mode, which the other must give too.
var texts sync.Map

// same compares a text with that of the other mode.
func (s *site) same(key, text string) {
	s.t.Helper()
	if first, ok := texts.LoadOrStore(key, text); ok && first != text {
		s.t.Errorf("%s: %q, in the other mode %q", key, text, first)
	}
}
