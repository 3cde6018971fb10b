package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/instance/node"
	"cupel.dev/cupel/internal/trusted/sealed"
	"cupel.dev/cupel/internal/trusted/wire"
)

// replica keeps snapshots in memory.
type replica struct {
	stored map[wire.Snapshot]string
	err    error
	pulls  atomic.Int32 // how often one was read
}

func (r *replica) Push(_ context.Context, s wire.Snapshot, size int64, open func() (io.ReadCloser, error)) error {
	if r.err != nil {
		return r.err
	}
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("%d bytes, announced %d", len(b), size)
	}
	r.stored[s] = string(b)
	return err
}

func (r *replica) Pull(ctx context.Context, s wire.Snapshot) (io.ReadCloser, error) {
	if first, err := r.Stream(ctx, s); err == nil { // to judge it, as the registry's client does
		_ = first.Close()
	}
	return r.Stream(ctx, s)
}

func (r *replica) Stream(_ context.Context, s wire.Snapshot) (io.ReadCloser, error) {
	r.pulls.Add(1)
	text, ok := r.stored[s]
	if !ok {
		return nil, problem.New(problem.NotFound, "volume_missing", "none")
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (r *replica) DropAll(_ context.Context, id ident.Digest) error {
	for s := range r.stored {
		if s.Volume == id {
			delete(r.stored, s)
		}
	}
	return r.err
}

func (r *replica) Drop(_ context.Context, s wire.Snapshot) error {
	delete(r.stored, s)
	return r.err
}

// socketClient serves a node socket and returns its client.
func socketClient(t *testing.T, s *nodeSocket) *node.Node {
	t.Helper()
	dir := t.TempDir()
	s.logger = slog.New(slog.DiscardHandler)
	if s.report == nil {
		s.report = func(context.Context, wire.Status) wire.Orders { return wire.Orders{} }
	}
	if err := s.serve(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { settle(s) })
	return node.NewNode(filepath.Join(dir, wire.NodeSocket))
}

// settle waits for requests under way and ends the socket.
func settle(s *nodeSocket) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = s.server.Shutdown(ctx)
}

func store(t *testing.T, r Replica) *volumeStore {
	t.Helper()
	return &volumeStore{
		dir: t.TempDir(), replica: r, logger: slog.New(slog.DiscardHandler), locks: map[ident.Digest]*sync.Mutex{},
		tell: func(_ context.Context, in manager.Incident) { t.Errorf("told: %+v", in) },
		note: func(_ context.Context, what string, err error) {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		},
	}
}

// named is how the snapshot with that text is known.
func named(id ident.Digest, generation uint64, text string) wire.Snapshot {
	return wire.Snapshot{Volume: id, Generation: generation, Tag: tagOf(text)}
}

func tagOf(text string) ident.Digest {
	tag, _ := sealed.StoredTag(strings.NewReader(text))
	return tag
}

// put stores a text as a snapshot.
func put(n *node.Node, id ident.Digest, generation uint64, text string) error {
	return n.Put(context.Background(), id, generation, strings.NewReader(text), func() ident.Digest { return tagOf(text) })
}

// get returns a snapshot's text, or the rule by which it was refused.
func get(t *testing.T, n *node.Node, s wire.Snapshot) string {
	t.Helper()
	r, _, err := n.Get(t.Context(), s)
	if err != nil {
		return string(problem.From(err).Rule)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestStoreThatFails is told with its cause, and that it works again.
func TestStoreThatFails(t *testing.T) {
	volumes, id := store(t, nil), ident.Digest{1}
	var told []error
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: volumes, stored: func(_ context.Context, err error) { told = append(told, err) }})
	inTheWay := filepath.Join(volumes.dir, id.String())
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := put(n, id, 1, "one"); err == nil {
		t.Error("stored where a file is")
	}
	if err := errors.Join(os.Remove(inTheWay), put(n, id, 1, "one")); err != nil {
		t.Error(err)
	}
	if len(told) != 2 || problem.From(told[0]).Rule != "volume_store" || told[1] != nil {
		t.Errorf("told: %v", told)
	}
}

func TestVolumeGenerations(t *testing.T) {
	r := &replica{stored: map[wire.Snapshot]string{}}
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: store(t, r)})
	id := ident.Digest{1}
	// What is put, and which of all texts are there then.
	texts := map[string]uint64{"one": 1, "two": 2, "two, from one cut off": 2, "three": 3}
	for _, step := range []struct {
		text string
		want []string
	}{
		{"one", []string{"one"}},
		{"two", []string{"one", "two"}},
		{"two, from one cut off", []string{"one", "two", "two, from one cut off"}},
		{"two", []string{"one", "two", "two, from one cut off"}}, // again
		{"three", []string{"two", "two, from one cut off", "three"}},
	} {
		if err := put(n, id, texts[step.text], step.text); err != nil {
			t.Fatal(err)
		}
		for text, g := range texts {
			want := "volume_missing"
			if slices.Contains(step.want, text) {
				want = text
			}
			// The replica of this test drops nothing by itself.
			delete(r.stored, named(id, g-1, "one"))
			if s := named(id, g, text); want == "volume_missing" {
				delete(r.stored, s)
			}
			if got := get(t, n, named(id, g, text)); got != want {
				t.Errorf("after %q: %q is %q, want %q", step.text, text, got, want)
			}
		}
	}
	if got := get(t, n, named(ident.Digest{2}, 3, "three")); got != "volume_missing" {
		t.Errorf("another volume: %q", got)
	}
	if got := get(t, n, named(id, 2, "three")); got != "volume_missing" {
		t.Errorf("another generation: %q", got)
	}
}

