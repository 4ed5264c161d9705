package store

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestClassify(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOSPC: ErrFull, syscall.EDQUOT: ErrFull, syscall.EROFS: ErrReadOnly,
		syscall.EACCES: ErrReadOnly, syscall.EPERM: ErrReadOnly,
	} {
		err := classify("write", "/data/registry.db", &os.PathError{Op: "write", Path: "x", Err: errno})
		if !errors.Is(err, want) || !errors.Is(err, errno) || !strings.Contains(err.Error(), "/data/registry.db") {
			t.Errorf("%v: %v", errno, err)
		}
	}
	if classify("write", "x", nil) != nil {
		t.Error("nil is an error")
	}
}
