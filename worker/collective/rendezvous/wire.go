package rendezvous

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Rules that a rank can break. A follower's error wraps the one it was refused
// for; the leader's, the one that ended the meeting.
var (
	// ErrSize: the rank thinks of a group of another size, or is not in it.
	ErrSize = errors.New("another group size")
	// ErrDuplicate: this rank is already here.
	ErrDuplicate = errors.New("the rank is taken")
	// ErrDigest: the rank runs another model, program or set of options.
	ErrDigest = errors.New("another model or version")
	// ErrSession: the rank was started for another session.
	ErrSession = errors.New("another session")
	// ErrLate: the group is already complete, or was given up.
	ErrLate = errors.New("too late")
	// ErrMissing: not all ranks came in time. The leader's error is a
	// *MissingError.
	ErrMissing = errors.New("ranks are missing")
	// ErrProtocol: the other side speaks something else.
	ErrProtocol = errors.New("no rendezvous")
)

// MissingError tells who did not come.
type MissingError struct {
	Ranks []int
	After time.Duration
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("after %v these ranks are missing: %s", e.After.Round(time.Millisecond), strings.Trim(fmt.Sprint(e.Ranks), "[]"))
}

// Is makes it an ErrMissing.
func (e *MissingError) Is(target error) bool { return target == ErrMissing }

// Session is what all ranks of a group must agree about.
type Session struct {
	Size int
	// Nonce is of one start of one group.
	Nonce string
	// Digest is of everything that must be the same for equal results: the
	// program's version, the model's files, options.
	Digest string
}

// version is of what is sent here.
const version = 1

// kind tells messages apart.
type kind byte

const (
	kindHello kind = iota + 1
	kindWelcome
	kindRefusal
)

var prelude = []byte("chorale-ranks\n")

const maxMessage = 1 << 20

type hello struct {
	Version, Rank, Size    int
	Nonce, Digest, Address string
}

type refusal struct {
	Rule string
	Text string
}

// Welcome is what everybody gets when all are there.
type Welcome struct {
	// Addresses are those that the ranks gave, by rank.
	Addresses []string
	// Message is the leader's to all, for example an NCCL id.
	Message []byte
	// File says that a descriptor comes with it.
	File bool
}

// rules are the names of errors on the wire.
var rules = map[string]error{"size": ErrSize, "duplicate": ErrDuplicate, "digest": ErrDigest, "session": ErrSession, "late": ErrLate, "missing": ErrMissing, "protocol": ErrProtocol}

func ruleOf(err error) string {
	for name, rule := range rules {
		if errors.Is(err, rule) {
			return name
		}
	}
	return "protocol"
}

// encode frames a message: prelude, kind, length, JSON.
func encode(k kind, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes: %w", len(body), ErrProtocol)
	}
	out := append([]byte{}, prelude...)
	out = append(out, byte(k))
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	return append(out, body...), nil
}

func write(c net.Conn, k kind, v any) error {
	b, err := encode(k, v)
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// read gives the next message.
func read(r io.Reader) (kind, []byte, error) {
	head := make([]byte, len(prelude)+5)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	if string(head[:len(prelude)]) != string(prelude) {
		return 0, nil, fmt.Errorf("the other side is no rank: %w", ErrProtocol)
	}
	n := binary.BigEndian.Uint32(head[len(prelude)+1:])
	if n > maxMessage {
		return 0, nil, fmt.Errorf("a message of %d bytes: %w", n, ErrProtocol)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return kind(head[len(prelude)]), body, nil
}

func decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// Split takes an address apart: "unix:/path" or "unix:@name" (Linux: a name
// without a file), otherwise "host:port", with or without "tcp:".
func Split(address string) (network, where string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "unix", path
	}
	return "tcp", strings.TrimPrefix(address, "tcp:")
}