// TestStaleWriter: one that lost its lease costs nobody the generation that the
// CAS took, whenever its own arrives; and many that could not commit do not
// fill the disk.
func TestStaleWriter(t *testing.T) {
	r := &replica{stored: map[wire.Snapshot]string{}}
	s := store(t, r)
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	id := ident.Digest{1}
	for i := range 2 * keepSnapshots {
		if err := put(n, id, 1, fmt.Sprint("never committed ", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"committed", "stale", "stale as well"} {
		if err := put(n, id, 1, text); err != nil {
			t.Fatal(err)
		}
	}
	committed := named(id, 1, "committed")
	if got := get(t, n, committed); got != "committed" {
		t.Errorf("the generation that the CAS took is %q", got)
	}
	if kept, err := s.list(id); err != nil || len(kept) != keepSnapshots || len(r.stored) != keepSnapshots {
		t.Errorf("%d snapshots here, %d in the replica, want %d (%v)", len(kept), len(r.stored), keepSnapshots, err)
	}
	// The same name with other bytes does not replace what is there.
	err := n.Put(t.Context(), id, 1, strings.NewReader("other bytes"), func() ident.Digest { return committed.Tag })
	if got := get(t, n, committed); err != nil || got != "committed" {
		t.Errorf("after another PUT of its name: %q, %v", got, err)
	}
}

func TestVolumeRefusals(t *testing.T) {
	s := store(t, nil)
	socket := &nodeSocket{memory: 1, volumes: s}
	n := socketClient(t, socket)
	id := ident.Digest{1}
	rule := func(err error) string {
		if err == nil {
			return ""
		}
		return string(problem.From(err).Rule)
	}
	if got := rule(put(n, id, 0, "x")); got != "generation" {
		t.Errorf("generation 0: %q", got)
	}
	if err := n.Put(t.Context(), id, 1, io.LimitReader(zeros{}, int64(wire.MaxSnapshot(wire.Budget(1)))+2), noTag); err == nil {
		t.Error("larger than the memory: stored")
	}
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("broke off")))
	if err := n.Put(t.Context(), id, 1, broken, noTag); err == nil {
		t.Error("a body that broke off: stored")
	}
	if got := get(t, n, wire.Snapshot{Volume: id, Generation: 1}); got != "volume_missing" {
		t.Errorf("after refusals: %q", got)
	}
	untagged := func() (ident.Digest, error) { return parseTag("") }
	if got := rule(s.put(t.Context(), id, 1, strings.NewReader("no tag follows"), untagged)); got != "volume_tag" {
		t.Errorf("without a tag: %q", got)
	}
	settle(socket)
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*", "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if err := s.sweep(); err != nil {
		t.Error(err)
	}
}

func noTag() ident.Digest { return ident.Digest{} }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestVolumeReplica(t *testing.T) {
	r := &replica{stored: map[wire.Snapshot]string{}}
	s := store(t, r)
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	id := ident.Digest{1}
	if err := put(n, id, 1, "one"); err != nil {
		t.Fatal(err)
	}
	// The node's own copy is gone: another node asks.
	if err := os.Remove(s.path(named(id, 1, "one"))); err != nil {
		t.Fatal(err)
	}
	if got := get(t, n, named(id, 1, "one")); got != "one" {
		t.Errorf("from the replica: %q", got)
	}
	r.err = errors.New("down")
	err := put(n, id, 2, "two")
	if p := problem.From(err); err == nil || p.Rule != "registry_unreachable" || p.Kind != problem.Unavailable {
		t.Errorf("with the registry down: %v", err)
	}
	if left, err := s.list(id); err != nil || len(left) != 0 {
		t.Errorf("left of what is not durable: %v, %v", left, err)
	}
}

