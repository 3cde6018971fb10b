package registry

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// pushQuiet is how long a push that isn't complete may do nothing before it counts
	// as given up.
	pushQuiet = 10 * time.Minute
	// imageQuiet is how long an image stays after the last tag was moved away from it:
	// a deployment may be about to bring it.
	imageQuiet = 10 * time.Minute
)

// gate lets requests through, keeps those that write to root on this machine, and
// knows whether garbage may be collected: what a push brought belongs to nothing
// until its manifest comes.
type gate struct {
	next http.Handler
	uid  func(local, remote net.Addr) (uint32, bool) // of whoever has the other end of a connection
	now  func() time.Time

	stored stored
	logger *slog.Logger

	writing sync.RWMutex // held by each request of a push, exclusively while garbage is collected

	mu     sync.Mutex
	pushes map[string]time.Time // by repository: when an incomplete push last did something
	images time.Time            // when anything but a volume was last stored or removed
	dirty  bool                 // something was stored or removed since the last collection that was done
}

// newGate keeps the registry that has its content below dir.
func newGate(next http.Handler, dir string, logger *slog.Logger) *gate {
	return &gate{
		next:   next,
		uid:    socketUser,
		now:    time.Now,
		stored: stored{filepath.Join(dir, "docker", "registry", "v2")},
		logger: logger,
		pushes: map[string]time.Time{},
		dirty:  true,
	}
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead

	if !reads && !g.mayWrite(r) {
		http.Error(w, `{"errors":[{"code":"DENIED","message":"only root on the registry's own machine may write"}]}`, http.StatusForbidden)
		return
	}

	repository, kind, name := split(r.URL.Path)

	if len(repository) > maxRepositoryName { // for which the library has no answer
		http.Error(w, `{"errors":[{"code":"NAME_INVALID","message":"invalid repository name"}]}`, http.StatusBadRequest)
		return
	}

	// Who asks for a blob's head is about to push what it doesn't find, if it may.
	if reads && (r.Method == http.MethodGet || kind != "blobs" || !g.mayWrite(r)) {
		if damage := g.stored.damage(repository, kind, name); damage != nil {
			g.logger.WarnContext(r.Context(), "registry: damaged, look at the disk (dmesg)", "damage", damage)
			refuseDamaged(w)
			return
		}
		g.next.ServeHTTP(w, r)
		return
	}

	g.writing.RLock()
	defer g.writing.RUnlock()

	g.note(repository, false)
	if cleared := g.clear(r, repository, kind, name); cleared != nil {
		g.logger.WarnContext(r.Context(), "registry: removed what was damaged, look at the disk (dmesg)", "damage", cleared)
	}

	answer := &roomless{ResponseWriter: w}
	g.next.ServeHTTP(answer, r)
	answer.release(nil)

	g.note(repository, kind == "manifests") // a manifest comes last
}

// clear removes what is damaged where a push asks whether something is there, or stores
// it: the library would let it be.
func (g *gate) clear(r *http.Request, repository, kind, name string) (cleared error) {
	switch {
	case r.Method == http.MethodHead && kind == "blobs":
		return g.stored.clearBlob(repository, name)
	case r.Method == http.MethodPut && kind == "manifests":
		r.Body, cleared = g.stored.clearManifest(repository, name, r.Body)
	}
	return cleared
}

// mayWrite tells whether a request comes from root on this machine.
func (g *gate) mayWrite(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !from.Addr().Unmap().IsLoopback() {
		return false
	}

	here, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	uid, ok := g.uid(here, net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())))
	return ok && (uid == 0 || int(uid) == os.Geteuid())
}

// socketUser asks the kernel whose the other end of a connection within this machine
// is.
func socketUser(local, remote net.Addr) (uint32, bool) {
	here, ok := local.(*net.TCPAddr)
	if !ok {
		return 0, false
	}

	if v4 := here.IP.To4(); v4 != nil {
		here = &net.TCPAddr{IP: v4, Port: here.Port}
	}

	s, err := netlink.SocketGet(remote, here)
	if err != nil {
		return 0, false
	}

	return s.UID, true
}

// split returns the repository that a path of the API names, what of it, and its name
// (OCI distribution specification, endpoints).
func split(path string) (repository, kind, name string) {
	rest := strings.TrimPrefix(path, "/v2/")
	for _, kind := range []string{"blobs", "manifests", "tags", "referrers"} {
		if i := strings.LastIndex(rest, "/"+kind+"/"); i >= 0 {
			return rest[:i], kind, rest[i+len(kind)+2:]
		}
	}

	return rest, "", ""
}

// note takes down that a push did something, or was completed.
func (g *gate) note(repository string, complete bool) {
	g.mu.Lock()
	defer g.mu.Unlock()

	now := g.now()
	g.dirty = true

	if !strings.HasPrefix(repository, volumePrefix) {
		g.images = now
	}

	if complete {
		delete(g.pushes, repository)
	} else {
		g.pushes[repository] = now
	}
}

// quiet tells whether there may be garbage, and nobody needs it.
func (g *gate) quiet() bool {
	g.mu.Lock()
	defer g.mu.Unlock()

	now := g.now()
	maps.DeleteFunc(g.pushes, func(_ string, last time.Time) bool { return now.Sub(last) >= pushQuiet })
	return len(g.pushes) == 0 && g.dirty && now.Sub(g.images) >= imageQuiet
}

// collectEvery is how often the registry looks whether it may collect.
const collectEvery = time.Minute

// CollectGarbage removes what no tag leads to any more whenever nobody writes, until
// ctx ends. It calls note with how each time went.
func (s *Server) CollectGarbage(ctx context.Context, note func(error)) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}

		tried, err := s.collectQuiet(ctx)
		if tried && ctx.Err() == nil {
			note(err)
		}
	}
}

// collectQuiet collects if nobody pushes; meanwhile pushes wait.
func (s *Server) collectQuiet(ctx context.Context) (tried bool, err error) {
	if !s.gate.quiet() || !s.gate.writing.TryLock() {
		return false, nil
	}

	defer s.gate.writing.Unlock()

	done, err := s.collect(ctx)
	if done {
		s.gate.mu.Lock()
		s.gate.dirty = false
		s.gate.mu.Unlock()
	}

	return done || err != nil, err
}
