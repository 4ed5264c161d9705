package peft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of an adapter.
const (
	ConfigFile  = "adapter_config.json"
	WeightsFile = "adapter_model.safetensors"
	// PickleFile is the older format, which is never read.
	PickleFile = "adapter_model.bin"
)

// Locate returns the paths of an adapter's two files in the folder dir. An
// absent file is fs.ErrNotExist, naming it; an adapter saved only as
// adapter_model.bin is ErrUnsupported.
func Locate(dir string) (config, weights string, err error) {
	config, weights = filepath.Join(dir, ConfigFile), filepath.Join(dir, WeightsFile)
	if _, err := os.Stat(config); err != nil {
		return "", "", fmt.Errorf("peft: adapter: %w", err)
	}
	_, err = os.Stat(weights)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, PickleFile)); err == nil {
			return "", "", fmt.Errorf("%w: %s: %s is a Python pickle, which runs code when it is read; "+
				"save the adapter as safetensors", ErrUnsupported, dir, PickleFile)
		}
	}
	if err != nil {
		return "", "", fmt.Errorf("peft: adapter: %w", err)
	}
	return config, weights, nil
}
