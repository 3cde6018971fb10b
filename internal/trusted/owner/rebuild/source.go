package rebuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/minrate"
)

// DirSource reads blobs out of a folder: an OCI image layout (blobs/sha256/HEX), files
// named by their hash, or files named as on Debian's mirrors.
type DirSource struct {
	Dir   string
	names map[ident.Digest][]string
}

// NewDirSource reads from dir what the lock names.
func NewDirSource(dir string, l *Lock) *DirSource {
	s := &DirSource{Dir: dir, names: map[ident.Digest][]string{}}
	for _, b := range l.Blobs() {
		s.names[b.SHA256] = append(s.names[b.SHA256], path.Join(b.Archive, b.Path), path.Base(b.Path))
	}

	return s
}

// Open implements Source.
func (s *DirSource) Open(_ context.Context, d ident.Digest) (io.ReadCloser, error) {
	names := append([]string{"blobs/sha256/" + d.String(), d.String()}, s.names[d]...)

	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, problem.New(problem.NotFound, problem.RuleSourceMissing, "%w", err).Fix("name a folder with the lock's files")
	}
	defer root.Close()

	for _, name := range names {
		f, err := root.Open(filepath.FromSlash(name))
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open blob %s: %w", d, err)
		}
	}

	return nil, notHere(d, s.Dir)
}

// notHere says that a source lacks a blob.
func notHere(d ident.Digest, where string) error {
	return problem.New(problem.NotFound, problem.RuleSourceMissing, "no blob with sha256 %s in %s", d, where)
}

// MirrorSource reads from a Debian mirror, at the paths that the lock remembers.
// Mirrors keep only what is current: older indices are gone from there.
type MirrorSource struct {
	// Root has the archives' folders below it: http://deb.debian.org.
	Root   string
	Client *http.Client
	blobs  map[ident.Digest][]string
}

// NewMirrorSource reads from the mirror what the lock names.
func NewMirrorSource(root string, l *Lock, client *http.Client) *MirrorSource {
	s := &MirrorSource{
		Root:   strings.TrimSuffix(root, "/"),
		Client: client,
		blobs:  map[ident.Digest][]string{},
	}

	// By its hash first: the name leads to the newest list (Debian's repository format,
	// Acquire-By-Hash).
	for _, x := range l.Indices {
		byHash := path.Join(x.Archive, path.Dir(x.Packages.Path), "by-hash", "SHA256", x.Packages.SHA256.String())
		s.blobs[x.Packages.SHA256] = append(s.blobs[x.Packages.SHA256], byHash)
	}

	for _, b := range l.Blobs() {
		s.blobs[b.SHA256] = append(s.blobs[b.SHA256], path.Join(b.Archive, b.Path))
	}

	return s
}

// URLs lists where the mirror may have a blob, best first.
func (s *MirrorSource) URLs(d ident.Digest) []string {
	var all []string
	for _, p := range s.blobs[d] {
		all = append(all, s.Root+"/"+(&url.URL{Path: p}).EscapedPath())
	}

	return all
}

// Open implements Source.
func (s *MirrorSource) Open(ctx context.Context, d ident.Digest) (io.ReadCloser, error) {
	for _, u := range s.URLs(d) {
		r, err := fetch(ctx, s.Client, u, "")
		if err != nil && problem.KindOf(err) == problem.NotFound {
			continue
		}
		return r, err
	}

	return nil, notHere(d, s.Root)
}

// RegistrySource reads the blobs of one repository of an OCI registry.
type RegistrySource struct {
	base   string
	ref    string
	Client *http.Client
}

