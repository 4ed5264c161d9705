package hub

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// DefaultRevision is the branch that a name without revision means.
const DefaultRevision = "main"

const (
	maxRepoName = 96
	maxPath     = 1024
)

var (
	repoPart   = regexp.MustCompile(`^[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?$`)
	commitName = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// An etag becomes a file name.
	etagName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// ParseName splits ORG/NAME or ORG/NAME@REVISION (ORG may be absent) and
// checks both parts. The revision is DefaultRevision when there is none.
func ParseName(s string) (repo, revision string, err error) {
	repo, revision, given := strings.Cut(s, "@")
	if !given {
		revision = DefaultRevision
	}
	if err := checkRepo(repo); err != nil {
		return "", "", wrap(repo, "", "", err)
	}
	if err := checkRevision(revision); err != nil {
		return "", "", wrap(repo, revision, "", err)
	}
	return repo, revision, nil
}

func checkRepo(repo string) error {
	parts := strings.Split(repo, "/")
	if len(parts) > 2 || len(repo) > maxRepoName {
		return fmt.Errorf("%w: a repository is called ORG/NAME, at most %d bytes", ErrName, maxRepoName)
	}
	for _, p := range parts {
		// "--" separates the parts in the cache's folder names.
		if !repoPart.MatchString(p) || strings.Contains(p, "--") || strings.Contains(p, "..") {
			return fmt.Errorf("%w: a repository is called ORG/NAME, of letters, digits and single . _ -", ErrName)
		}
	}
	return nil
}

func checkRevision(rev string) error {
	if err := checkPath(rev); err != nil || strings.HasPrefix(rev, "-") {
		return fmt.Errorf("%w: revision %q", ErrName, rev)
	}
	return nil
}

// checkPath accepts clean relative slash-separated paths that stay below
// their root on every operating system.
func checkPath(p string) error {
	bad := p == "" || len(p) > maxPath || !utf8.ValidString(p) ||
		strings.ContainsAny(p, "\\\x00:") || strings.ContainsFunc(p, isControl)
	for part := range strings.SplitSeq(p, "/") {
		bad = bad || part == "" || part == "." || part == ".."
	}
	if bad || !filepath.IsLocal(filepath.FromSlash(p)) {
		return fmt.Errorf("%w: path %q", ErrName, p)
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// DefaultAllow are the files that a model or an adapter may need. Pickled
// weights and code are not among them.
func DefaultAllow() []string {
	return []string{
		"*.safetensors", "*.json", "*.gguf", "*.jinja",
		"tokenizer.model", "*.tiktoken", "merges.txt", "vocab.txt",
	}
}

// filter returns the files that one of the patterns matches, sorted.
func filter(files, allow []string) []string {
	if len(allow) == 0 {
		allow = DefaultAllow()
	}
	var kept []string
	for _, f := range files {
		if slices.ContainsFunc(allow, func(p string) bool { return matches(p, f) }) {
			kept = append(kept, f)
		}
	}
	slices.Sort(kept)
	return kept
}

// matches compares a whole path with a pattern in which * stands for any
// characters, slashes too, and ? for one, as huggingface_hub's allow_patterns
// do. It takes linear time for each * at worst.
func matches(pattern, path string) bool {
	p, s, star, retry := 0, 0, -1, 0
	for s < len(path) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, s
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == path[s]):
			p, s = p+1, s+1
		case star >= 0:
			retry++
			p, s = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
