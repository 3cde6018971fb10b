package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
)

var (
	testKey = secret.New(bytes.Repeat([]byte{7}, KeySize))
	testID  = ident.Sum([]byte("a volume"))
)

// random returns n reproducible incompressible bytes.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func seal(t testing.TB, key secret.Value, id ident.Digest, generation uint64, chunk uint32, text []byte) ([]byte, ident.Digest) {
	t.Helper()
	var out bytes.Buffer
	w, err := newSnapshotWriter(&out, key, id, generation, chunk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if !w.Tag().IsZero() {
		t.Error("an unfinished snapshot has a tag")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), w.Tag()
}

func open(b []byte, generation uint64, tag ident.Digest) ([]byte, error) {
	r, err := OpenSnapshot(bytes.NewReader(b), testKey, testID, generation, tag)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func wantRule(t *testing.T, err error, rules ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want a refusal by %v", rules)
	}
	got := problem.From(err).Rule
	for _, r := range rules {
		if string(got) == r {
			return
		}
	}
	t.Errorf("refused by %v, want %v", err, rules)
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, minChunk - 1, minChunk, minChunk + 1, 2 * minChunk, 5*minChunk + 17} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			text := random(n)
			b, tag := seal(t, testKey, testID, 3, minChunk, text)
			got, err := open(b, 3, tag)
			if err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			chunks := max(1, (n+minChunk-1)/minChunk)
			if want := headerSize + n + chunks*(frameSize+tagSize); len(b) != want {
				t.Errorf("%d bytes of ciphertext, want %d", len(b), want)
			}
		})
	}
}

func TestWriteInSmallPieces(t *testing.T) {
	text := random(3*minChunk + 5)
	var out bytes.Buffer
	w, err := newSnapshotWriter(&out, testKey, testID, 1, minChunk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, iotest.OneByteReader(bytes.NewReader(text)), make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal("second close:", err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a closed snapshot takes more")
	}
	r, err := OpenSnapshot(iotest.OneByteReader(&out), testKey, testID, 1, w.Tag())
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, text); err != nil {
		t.Error(err)
	}
}

func TestEveryByteCounts(t *testing.T) {
	text := random(2*minChunk + 100)
	b, tag := seal(t, testKey, testID, 3, minChunk, text)
	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1 << (i % 8)
		got, err := open(flipped, 3, tag)
		if err == nil {
			t.Fatalf("byte %d flipped: accepted", i)
		}
		if !bytes.HasPrefix(text, got) {
			t.Fatalf("byte %d flipped: unverified plaintext came out", i)
		}
		if i >= headerSize+frameSize && i < headerSize+frameSize+minChunk+tagSize {
			wantRule(t, err, string(RuleTampered))
			if len(got) != 0 {
				t.Fatalf("byte %d of the first chunk flipped: %d bytes came out", i, len(got))
			}
		}
	}
}

