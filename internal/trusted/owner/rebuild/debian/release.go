package debian

import (
	"bytes"
	"crypto"
	"embed"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"cupel.dev/cupel/api/ident"
)

// Debian's archive signing keys for bookworm, as in debian-archive-keyring:
//
//	B8B8 0B5B 623E AB6A D877 5C45 B7C5 D7D6 3509 47F8  archive, automatic
//	05AB 9034 0C0C 5E79 7F44 A8C8 254C F3B5 AEC0 A8F0  security archive, automatic
//	4D64 FEC1 19C2 0290 67D6 E791 F8D2 585B 8783 D481  stable release
//
//go:embed keys/*.gpg
var archiveKeys embed.FS

// MaxInRelease is the most bytes of an InRelease file that are read.
const MaxInRelease = 4 << 20

// A Keyring holds the keys that may sign a Release file.
type Keyring struct{ keys openpgp.EntityList }

// ArchiveKeyring returns Debian's own keys.
func ArchiveKeyring() (Keyring, error) {
	names, err := archiveKeys.ReadDir("keys")
	if err != nil {
		return Keyring{}, fmt.Errorf("archive keyring: %w", err)
	}

	var all Keyring
	for _, name := range names {
		b, err := archiveKeys.ReadFile(path.Join("keys", name.Name()))
		if err != nil {
			return Keyring{}, fmt.Errorf("archive keyring: %w", err)
		}

		k, err := ParseKeyring(b)
		if err != nil {
			return Keyring{}, fmt.Errorf("archive keyring: %s: %w", name.Name(), err)
		}

		all.keys = append(all.keys, k.keys...)
	}

	return all, nil
}

// ParseKeyring reads binary OpenPGP public keys.
func ParseKeyring(b []byte) (Keyring, error) {
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(b))
	if err != nil {
		return Keyring{}, fmt.Errorf("keyring: %w", err)
	}

	return Keyring{keys}, nil
}

// IsZero reports whether the keyring holds no key.
func (k Keyring) IsZero() bool { return len(k.keys) == 0 }

// File is a file that a Release vouches for.
type File struct {
	SHA256 ident.Digest
	Size   int64
}

// Release is a verified InRelease file (Debian's repository format, Release files).
type Release struct {
	Origin   string
	Label    string
	Suite    string // moves with time: stable, oldstable, …
	Codename string // does not: bookworm, bookworm-security
	Date     time.Time

	// ValidUntil is when nobody should fetch the index any more; zero where its
	// archive says nothing, as that of a release, which doesn't move. Bytes that
	// were fetched in time are good to rebuild from for ever.
	ValidUntil time.Time
	Files      map[string]File // by path beside InRelease
	Signer     string          // fingerprint of the key that signed, hex
}

// VerifyRelease checks the clear-signed text (RFC 9580 section 7) against the keyring and
// parses exactly the bytes that the signature covers.
func VerifyRelease(keyring Keyring, inRelease []byte) (*Release, error) {
	if len(inRelease) > MaxInRelease {
		return nil, fmt.Errorf("InRelease: more than %d bytes", MaxInRelease)
	}
	if !bytes.HasPrefix(inRelease, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, errors.New("InRelease: not a clear-signed message")
	}

	block, rest := clearsign.Decode(inRelease)
	if block == nil {
		return nil, errors.New("InRelease: not a clear-signed message")
	}

	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("InRelease: text after the signature")
	}

	rel, err := parseRelease(block.Bytes)
	if err != nil {
		return nil, err
	}

	// A day after its own date: late enough for the signature to exist, and
	// not moved by today's clock.
	at := rel.Date.Add(24 * time.Hour)
	sig, signer, err := openpgp.VerifyDetachedSignature(keyring.keys, bytes.NewReader(block.Bytes),
		block.ArmoredSignature.Body, &packet.Config{Time: func() time.Time { return at }})
	if err != nil {
		return nil, fmt.Errorf("InRelease of %s, %s: %w", rel.Codename, rel.Date.Format(time.RFC3339), err)
	}

	switch sig.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, fmt.Errorf("InRelease of %s: signature over %v", rel.Codename, sig.Hash)
	}

	rel.Signer = fmt.Sprintf("%X", signer.PrimaryKey.Fingerprint)
	return rel, nil
}

// parseRelease reads signed text: lines end in CRLF there (RFC 9580 section 7.2). Its
// fields are those of deb822(5); of checksums only SHA-256 is read.
func parseRelease(signed []byte) (*Release, error) {
	rel := &Release{Files: map[string]File{}}
	seen := map[string]bool{}

	field := ""
	for i, line := range strings.Split(string(signed), "\r\n") {
		if strings.ContainsAny(line, "\r\n\x00") {
			return nil, fmt.Errorf("InRelease: line %d: control character", i+1)
		}

		if strings.HasPrefix(line, " ") {
			if field == "SHA256" {
				if err := rel.addFile(line); err != nil {
					return nil, fmt.Errorf("InRelease: line %d: %w", i+1, err)
				}
			}
			continue
		}

		if line == "" {
			continue
		}

		name, value, ok := strings.Cut(line, ":")
		if !ok || seen[name] {
			return nil, fmt.Errorf("InRelease: line %d: want a field that was not there before", i+1)
		}

		seen[name] = true
		field = name
		if err := rel.setField(name, strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("InRelease: line %d: %w", i+1, err)
		}
	}

	if rel.Codename == "" || rel.Date.IsZero() || len(rel.Files) == 0 {
		return nil, errors.New("InRelease: Codename, Date or SHA256 is missing")
	}

	return rel, nil
}

// setField takes a field of one line, if it is one that is used.
func (rel *Release) setField(name, value string) error {
	switch name {
	case "Origin":
		rel.Origin = value
	case "Label":
		rel.Label = value
	case "Suite":
		rel.Suite = value
	case "Codename":
		rel.Codename = value
	case "Date":
		return setTime(&rel.Date, value)
	case "Valid-Until":
		return setTime(&rel.ValidUntil, value)
	}

	return nil
}

// setTime reads a date, which is in UTC (Debian's repository format, Date and Valid-Until).
func setTime(to *time.Time, value string) error {
	t, err := time.Parse(time.RFC1123, value)
	if err != nil || t.Location() != time.UTC && !strings.HasSuffix(value, "UTC") {
		return fmt.Errorf("date %q", value)
	}

	*to = t.UTC()
	return nil
}

// addFile reads a line of the field SHA256: hash, size and path.
func (rel *Release) addFile(line string) error {
	f := strings.Fields(line)
	if len(f) != 3 {
		return errors.New("want: hash size path")
	}

	sum, err := ident.ParseDigest(f[0])
	if err != nil {
		return err
	}

	size, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil || size < 0 {
		return fmt.Errorf("size %q", f[1])
	}

	if old, ok := rel.Files[f[2]]; ok && old != (File{sum, size}) {
		return fmt.Errorf("two hashes for %s", f[2])
	}

	rel.Files[f[2]] = File{sum, size}
	return nil
}
