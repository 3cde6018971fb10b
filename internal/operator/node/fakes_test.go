package node

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node/cgroup"
)

// fakeRuntime is a Runtime of which a test says what there is.
type fakeRuntime struct {
	mu         sync.Mutex
	containers []ContainerState
	left       []ident.AttemptID         // what Leftovers finds
	during     func()                    // called by List and Leftovers before they answer
	fails      map[ident.AttemptID]error // by id: what Delete says
	hangs      bool                      // nothing answers
	deleted    []ident.AttemptID
}

// answer waits where nothing answers.
func (r *fakeRuntime) answer(ctx context.Context) error {
	r.mu.Lock()
	hangs := r.hangs
	r.mu.Unlock()
	if !hangs {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (r *fakeRuntime) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *fakeRuntime) List(ctx context.Context) ([]ContainerState, error) {
	list := r.containers
	r.meanwhile()
	return list, r.answer(ctx)
}

// meanwhile plays what happens after the list was made.
func (r *fakeRuntime) meanwhile() {
	if r.during != nil {
		r.during()
	}
}

func (r *fakeRuntime) Leftovers(ctx context.Context) ([]ident.AttemptID, error) {
	left := slices.Clone(r.left)
	r.meanwhile()
	return left, r.answer(ctx)
}

func (r *fakeRuntime) Delete(_ context.Context, id ident.AttemptID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deleted = append(r.deleted, id)
	if r.fails[id] == nil {
		r.left = slices.DeleteFunc(r.left, func(l ident.AttemptID) bool { return l == id })
	}
	return r.fails[id]
}

func (r *fakeRuntime) Start(ctx context.Context, _ Container) error { return r.answer(ctx) }

func (r *fakeRuntime) Kill(ctx context.Context, _ ident.AttemptID, _ syscall.Signal) error {
	return r.answer(ctx)
}

func (r *fakeRuntime) Reap(ctx context.Context, _ ident.AttemptID) error { return r.answer(ctx) }

// fakeNetwork knows who holds an address.
type fakeNetwork struct {
	mu   sync.Mutex
	held map[ident.AttemptID]bool
}

func (f *fakeNetwork) Add(_ context.Context, id ident.AttemptID, _ string) (netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[id] = true
	return netip.MustParseAddr("10.88.1.9"), nil
}

func (f *fakeNetwork) Remove(_ context.Context, id ident.AttemptID, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, id)
	_ = os.Remove(path)
	return nil
}

func (f *fakeNetwork) Held() ([]ident.AttemptID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.held)), nil
}

func (f *fakeNetwork) Gateway() netip.Addr { return netip.MustParseAddr("10.88.1.1") }

// fakeAttester listens nowhere, or can't.
type fakeAttester struct{ fails error }

func (a *fakeAttester) Open(ident.AttemptID, string, evidence.Data64) error { return a.fails }
func (a *fakeAttester) Close(ident.AttemptID)                               {}

// fakedNode is a Node over fakes, with what it told.
type fakedNode struct {
	*Node
	network  *fakeNetwork
	attester *fakeAttester

	mu   sync.Mutex
	told []string
}

func (n *fakedNode) tells() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.told
	n.told = nil
	return out
}

func testNode(t *testing.T) (*fakedNode, *fakeRuntime) {
	t.Helper()
	r := &fakeRuntime{}
	f := &fakedNode{network: &fakeNetwork{held: map[ident.AttemptID]bool{}}, attester: &fakeAttester{}}
	launcher := filepath.Join(t.TempDir(), "launcher")
	if err := os.WriteFile(launcher, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	f.Node, err = New(Config{
		State: t.TempDir(), Cgroup: "/c", Launcher: launcher, Runtime: r, Network: f.network, Attester: f.attester,
		Cgroups: &cgroup.Tree{}, Now: time.Now, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Tell: func(in manager.Incident) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.told = append(f.told, in.Reason+" "+string(in.Instance)+": "+in.Message)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, r
}

func (n *Node) put(r *record) *instance {
	i := newInstance(r)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.instances[r.Spec.ID] = i
	return i
}
