package testkit

import (
	"testing"

	"chorale/internal/gguf"
)

func TestShallow(t *testing.T) {
	whole, err := gguf.Open(Model(t))
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	part, err := gguf.Open(Shallow(t))
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	if len(part.Keys()) != len(whole.Keys()) || len(part.Names()) >= len(whole.Names())/2 {
		t.Errorf("%d keys of %d, %d tensors of %d", len(part.Keys()), len(whole.Keys()), len(part.Names()), len(whole.Names()))
	}
	a, err := whole.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	b, err := part.Vocab()
	if err != nil || len(a.Tokens) != len(b.Tokens) || a.ChatTemplate != b.ChatTemplate {
		t.Errorf("the vocabulary differs: %v", err)
	}
}