func TestFullDisk(t *testing.T) {
	need.Root(t)
	s := store(t, nil)
	if err := syscall.Mount("tmpfs", s.dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(s.dir, syscall.MNT_DETACH) }()
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	err := n.Put(t.Context(), ident.Digest{1}, 1, io.LimitReader(zeros{}, 1<<20), noTag)
	if p := problem.From(err); err == nil || p.Rule != "disk_full" || p.Mend == "" {
		t.Errorf("full disk: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*", "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestStatusReports(t *testing.T) {
	var got []wire.Status
	n := socketClient(t, &nodeSocket{volumes: store(t, nil), report: func(_ context.Context, s wire.Status) wire.Orders {
		got = append(got, s)
		return wire.Orders{GraceMillis: 4000}
	}})
	want := wire.Status{Phase: wire.Refused, Code: 3, Problem: problem.New(problem.Denied, "x", "y")}
	orders, err := n.Report(t.Context(), want)
	if err != nil || orders.GraceMillis != 4000 {
		t.Fatalf("%+v, %v", orders, err)
	}
	if len(got) != 1 || got[0].Phase != wire.Refused || got[0].Code != 3 || got[0].Problem.Rule != "x" {
		t.Errorf("%+v", got)
	}
	if _, err := n.Report(t.Context(), wire.Status{Phase: "dancing"}); problem.KindOf(err) != problem.Invalid {
		t.Errorf("unknown phase: %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again in the same directory
		l, err := ListenUnix(dir, "s.sock")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Close()
			}
		}()
		t.Chdir(dir)
		c, err := net.Dial("unix", "s.sock")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "s.sock")); err != nil {
			t.Errorf("closing removed the socket: %v", err)
		}
	}
	if _, err := ListenUnix(dir+"/none", "s"); err == nil {
		t.Error("listens in no folder")
	}
}

// TestCASFromAnOlderBackup: where the CAS asks for a generation before those that are here,
// the problem names that, and not a volume that is missing.
func TestCASFromAnOlderBackup(t *testing.T) {
	for name, r := range map[string]Replica{"no replica": nil, "replica": &replica{stored: map[wire.Snapshot]string{}}} {
		t.Run(name, func(t *testing.T) {
			var reported []*problem.Error
			socket := &nodeSocket{memory: 1 << 20, volumes: store(t, r)}
			socket.report = func(_ context.Context, s wire.Status) wire.Orders {
				reported = append(reported, s.Problem)
				return wire.Orders{}
			}
			n := socketClient(t, socket)
			id := ident.Digest{1}
			for generation, text := range []string{"one", "two", "three"} {
				if err := put(n, id, uint64(generation)+1, text); err != nil {
					t.Fatal(err)
				}
			}
			if fake, ok := r.(*replica); ok {
				delete(fake.stored, named(id, 1, "one")) // it drops nothing by itself
			}
			refused := wire.Status{Version: wire.StatusVersion, Phase: wire.Refused, Problem: problem.New(problem.Denied, "volume_missing", "the node has no such generation")}
			for _, asked := range []wire.Snapshot{named(id, 1, "one"), named(id, 4, "four")} {
				if got := get(t, n, asked); got != "volume_missing" {
					t.Fatalf("generation %d is %q", asked.Generation, got)
				}
				if _, err := n.Report(t.Context(), refused); err != nil {
					t.Fatal(err)
				}
			}
			// A volume that was found since ends it: what is missing then is another one.
			for _, asked := range []wire.Snapshot{named(id, 1, "one"), named(id, 3, "three")} {
				_ = get(t, n, asked)
			}
			if _, err := n.Report(t.Context(), refused); err != nil {
				t.Fatal(err)
			}
			if len(reported) != 3 || reported[1].Actual != refused.Problem.Actual || reported[2].Actual != refused.Problem.Actual {
				t.Fatalf("reported: %v", reported)
			}
			why := reported[0]
			if !strings.Contains(why.Actual, "asks for generation 1") || !strings.Contains(why.Actual, "has generation 3, which is newer") || !strings.HasPrefix(why.Mend, "the CAS, or its folder (cas/ in the state folder), was put back from an older backup") {
				t.Errorf("%v", why)
			}
			t.Log(why)
		})
	}
}
