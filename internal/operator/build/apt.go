package build

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"cupel.dev/cupel/internal/trusted/minrate"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// DefaultMirror is where Debian is when nothing else is configured.
const DefaultMirror = "http://deb.debian.org"

// Mirrors says where the archives of a suite are: their roots by folder.
type Mirrors map[string]string // "debian" -> "http://deb.debian.org/debian"

// MirrorsBelow has all archives below one root.
func MirrorsBelow(root string, def *rebuild.Definition) Mirrors {
	m := Mirrors{}
	for _, a := range def.Archives() {
		m[a.Folder] = strings.TrimSuffix(root, "/") + "/" + a.Folder
	}
	return m
}

// AptMirrors asks apt which mirrors this machine is configured for, so that a
// site's own mirror is used; what apt doesn't know is taken from Debian itself.
// Only questions are asked: apt's state stays as it is.
func AptMirrors(ctx context.Context, def *rebuild.Definition) Mirrors {
	m := MirrorsBelow(DefaultMirror, def)

	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format",
		"$(ORIGIN)|$(CODENAME)|$(REPO_URI)", "Identifier: Packages").Output()
	if err != nil {
		return m
	}

	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		f := strings.SplitN(s.Text(), "|", 3)
		if len(f) != 3 || f[0] != "Debian" {
			continue
		}

		u, err := url.Parse(f[2])
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			continue
		}

		for _, a := range def.Archives() {
			if a.Codename == f[1] {
				m[a.Folder] = strings.TrimSuffix(f[2], "/")
			}
		}
	}

	return m
}

// AptClient returns a client that uses the proxy that apt is configured for, or
// else the environment's.
func AptClient(ctx context.Context) *http.Client {
	client := rebuild.DefaultClient()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "apt-config", "shell", "HTTP", "Acquire::http::Proxy", "HTTPS", "Acquire::https::Proxy").Output()
	if err != nil {
		return client
	}

	proxies := map[string]*url.URL{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), "=")
		if u, err := url.Parse(strings.Trim(value, "'")); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			proxies[strings.ToLower(name)] = u
		}
	}

	if t, ok := client.Transport.(*minrate.Transport); ok && len(proxies) > 0 {
		fallback := t.Proxy
		t.Proxy = func(r *http.Request) (*url.URL, error) {
			if p := proxies[r.URL.Scheme]; p != nil {
				return p, nil
			}

			return fallback(r)
		}
	}

	return client
}
