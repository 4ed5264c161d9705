package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

const notice = "<!-- Made by `go run ./tools/docs`; change the source, not this file. -->\n\n"

// page is a generated file of docs/reference.
type page struct {
	name string
	make func(root string) (string, error)
}

var pages = []page{
	{"native.md", native},
	{"errors.md", errorsPage},
	{"metrics.md", metricsPage},
}

func main() {
	root := flag.String("root", ".", "the repository")
	bin := flag.String("bin", "", "the chorale program, for cli.md")
	flag.Parse()
	if err := run(*root, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

func run(root, bin string) error {
	all := pages
	if bin != "" {
		all = append(all, page{"cli.md", func(string) (string, error) { return cliPage(bin) }})
	}
	for _, p := range all {
		text, err := p.make(root)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := os.WriteFile(filepath.Join(root, "docs", "reference", p.name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
