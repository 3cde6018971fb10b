package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// Registry keeps what was built.
type Registry interface {
	// PushImage stores the image under REPOSITORY:TAG.
	PushImage(ctx context.Context, ref rebuild.Ref, img *rebuild.Image) error
	// PushArtifact stores a manifest and the blobs that it names, out of src.
	PushArtifact(ctx context.Context, ref rebuild.Ref, manifest []byte, src rebuild.Source) error
	// Whole returns the digest of the manifest at REPOSITORY:TAG, if that and all that it
	// names are there, as they were stored.
	Whole(ctx context.Context, ref rebuild.Ref) (ident.Digest, error)
	// Source reads the blobs of the repository of REPOSITORY:TAG.
	Source(ref rebuild.Ref) (rebuild.Source, error)
}

// Options say what to build and with what.
type Options struct {
	Definition *rebuild.Definition
	Text       []byte       // the definition's own bytes, for the artifact
	LockFile   string       // read if it exists, else written
	Update     bool         // write a new lock even if there is one
	Cache      string       // folder of downloads
	Mirrors    Mirrors      // where the archives are
	Client     *http.Client // for the mirrors
	Registry   Registry     // nil: nothing is stored
	Launcher   ident.Digest // of the cupel-init that will start the image
	Rebuild    rebuild.Builder
	Step       func(string) // told of progress, one line each

	// Now is the clock by which a fetched index is still valid; nil: this machine's.
	Now func() time.Time
}

// Result is what came out.
type Result struct {
	Runtime     string            `json:"runtime"`
	Image       rebuild.Ref       `json:"image,omitempty"`
	Artifact    rebuild.Ref       `json:"artifact,omitempty"` // of the sources
	Config      ident.Digest      `json:"config"`
	Manifest    ident.Digest      `json:"manifest"`
	Bytes       int64             `json:"bytes"`
	Date        time.Time         `json:"index_date"`
	Packages    int               `json:"packages"`
	Lock        string            `json:"lock"`
	NewLock     bool              `json:"new_lock"`
	Measurement ident.Measurement `json:"measurement"`
}

// ImageRef is where a runtime's image is kept in the registry.
func ImageRef(runtime ident.RuntimeName) rebuild.Ref {
	return rebuild.Ref("runtimes/" + runtime + ":latest")
}

// SourcesRef is where the newest build's sources are kept in the registry.
func SourcesRef(runtime ident.RuntimeName) rebuild.Ref {
	return rebuild.Ref("runtimes/" + runtime + "/sources:latest")
}

// ownRef is a name of a build's own: an app keeps the image that it was deployed with when
// a newer one becomes the latest.
func ownRef(runtime string, r *Result) rebuild.Ref {
	return rebuild.Ref(fmt.Sprintf("runtimes/%s:%.16s", runtime, r.Config))
}

// Build makes the image, writes the lock where there was none, and stores both
// image and sources. Nothing is stored unless everything was verified.
func Build(ctx context.Context, o Options) (*Result, error) {
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}

	c := cache{o.Cache}
	o.Rebuild.Verified = &rebuild.Indices{}
	o.Rebuild.Observe = func(k rebuild.Check) { o.Step("verified: " + k.Detail) }

	unlock, err := c.lock(ctx, func() { o.Step("waiting for another build on this machine") })
	if err != nil {
		return nil, err
	}
	defer unlock()

	l, old, err := o.lock(ctx, c)
	if err != nil {
		return nil, err
	}

	if old {
		if r := o.remembered(ctx, l); r != nil {
			o.Step("the registry has the image of this lock already")
			return r, nil
		}
	}

	if err := o.fetch(ctx, c, l, old); err != nil {
		return nil, err
	}

	img, err := o.Rebuild.Build(ctx, o.Definition, l, c)
	if err != nil {
		return nil, err
	}
	defer img.Close()

	cfg, err := launch.ParseImageConfig(img.Config())
	if err != nil {
		return nil, err
	}

	m, err := launch.Expected(launch.Newest, cfg, o.Launcher)
	if err != nil {
		return nil, err
	}

	r := &Result{
		Runtime:     o.Definition.Name,
		Config:      img.ConfigDigest(),
		Manifest:    img.ManifestDigest(),
		Bytes:       img.Size(),
		Date:        indexDate(l),
		Packages:    len(l.Packages),
		Lock:        o.LockFile,
		NewLock:     !old,
		Measurement: m,
	}
	if err := o.store(ctx, c, l, img, r); err != nil {
		return nil, err
	}

	return r, o.remember(l, r)
}

// memo is what an earlier build of the same made. It only saves work: an owner
// never sees it, and a node is told by what it measures, not by this.
type memo struct {
	Version    int            `json:"version"`
	Definition ident.Digest   `json:"definition"`
	Lock       ident.Digest   `json:"lock"`
	Launcher   ident.Digest   `json:"launcher"`
	Profile    launch.Version `json:"profile"`
	Result     Result         `json:"result"`
}