func TestTruncated(t *testing.T) {
	text := random(2*minChunk + 100)
	b, tag := seal(t, testKey, testID, 3, minChunk, text)
	const whole = frameSize + minChunk + tagSize
	for _, boundary := range []int{0, headerSize, headerSize + whole, headerSize + 2*whole, len(b)} {
		for _, n := range []int{boundary - 1, boundary, boundary + 1, boundary + frameSize} {
			if n < 0 || n >= len(b) {
				continue
			}
			got, err := open(b[:n], 3, tag)
			wantRule(t, err, string(RuleTruncated))
			if !bytes.HasPrefix(text, got) {
				t.Errorf("cut at %d: unverified plaintext came out", n)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	text := random(2 * minChunk)
	b, tag := seal(t, testKey, testID, 3, minChunk, text)
	older, olderTag := seal(t, testKey, testID, 2, minChunk, text)
	newer, _ := seal(t, testKey, testID, 4, minChunk, text)
	fork, _ := seal(t, testKey, testID, 3, minChunk, text)
	swapped, _ := seal(t, testKey, ident.Sum([]byte("another")), 3, minChunk, text)
	otherKey, _ := seal(t, secret.New(random(KeySize)), testID, 3, minChunk, text)

	const whole = frameSize + minChunk + tagSize
	reordered := bytes.Clone(b[:headerSize])
	reordered = append(reordered, b[headerSize+whole:]...)
	reordered = append(reordered, b[headerSize:headerSize+whole]...)
	relabelled := bytes.Clone(older)
	relabelled[55] = 3 // the older snapshot, its header claiming generation 3

	cases := []struct {
		name string
		b    []byte
		tag  ident.Digest
		rule problem.Rule
	}{
		{"older generation", older, tag, RuleRolledBack},
		{"older generation with its tag", older, olderTag, RuleRolledBack},
		{"older generation relabelled", relabelled, tag, RuleTampered},
		{"newer generation", newer, tag, RuleAhead},
		{"another state of the same generation", fork, tag, RuleForked},
		{"another volume", swapped, tag, RuleSwapped},
		{"another key", otherKey, tag, RuleKey},
		{"no snapshot", random(500), tag, RuleFormat},
		{"newer format", append([]byte("CUPELSNP\x00\x03"), b[10:]...), tag, RuleFormat},
		{"no format", append([]byte("CUPELSNP\x00\x00"), b[10:]...), tag, RuleFormat},
		{"appended", append(bytes.Clone(b), 0), tag, RuleTampered},
		{"two snapshots", append(bytes.Clone(b), b...), tag, RuleTampered},
		{"chunks reordered", reordered, tag, RuleTampered},
		{"empty", nil, tag, RuleTruncated},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := open(c.b, 3, c.tag)
			wantRule(t, err, string(c.rule))
			if c.name == "newer format" && !strings.Contains(problem.From(err).Mend, "or with a newer one") {
				t.Errorf("no word of a newer launcher: %v", err)
			}
		})
	}
}

func TestSourceFails(t *testing.T) {
	b, tag := seal(t, testKey, testID, 1, minChunk, random(minChunk*2))
	broken := errors.New("the wire broke")
	r, err := OpenSnapshot(io.MultiReader(bytes.NewReader(b[:headerSize+20]), iotest.ErrReader(broken)), testKey, testID, 1, tag)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.ReadAll(r); !errors.Is(err, broken) || problem.KindOf(err) != problem.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestShortKey(t *testing.T) {
	if _, err := NewSnapshotWriter(io.Discard, secret.NewString("short"), testID, 1); err == nil {
		t.Error("a short key is accepted")
	}
	b, tag := seal(t, testKey, testID, 1, minChunk, nil)
	if _, err := OpenSnapshot(bytes.NewReader(b), secret.Value{}, testID, 1, tag); err == nil {
		t.Error("an empty key is accepted")
	}
}

// FuzzOpenSnapshot feeds arbitrary bytes to the reader: no panic, no memory
// beyond a few chunks, and what is accepted is exactly what was sealed.
func FuzzOpenSnapshot(f *testing.F) {
	text := random(minChunk + 50)
	b, tag := seal(f, testKey, testID, 3, minChunk, text)
	empty, _ := seal(f, testKey, testID, 3, minChunk, nil)
	f.Add(b)
	f.Add(empty)
	f.Add(append([]byte("CUPELSNP\x00\x01"), b[10:]...))
	f.Add(b[:headerSize])
	f.Add(b[:len(b)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := open(in, 3, tag)
		if err == nil && (!bytes.Equal(in, b) || !bytes.Equal(got, text)) {
			t.Fatal("accepted what was never sealed")
		}
		if !bytes.HasPrefix(text, got) && len(got) > 0 && !bytes.Equal(in, empty) {
			t.Fatal("unverified plaintext came out")
		}
		if len(in) >= headerSize {
			if h, err := parseHeader(in[:headerSize]); err == nil && !bytes.Equal(h.encode(), in[:headerSize]) {
				t.Fatal("a header has two encodings")
			}
		}
	})
}

func TestCiphertextHidesPlaintext(t *testing.T) {
	text := random(1000)
	b, _ := seal(t, testKey, testID, 1, minChunk, text)
	if bytes.Contains(b, text[:32]) {
		t.Error("the snapshot holds its plaintext")
	}
}
