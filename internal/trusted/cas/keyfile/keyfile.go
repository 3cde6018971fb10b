package keyfile

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/aesgcm"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

// prefix begins the file's one line; 64 hex digits follow.
const prefix = "cupel-cas-key-v1 "

// Sealed bytes are magic, version, key id, nonce, then AES-256-GCM output.
const (
	magic     = "CUPELROW"
	version   = 1
	keyIDLen  = 8
	headerLen = len(magic) + 1 + keyIDLen
	nonceLen  = 12
)

// Sealer seals rows under one key.
type Sealer struct {
	aead  cipher.AEAD
	keyID [keyIDLen]byte
}

// Create makes a new key and its file, readable by its owner only. It refuses to
// replace a file.
func Create(path string) (*Sealer, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make sealing key: %w", err)
	}

	if err := atomicfile.Create(path, []byte(prefix+hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return nil, problem.New(problem.Unavailable, ruleSealingKeyFile, "%w", err).
			Fix("give the CAS a state folder that it may write to, with space in it")
	}
	return newSealer(key)
}

// Load reads an existing key file.
func Load(path string) (*Sealer, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.Invalid, ruleSealingKeyMissing, "there is state but no key file %s", path).
			Want("the key file that this state was sealed with").
			Fix("put the file back from its backup; without it the state can't be read, and starting afresh needs another state folder")
	}
	if err != nil {
		return nil, problem.New(problem.Unavailable, ruleSealingKeyFile, "%w", err)
	}

	if !info.Mode().IsRegular() {
		return nil, problem.New(problem.Invalid, ruleSealingKeyForm, "%s is no file but has mode %v", path, info.Mode()).
			Want("the key file that this state was sealed with").
			Fix("look what is there (ls -ld) and move it away, and put the file back from its backup")
	}

	if info.Mode().Perm()&0o077 != 0 {
		return nil, problem.New(problem.Invalid, ruleSealingKeyPermission, "%s has mode %v", path, info.Mode()).
			Want("a file that nobody but its owner may read").
			Fix("run chmod 600 %s, and consider who may have read it", path)
	}

	b, err := atomicfile.Read(path)
	if err != nil {
		return nil, problem.New(problem.Unavailable, ruleSealingKeyFile, "%w", err).
			Fix("let the CAS's user own the file")
	}

	text, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), prefix)
	key, err := hex.DecodeString(text)
	if !ok || err != nil || len(key) != 32 {
		return nil, problem.New(problem.Invalid, ruleSealingKeyForm, "%s is not a key file", path).
			Want("one line: %q and 64 hex digits", prefix).
			Fix("put the file back from its backup")
	}
	return newSealer(key)
}

// newSealer is a Sealer with this key, which its id names without telling it.
func newSealer(key []byte) (*Sealer, error) {
	aead, err := aesgcm.New(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}

	s := &Sealer{aead: aead}
	id := sha256.Sum256(append([]byte("cupel/cas-key-id/v1"), key...))
	copy(s.keyID[:], id[:])
	return s, nil
}

// Seal encrypts plain for the row. Nonces are random: 2^32 rows stay far below
// the bound at which they may collide.
func (s *Sealer) Seal(id journal.RowID, rowVersion uint64, plain []byte) ([]byte, error) {
	out := make([]byte, headerLen+nonceLen, headerLen+nonceLen+len(plain)+s.aead.Overhead())

	copy(out, magic)
	out[len(magic)] = version
	copy(out[len(magic)+1:], s.keyID[:])

	nonce := out[headerLen:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal row %s: %w", id, err)
	}

	return s.aead.Seal(out, nonce, plain, aad(out[:headerLen], id, rowVersion)), nil
}

// Open decrypts a row.
func (s *Sealer) Open(id journal.RowID, rowVersion uint64, sealed []byte) ([]byte, error) {
	if len(sealed) < headerLen+nonceLen || !bytes.HasPrefix(sealed, []byte(magic)) || sealed[len(magic)] != version {
		return nil, problem.New(problem.Internal, ruleRowSealed, "row %s is not a sealed row of version %d", id, version).
			Fix("restore the CAS's state from its backup")
	}

	if [keyIDLen]byte(sealed[len(magic)+1:headerLen]) != s.keyID {
		return nil, problem.New(problem.Invalid, ruleSealingKey, "row %s was sealed with key %x", id, sealed[len(magic)+1:headerLen]).
			Want("key %x, the one in the key file", s.keyID[:]).
			Fix("put back the key file that belongs to this state")
	}

	nonce := sealed[headerLen : headerLen+nonceLen]

	plain, err := s.aead.Open(nil, nonce, sealed[headerLen+nonceLen:], aad(sealed[:headerLen], id, rowVersion))
	if err != nil {
		return nil, problem.New(problem.Internal, ruleRowSealed, "row %s version %d does not decrypt", id, rowVersion).
			Want("the bytes that the CAS wrote there").
			Fix("restore the CAS's state from its backup; someone changed it")
	}
	return plain, nil
}

// aad is what is authenticated beside a row's bytes: the header, and which row of
// which version it is.
func aad(header []byte, id journal.RowID, rowVersion uint64) []byte {
	b := make([]byte, 0, len(header)+8+len(id))
	b = append(b, header...)
	b = binary.BigEndian.AppendUint64(b, rowVersion)
	return append(b, id...)
}