// memoFile is where the memo of a runtime's last build is.
func (o Options) memoFile() string {
	return filepath.Join(o.Cache, o.Definition.Name+".built.json")
}

// remembered returns the result of an earlier build from the same lock, if the
// registry still has its image and sources.
func (o Options) remembered(ctx context.Context, l *rebuild.Lock) *Result {
	b, err := atomicfile.Read(o.memoFile())
	var m memo

	if err != nil || o.Registry == nil || json.Unmarshal(b, &m) != nil || m.Version != 1 {
		return nil
	}

	text, err := l.Encode()
	if err != nil || m.Lock != ident.Sum(text) || m.Definition != o.Definition.Digest() {
		return nil
	}
	if m.Launcher != o.Launcher || m.Profile != launch.Newest {
		return nil
	}

	if d, err := o.Registry.Whole(ctx, m.Result.Image); err != nil || d != m.Result.Manifest {
		return nil
	}

	for _, ref := range []rebuild.Ref{ownRef(l.Runtime, &m.Result), m.Result.Artifact, SourcesRef(ident.RuntimeName(l.Runtime))} {
		if _, err := o.Registry.Whole(ctx, ref); err != nil {
			return nil
		}
	}

	m.Result.Lock = o.LockFile
	m.Result.NewLock = false
	m.Result.Date = indexDate(l) // an earlier release kept the newest index's
	return &m.Result
}

// indexDate is the date that 'cupel runtime measure' gives a lock.
func indexDate(l *rebuild.Lock) time.Time {
	oldest, _ := l.OldestMoving() // of a lock that has none: no date
	return oldest.Date
}

// remember writes the memo of what was stored.
func (o Options) remember(l *rebuild.Lock, r *Result) error {
	if o.Registry == nil {
		return nil
	}

	text, err := l.Encode()
	if err != nil {
		return err
	}

	b, err := json.Marshal(memo{
		Version:    1,
		Definition: o.Definition.Digest(),
		Lock:       ident.Sum(text),
		Launcher:   o.Launcher,
		Profile:    launch.Newest,
		Result:     *r,
	})
	if err != nil {
		return fmt.Errorf("remember the build: %w", err)
	}

	return spaceError(atomicfile.Write(o.memoFile(), b, 0o644))
}

// store puts sources and image into the registry, the sources first, so that an image that
// can be found can be rebuilt; and writes a new lock last.
func (o Options) store(ctx context.Context, c cache, l *rebuild.Lock, img *rebuild.Image, r *Result) error {
	lock, err := l.Encode()
	if err != nil {
		return err
	}
	if o.Registry != nil {
		manifest, err := rebuild.SourcesManifest(l, lock, o.Text)
		if err != nil {
			return err
		}

		for _, b := range [][]byte{lock, o.Text, []byte(rebuild.EmptyConfig)} {
			if err := c.put(b); err != nil {
				return err
			}
		}

		r.Artifact = l.Artifact
		r.Image = ImageRef(ident.RuntimeName(l.Runtime))
		o.Step("storing the sources as " + string(r.Artifact))
		if err := o.Registry.PushArtifact(ctx, r.Artifact, manifest, c); err != nil {
			return err
		}

		// Where an owner finds the lock who wasn't given one.
		if err := o.Registry.PushArtifact(ctx, SourcesRef(ident.RuntimeName(l.Runtime)), manifest, c); err != nil {
			return err
		}

		o.Step("storing the image as " + string(r.Image))
		for _, ref := range []rebuild.Ref{ownRef(l.Runtime, r), r.Image} {
			if err := o.Registry.PushImage(ctx, ref, img); err != nil {
				return err
			}
		}
	}

	if !r.NewLock {
		return nil
	}

	return spaceError(atomicfile.Write(o.LockFile, lock, 0o644))
}

// lock returns the existing lock, or resolves a new one.
func (o Options) lock(ctx context.Context, c cache) (_ *rebuild.Lock, old bool, err error) {
	if !o.Update {
		text, err := atomicfile.Read(o.LockFile)
		if err == nil {
			l, err := rebuild.ParseLock(text)
			if err == nil {
				o.Step("using the lock " + o.LockFile)
			}
			return l, true, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, problem.New(problem.Invalid, problem.RuleRuntimeLock, "%w", err).
				Want("a lock, or nothing").
				Fix("look what is at %s (ls -ld) and move it away: a new lock is written then", o.LockFile)
		}
	}

	l, err := o.resolve(ctx, c)
	return l, false, err
}

