// Package debtest is a small Debian for tests: packages, signed indices and a
// mirror, under a key of its own. What it makes is byte for byte the real
// formats; only the keyring tells it from Debian.
//
// It trusts its caller, who is a test, and panics instead of returning errors.
// A Debian is not safe for concurrent use until it is published; its Handler is.
package debtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild/debian"
)

// Date is the date of all indices unless a test changes it.
var Date = time.Date(2026, 11, 20, 2, 11, 10, 0, time.UTC)

// Debian is a set of archives.
type Debian struct {
	Dates map[string]time.Time // by suite
	Until map[string]time.Time // by suite: Valid-Until, where there is one

	key   *openpgp.Entity
	lists map[string][]string // suite -> stanzas
	files map[string][]byte   // path on the mirror -> content
}

// Suites are the ones that a bookworm definition reads, with their folders.
var Suites = map[string]string{
	"bookworm": "debian", "bookworm-updates": "debian", "bookworm-security": "debian-security",
}

// New returns a Debian without packages and with a new key.
func New() *Debian {
	key, err := openpgp.NewEntity("Test Archive", "", "test@example.org",
		&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return Date.AddDate(-1, 0, 0) }})
	must(err)

	return &Debian{
		Dates: map[string]time.Time{},
		Until: map[string]time.Time{},
		key:   key,
		lists: map[string][]string{},
		files: map[string][]byte{},
	}
}

// Keyring returns the public key.
func (d *Debian) Keyring() debian.Keyring {
	var b bytes.Buffer
	must(d.key.Serialize(&b))

	k, err := debian.ParseKeyring(b.Bytes())
	must(err)

	return k
}

// Package describes a package to add.
type Package struct {
	Suite   string // "" is bookworm
	Name    string
	Version string
	Fields  string // further lines of the stanza: "Depends: libc6\n"
	Deb     []byte // as Deb makes it
}

// Add publishes a package; call Publish after the last one.
func (d *Debian) Add(p Package) {
	if p.Suite == "" {
		p.Suite = "bookworm"
	}

	path := fmt.Sprintf("pool/main/%c/%s/%s_%s_amd64.deb", p.Name[0], p.Name, p.Name, p.Version)

	d.files[Suites[p.Suite]+"/"+path] = p.Deb
	d.lists[p.Suite] = append(d.lists[p.Suite], fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\n%sFilename: %s\nSize: %d\nSHA256: %s\n",
		p.Name, p.Version, p.Fields, path, len(p.Deb), ident.Sum(p.Deb)))
}

// Publish writes and signs the indices.
func (d *Debian) Publish() {
	for suite, folder := range Suites {
		list := Compress("xz", []byte(strings.Join(d.lists[suite], "\n")))
		const name = "main/binary-amd64/Packages.xz"
		base := folder + "/dists/" + suite + "/"
		d.files[base+name] = list
		d.files[base+"main/binary-amd64/by-hash/SHA256/"+ident.Sum(list).String()] = list

		date, ok := d.Dates[suite]
		if !ok {
			date = Date
		}

		const layout = "Mon, 02 Jan 2006 15:04:05 UTC"
		until := ""
		if at, ok := d.Until[suite]; ok {
			until = "Valid-Until: " + at.Format(layout) + "\n"
		}

		d.files[base+"InRelease"] = d.Sign(fmt.Sprintf("Origin: Debian\nLabel: Debian\nSuite: oldstable\nCodename: %s\nDate: %s\n%sSHA256:\n %s %d %s\n",
			suite, date.Format(layout), until, ident.Sum(list), len(list), name))
	}
}

// Sign clear-signs a text with the archive's key.
func (d *Debian) Sign(text string) []byte {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, d.key.PrivateKey, &packet.Config{Time: func() time.Time { return Date }})
	must(err)
	_, err = io.WriteString(w, text)
	must(err)

	must(w.Close())

	b.WriteByte('\n')
	return b.Bytes()
}

// Files returns a copy of everything on the mirror by path.
func (d *Debian) Files() map[string][]byte { return maps.Clone(d.files) }

// Set replaces a file on the mirror.
func (d *Debian) Set(path string, b []byte) { d.files[path] = b }

// Remove takes a file off the mirror.
func (d *Debian) Remove(path string) { delete(d.files, path) }

// ServeHTTP is the mirror, with ranges.
func (d *Debian) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, ok := d.files[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}

	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// Open hands out every file of the mirror by its hash: a rebuild.Source.
func (d *Debian) Open(_ context.Context, digest ident.Digest) (io.ReadCloser, error) {
	for _, b := range d.files {
		if ident.Sum(b) == digest {
			return io.NopCloser(bytes.NewReader(b)), nil
		}
	}

	return nil, problem.New(problem.NotFound, "source_missing", "no blob with sha256 %s", digest)
}

// Deb packs entries into a .deb; compression is "xz", "gz" or "".
func Deb(compression string, entries ...tar.Header) []byte {
	return Ar(
		Member{"debian-binary", []byte("2.0\n")},
		Member{"control.tar" + suffix(compression), Compress(compression, Tar())},
		Member{"data.tar" + suffix(compression), Compress(compression, Tar(entries...))},
	)
}

// suffix is what a member's name ends in.
func suffix(compression string) string {
	if compression == "" {
		return ""
	}
	return "." + compression
}

// File is a regular file, whose content travels in the header's Uname: see Tar.
func File(name string, mode int64, content string) tar.Header {
	return tar.Header{Name: name, Mode: mode, Typeflag: tar.TypeReg, Size: int64(len(content)), Uname: content}
}

// Dir is a directory.
func Dir(name string) tar.Header { return tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir} }

// Link is a symbolic link.
func Link(name, to string) tar.Header {
	return tar.Header{Name: name, Mode: 0o777, Typeflag: tar.TypeSymlink, Linkname: to}
}

// Hard is a hard link.
func Hard(name, to string) tar.Header {
	return tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeLink, Linkname: to}
}

// Tar packs entries; a regular file's content is in its Uname.
func Tar(entries ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)

	for _, h := range entries {
		content := h.Uname
		h.Uname = "root"
		h.Format = tar.FormatGNU

		must(w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, content)
			must(err)
		}
	}

	must(w.Close())
	return b.Bytes()
}

// Compress with "xz", "gz" or "".
func Compress(how string, b []byte) []byte {
	var out bytes.Buffer
	var w io.WriteCloser
	var err error

	switch how {
	case "xz":
		w, err = xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&out)
	case "gz":
		w = gzip.NewWriter(&out)
	default:
		return slices.Clone(b)
	}

	must(err)

	_, err = w.Write(b)
	must(err)
	must(w.Close())

	return out.Bytes()
}

// Member is a file of an ar archive.
type Member struct {
	Name    string
	Content []byte
}

// Ar packs an ar archive (deb(5), FORMAT).
func Ar(members ...Member) []byte {
	b := []byte("!<arch>\n")
	for _, m := range members {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, 0, 0, 0, "100644", len(m.Content))

		b = append(b, m.Content...)
		if len(m.Content)%2 == 1 {
			b = append(b, '\n')
		}
	}

	return b
}

// must panics at an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