// ParseRegistrySource reads ADDR/REPOSITORY[:TAG|@sha256:HEX]. A registry on
// this machine is spoken to without TLS: it isn't trusted, the bytes are hashed.
func ParseRegistrySource(s string, client *http.Client) (*RegistrySource, error) {
	addr, rest, ok := strings.Cut(s, "/")

	repo, ref, hasDigest := strings.Cut(rest, "@")
	if !hasDigest {
		repo, ref, _ = strings.Cut(rest, ":")
	}

	if ref == "" {
		ref = "latest"
	}

	readable := artifactRef.MatchString(repo + ":x")
	if hasDigest {
		readable = readable && strings.HasPrefix(ref, "sha256:")
	} else {
		readable = readable && artifactRef.MatchString(repo+":"+ref)
	}
	if !ok || addr == "" || !readable {
		return nil, invalid(problem.RuleRegistryReference, "%.200q", s).Want("ADDRESS/REPOSITORY[:TAG]")
	}

	if hasDigest {
		if _, err := ident.ParseDigest(ref); err != nil {
			return nil, invalid(problem.RuleRegistryReference, "%w", err)
		}
	}

	scheme := "https"
	if loopback(addr) {
		scheme = "http"
	}

	u, err := url.Parse(scheme + "://" + addr)
	if err != nil || u.Host != addr || u.User != nil {
		return nil, invalid(problem.RuleRegistryReference, "address %.200q", addr).Want("HOST[:PORT]")
	}

	// The API's root of one repository (OCI distribution specification, endpoints).
	return &RegistrySource{base: u.String() + "/v2/" + repo, ref: ref, Client: client}, nil
}

// OverTLS has the registry spoken to over TLS, wherever it is: its client knows it.
func (s *RegistrySource) OverTLS() *RegistrySource {
	t := *s
	if rest, plain := strings.CutPrefix(t.base, "http://"); plain {
		t.base = "https://" + rest
	}

	return &t
}

// loopback tells whether an address is of this machine alone.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}

	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Open implements Source.
func (s *RegistrySource) Open(ctx context.Context, d ident.Digest) (io.ReadCloser, error) {
	return fetch(ctx, s.Client, s.base+"/blobs/"+ociDigest(d), "")
}

// Sources fetches the manifest that the reference names.
func (s *RegistrySource) Sources(ctx context.Context) (*Sources, error) {
	r, err := fetch(ctx, s.Client, s.base+"/manifests/"+s.ref, MediaTypeManifest)
	if err != nil {
		return nil, err
	}
	defer r.Close()

	b, err := io.ReadAll(io.LimitReader(r, MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}

	return ParseSources(b)
}

// ReadLock fetches the artifact's lock and definition.
func (s *RegistrySource) ReadLock(ctx context.Context) (lock, definition []byte, err error) {
	src, err := s.Sources(ctx)
	if err != nil {
		return nil, nil, err
	}

	lock, err = readAll(ctx, s, "", piece{"lock", src.blob(src.Lock)}, MaxLock)
	if err != nil {
		return nil, nil, err
	}

	definition, err = readAll(ctx, s, "", piece{"definition", src.blob(src.Definition)}, MaxDefinition)
	return lock, definition, err
}

// fetch opens what is at a URL; what the server says in an error's body is not repeated.
func fetch(ctx context.Context, client *http.Client, address, accept string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, invalid(ruleSourceAddress, "%w", err)
	}

	req.Header.Set("User-Agent", "cupel")
	if accept != "" {
		req.Header.Set("Accept", accept)
	}

	if client == nil {
		client = DefaultClient()
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}

		return nil, problem.New(problem.Unavailable, ruleSourceUnreachable, "%w", err).
			Fix("check the address %s and the network, then try again", req.URL.Host)
	}

	switch resp.StatusCode {
	case http.StatusOK:
		return answer{resp.Body, req}, nil
	case http.StatusNotFound, http.StatusGone:
		err = problem.New(problem.NotFound, problem.RuleSourceMissing, "%s: %s", address, resp.Status)
	default:
		err = problem.New(problem.Unavailable, ruleSourceUnreachable, "%s: %s", address, resp.Status).
			Fix("try again later, or take another source")
	}

	_ = resp.Body.Close()
	return nil, err
}

// answer is what a server sends, of which the end may never come.
type answer struct {
	io.ReadCloser
	req *http.Request
}

// Read implements io.Reader.
func (a answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}

	if end := a.req.Context().Err(); end != nil {
		return n, end
	}

	refusal := problem.New(problem.Unavailable, ruleSourceUnreachable, "the answer of %s breaks off: %w", a.req.URL.Redacted(), err).
		Fix("check the network, then try again, or take another source")

	if slow, ok := errors.AsType[*minrate.Error](err); ok {
		refusal = refusal.Want("%s", slow.Want())
	}

	return n, refusal
}

// DefaultClient gives up on a server that is silent, or sends a byte now and then, not
// on a slow one. Its transport is a [minrate.Transport].
func DefaultClient() *http.Client {
	return &http.Client{Transport: &minrate.Transport{Wait: minrate.Wait, Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
	}}}
}
