package castest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/audit"
)

// binary builds cupel-cas once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cupel-cas-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cupel-cas")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "cupel.dev/cupel/cmd/cupel-cas")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does, from whose cache it comes
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cupel-cas: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built {
		if path, err := binary(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

var built bool

// process is the real cupel-cas, which can be killed and started again.
type process struct {
	t     *testing.T
	state string
	root  string
	args  []string
	cmd   *exec.Cmd
	Owners, Instances,
	Identity string
}

func newProcess(t *testing.T, p *simtee.Platform) *process {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(root, p.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return &process{t: t, state: filepath.Join(dir, "state"), root: root, Owners: "127.0.0.1:0", Instances: "127.0.0.1:0"}
}

// start runs it and waits until it serves; the ports stay the same.
func (p *process) start() error {
	built = true
	path, err := binary()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	p.cmd = exec.Command(path, append([]string{"--state", p.state, "--owners", p.Owners, "--instances", p.Instances,
		"--simulation-root", p.root, "--ready-fd", "3", "--log-level", "warn"}, p.args...)...)
	p.cmd.ExtraFiles = []*os.File{w}
	p.cmd.Stderr = p.t.Output()
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		return err
	}
	var ready struct{ Owners, Instances, Identity string }
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		return errors.Join(fmt.Errorf("cupel-cas did not become ready: %w", err), p.cmd.Wait())
	}
	if err := json.Unmarshal(line, &ready); err != nil {
		return err
	}
	if p.Identity == "" { // clients run already when it is started again
		p.Owners, p.Instances, p.Identity = ready.Owners, ready.Instances, ready.Identity
	}
	if p.Owners != ready.Owners || p.Instances != ready.Instances || p.Identity != ready.Identity {
		return fmt.Errorf("cupel-cas came back as another: %+v", ready)
	}
	return nil
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) identity(t *testing.T) ident.KeyHash {
	t.Helper()
	id, err := ident.ParseKeyHash(p.Identity)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// unreachable tells a CAS that is down from one that refuses.
func unreachable(err error) bool {
	if err == nil {
		return false
	}
	_, refusal := errors.AsType[*problem.Error](err)
	return !refusal || problem.KindOf(err) == problem.Unavailable
}

// TestKilled creates sessions and releases instances, 500 at once, while the CAS
// is killed at random. Everybody asks again until they are answered; nothing that
// was answered is lost, and the log verifies from any head that was seen.
func TestKilled(t *testing.T) {
	const clients = 500
	platform, err := simtee.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	p := newProcess(t, platform)
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	identity := p.identity(t)
	var mu sync.Mutex
	heads := []owners.SignedHead{}
	saw := func(h owners.SignedHead) {
		mu.Lock()
		defer mu.Unlock()
		heads = append(heads, h)
	}
	var all sync.WaitGroup
	creators := make([]*Owner, clients)
	hashes := make([]ident.Digest, clients)
	ids := make([]ident.InstanceID, clients)
	for i := range clients {
		all.Go(func() {
			if err := oneClient(ctx, p, platform, identity, i, creators, hashes, ids, saw); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	kills := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Duration(100+rand.IntN(300)) * time.Millisecond):
			if kills < 12 {
				p.kill()
				kills++
				if err := p.start(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	defer p.kill()
	t.Logf("%d kills, %d heads seen", kills, len(heads))
	if kills == 0 {
		t.Error("the CAS was never killed")
	}
	if t.Failed() {
		return
	}
	for i, o := range creators {
		name := fmt.Sprintf("s%d", i)
		var s owners.Session
		if _, err := o.Do(ctx, http.MethodGet, "/session/"+name, nil, &s); err != nil || s.Hash != hashes[i] {
			t.Fatalf("session %s: %v, hash %s, acknowledged %s", name, err, s.Hash, hashes[i])
		}
		list := instances(t, o, name)
		if len(list) != 1 || list[0].ID != ids[i] || list[0].State != owners.Running {
			t.Fatalf("session %s: instances %+v, acknowledged %s", name, list, ids[i])
		}
		o.Close()
	}
	verifyFrom(t, p, heads)
}

// oneClient creates a session and releases an instance of it, asking until it is
// answered.
func oneClient(ctx context.Context, p *process, platform *simtee.Platform, identity ident.KeyHash, i int,
	creators []*Owner, hashes []ident.Digest, ids []ident.InstanceID, saw func(owners.SignedHead)) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	creators[i] = NewOwner(p.Owners, identity, key)
	creators[i].Root = ident.Sum(platform.Root().Raw)
	name := ident.SessionName(fmt.Sprintf("s%d", i))
	var created owners.Created
	err = persist(ctx, func() error {
		resp, err := creators[i].Do(ctx, http.MethodPost, "/session", sessionText(string(name)), &created)
		if err != nil {
			return err
		}
		h, err := owners.HeadFrom(resp.Header.Get(owners.HeadHeader))
		saw(h)
		return err
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	hashes[i] = created.Hash
	in, err := NewInstance(p.Instances, identity, platform, name, "pull_repo", pullCode)
	if err != nil {
		return err
	}
	ids[i] = in.Key.Hash
	if in.Grant, err = oneGrant(ctx, p, identity, creators[i], name); err != nil {
		return err
	}
	return persist(ctx, func() error {
		c, r, err := in.Release(ctx)
		if err != nil {
			return err
		}
		c.Close()
		saw(r.Head)
		if r.Volumes[0].Access != owners.ReadWrite {
			return errors.New("asked again, and the instance lost its own lease")
		}
		return nil
	})
}

// oneGrant makes a grant for one run and claims it, asking until it is answered.
func oneGrant(ctx context.Context, p *process, identity ident.KeyHash, owner *Owner, name ident.SessionName) (owners.GrantToken, error) {
	provider, err := NewKey()
	if err != nil {
		return owners.GrantToken{}, err
	}

	var made owners.GrantMade
	err = persist(ctx, func() (err error) {
		made, err = owner.Grant(ctx, name, map[ident.ServiceName]owners.GrantedService{"pull_repo": {Runs: 1}})
		return err
	})
	if err != nil {
		return owners.GrantToken{}, fmt.Errorf("grant: %w", err)
	}

	var claimed owners.ClaimReply
	err = persist(ctx, func() (err error) {
		claimed, err = Claim(ctx, p.Instances, identity, provider, made.Code)
		return err
	})
	return claimed.Token, err
}

func persist(ctx context.Context, f func() error) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := f()
		if !unreachable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// verifyFrom checks the whole log, and that every head that anyone saw is on it.
func verifyFrom(t *testing.T, p *process, heads []owners.SignedHead) {
	t.Helper()
	conn, err := (&Instance{Addr: p.Instances, Identity: p.identity(t), Key: mustKey(t)}).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pub, err := conn.IdentityKey()
	if err != nil {
		t.Fatal(err)
	}
	o := NewOwner(p.Owners, p.identity(t), nil)
	defer o.Close()
	var entries []owners.Entry
	var head owners.SignedHead
	for {
		var page owners.LogPage
		if _, err := o.Do(t.Context(), http.MethodGet, fmt.Sprintf("%s?since=%d", owners.PathLog, len(entries)), nil, &page); err != nil {
			t.Fatal(err)
		}
		entries, head = append(entries, page.Entries...), page.Head
		if uint64(len(entries)) >= head.Seq {
			break
		}
	}
	if err := audit.Verify(pub, owners.SignedHead{}, entries, head); err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		if err := audit.Verify(pub, h, entries[h.Seq:], head); err != nil {
			t.Fatalf("since head %d: %v", h.Seq, err)
		}
		if err := audit.Verify(pub, owners.SignedHead{}, entries[:h.Seq], h); err != nil {
			t.Fatalf("up to head %d: %v", h.Seq, err)
		}
	}
	t.Logf("%d entries verified", len(entries))
}

func mustKey(t *testing.T) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}