// resolve asks the mirrors what the definition means today.
func (o Options) resolve(ctx context.Context, c cache) (*rebuild.Lock, error) {
	def := o.Definition
	l := &rebuild.Lock{
		Version:      1,
		Runtime:      def.Name,
		Definition:   def.Digest(),
		Suite:        def.Suite,
		Architecture: def.Architecture,
	}

	for _, a := range def.Archives() {
		o.Step(fmt.Sprintf("reading the index of %s from %s", a.Suite, o.Mirrors[a.Folder]))
		text, err := o.read(ctx, o.Mirrors[a.Folder]+"/"+a.InReleasePath())
		if err != nil {
			return nil, err
		}

		x, err := o.Rebuild.ResolveIndex(a, def.Architecture, text, o.Now())
		if err != nil {
			return nil, err
		}

		if err := c.put(text); err != nil {
			return nil, err
		}
		l.Indices = append(l.Indices, x)
	}

	for _, x := range l.Indices {
		if c.has(x.Packages) {
			continue
		}

		base := o.Mirrors[x.Archive] + "/" + path.Dir(x.Packages.Path)
		urls := []string{base + "/by-hash/SHA256/" + x.Packages.SHA256.String(), base + "/" + path.Base(x.Packages.Path)}
		if err := c.download(ctx, o.Client, "package list of "+x.Suite, x.Packages, urls); err != nil {
			return nil, err
		}
	}

	if err := o.Rebuild.ResolvePackages(ctx, def, l, c); err != nil {
		return nil, err
	}

	text, err := l.Encode()
	if err != nil {
		return nil, err
	}

	// A name of its own for each lock, by the hash of what it says otherwise.
	l.Artifact = rebuild.Ref(fmt.Sprintf("runtimes/%s/sources:%.16s", def.Name, ident.Sum(text)))
	return l, nil
}

// tries is how often a mirror is asked for one thing.
const tries = 3

// pause waits before the next of several tries, longer each time.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return nil
	}

	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(try) * 500 * time.Millisecond):
		return nil
	}
}

// read fetches what is small, and judged by its signature.
func (o Options) read(ctx context.Context, address string) ([]byte, error) {
	var last error
	for try := range tries {
		if err := pause(ctx, try); err != nil {
			return nil, err
		}

		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, problem.New(problem.Invalid, ruleMirrorAddress, "%w", err)
		}

		req.Header.Set("User-Agent", "cupel")

		resp, err := o.Client.Do(req)
		if err != nil {
			last = unreachable(req, err)
			continue
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
		_ = resp.Body.Close()

		switch {
		case resp.StatusCode != http.StatusOK:
			last = unreachable(req, errors.New(resp.Status))
		case err != nil:
			last = unreachable(req, err)
		default:
			return b, nil
		}
	}

	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, last
}

// fetch brings everything that the lock names into the cache: from where the
// bytes are nearest to where they may have gone from.
func (o Options) fetch(ctx context.Context, c cache, l *rebuild.Lock, old bool) error {
	var sources rebuild.Source
	if old && o.Registry != nil && l.Artifact != "" {
		s, err := o.Registry.Source(l.Artifact)
		if err != nil {
			return err
		}
		sources = s
	}

	blobs := distinct(l.Blobs())
	o.Step(fmt.Sprintf("fetching %d files", len(blobs)))

	var bytes, files atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)

	for _, b := range blobs {
		g.Go(func() error {
			if c.has(b.Blob) {
				return nil
			}

			if sources != nil {
				if ok, err := c.fromSource(gctx, sources, b.Blob); ok || gctx.Err() != nil {
					return err
				}
			}

			root := o.Mirrors[b.Archive] + "/"
			dir, name := path.Split(b.Path)

			// A list of packages is asked for by its hash first: its name leads to the newest
			// (Debian's repository format, Acquire-By-Hash).
			urls := []string{root + (&url.URL{Path: b.Path}).EscapedPath()}
			if name == "Packages.xz" {
				urls = append([]string{root + dir + "by-hash/SHA256/" + b.SHA256.String()}, urls...)
			}

			if err := c.download(gctx, o.Client, name, b.Blob, urls); err != nil {
				return err
			}

			bytes.Add(b.Size)
			if n := files.Add(1); n%10 == 0 {
				o.Step(fmt.Sprintf("downloaded %d files, %.1f MB", n, float64(bytes.Load())/1e6))
			}

			return nil
		})
	}

	if err := g.Wait(); err != nil {
		return err
	}

	o.Step(fmt.Sprintf("downloaded %d files, %.1f MB; %d were here", files.Load(), float64(bytes.Load())/1e6, int64(len(blobs))-files.Load()))
	return nil
}

// distinct drops blobs with the same bytes as an earlier one: two downloads
// would write one file.
func distinct(all []rebuild.MirrorBlob) (out []rebuild.MirrorBlob) {
	seen := map[ident.Digest]bool{}
	for _, b := range all {
		if !seen[b.SHA256] {
			out = append(out, b)
		}
		seen[b.SHA256] = true
	}

	return out
}
