package dcap

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func vector(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"testdata", "vectors"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDebugCapture: a real debug enclave. No collateral was published with it,
// so its chain and signatures are checked by hand.
func TestDebugCapture(t *testing.T) {
	q, err := parseQuote(vector(t, "sgx-v3-debug-occlum", "quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	v := &Verifier{roots: []root{{cert: IntelRoot()}}}
	j := &judgement{now: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}
	pck, err := j.pckChain(v, q.certData)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.checkQEReport(pck.leaf); err != nil {
		t.Fatal(err)
	}
	ext, err := parsePCKExtension(pck.leaf)
	if err != nil {
		t.Fatal(err)
	}
	if !verifyRaw(q.attestationKey, q.signed, q.signature) {
		t.Error("quote signature")
	}
	if !(&verdict{}).claims(q.body).Debug {
		t.Error("a debug enclave without the debug claim")
	}
	if pck.caType != "platform" || pck.simulated || ext.fmspcHex() != "00606a000000" {
		t.Errorf("CA %s, simulated %v, FMSPC %s", pck.caType, pck.simulated, ext.fmspcHex())
	}
}

func TestConverge(t *testing.T) {
	for _, tc := range []struct{ platform, qe, want status }{
		{upToDate, upToDate, upToDate},
		{swHardeningNeeded, upToDate, swHardeningNeeded},
		{upToDate, outOfDate, outOfDate},
		{swHardeningNeeded, outOfDate, outOfDate},
		{configurationNeeded, outOfDate, outOfDateConfiguration},
		{configurationAndSW, outOfDate, outOfDateConfiguration},
		{outOfDate, outOfDate, outOfDate},
		{outOfDateConfiguration, outOfDate, outOfDateConfiguration},
		{outOfDate, upToDate, outOfDate},
		{revoked, upToDate, revoked},
		{revoked, outOfDate, revoked},
		{upToDate, revoked, revoked},
	} {
		if got := converge(tc.platform, tc.qe); got != tc.want {
			t.Errorf("converge(%s, %s) = %s, want %s", tc.platform, tc.qe, got, tc.want)
		}
	}
}

func TestCheckJSON(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"a":1,"b":[{"a":1},{"a":2}]}`: true,
		`{"a":1,"a":2}`:                 false,
		`{"a":1,"A":2}`:                 false,
		`{"b":{"x":1,"x":1}}`:           false,
		`{} {}`:                         false,
		`{"a":1,}`:                      false,
		"{\"a\":\"\xff\"}":              false,
		``:                              false,
		strings.Repeat("[", 100):        false,
	} {
		if err := checkJSON([]byte(text)); (err == nil) != ok {
			t.Errorf("%q: %v, want accepted %v", text, err, ok)
		}
	}
}

// TestMemoForgets: bounded, least recently used first.
func TestMemoForgets(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMemo(2)
	key := func(b byte) [32]byte { return [32]byte{b} }
	for b := range byte(3) {
		m.put(key(b), &verdict{judged: now, expires: now.Add(time.Hour)})
		m.get(key(0), now)
	}
	for b, want := range map[byte]bool{0: true, 1: false, 2: true} {
		if _, ok := m.get(key(b), now); ok != want {
			t.Errorf("entry %d kept: %v", b, ok)
		}
	}
	if _, ok := m.get(key(0), now.Add(-time.Second)); ok {
		t.Error("kept for a time before it was judged")
	}
	if _, ok := m.get(key(2), now.Add(time.Hour+1)); ok {
		t.Error("kept beyond its expiry")
	}
	if m.order.Len() != 0 || len(m.byKey) != 0 {
		t.Error("lapsed entries stay")
	}
}

// reencode puts a parsed quote together again.
func (q *quote) reencode() []byte {
	le := binary.LittleEndian
	tail := bytes.Join([][]byte{q.signature, q.rawKey, q.qeReportRaw, q.qeSignature}, nil)
	tail = append(le.AppendUint16(tail, uint16(len(q.authData))), q.authData...)
	tail = le.AppendUint16(tail, certTypeChain)
	tail = append(le.AppendUint32(tail, uint32(len(q.certData))), q.certData...)
	return append(le.AppendUint32(bytes.Clone(q.signed), uint32(len(tail))), tail...)
}

func FuzzQuote(f *testing.F) {
	for _, name := range []string{"sgx-v3-confswhardening", "sgx-v3-swhardening", "sgx-v3-debug-occlum", "sgx-v3-ppid-certtype3"} {
		b := vector(f, name, "quote.bin")
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuote(b)
		if err != nil {
			return
		}
		if !bytes.Equal(q.reencode(), b) {
			t.Error("accepted bytes have another reading")
		}
	})
}

func FuzzCollateral(f *testing.F) {
	for _, name := range []string{"sgx-v3-confswhardening", "sgx-v3-swhardening"} {
		f.Add(vector(f, name, "collateral.json"))
	}
	f.Add([]byte(`{"tcb_info":"x","tcb_info":"y"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCollateral(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := ParseCollateral(again); err != nil || *d != *c {
			t.Errorf("encoded again: %v", err)
		}
	})
}

func FuzzChain(f *testing.F) {
	q, err := parseQuote(vector(f, "sgx-v3-confswhardening", "quote.bin"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(q.certData))
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		certs, err := parseChain(text)
		if err == nil && len(certs) == 0 {
			t.Error("an empty chain accepted")
		}
	})
}

func FuzzPCKExtension(f *testing.F) {
	q, err := parseQuote(vector(f, "sgx-v3-confswhardening", "quote.bin"))
	if err != nil {
		f.Fatal(err)
	}
	certs, err := parseChain(string(q.certData))
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range certs[0].Extensions {
		if e.Id.Equal(oidSGX) {
			f.Add(e.Value)
		}
	}
	f.Fuzz(func(_ *testing.T, der []byte) { _, _ = readPCKExtension(der) })
}

// FuzzSignedText: the two JSON texts, as far as they are read after their
// signatures held.
func FuzzSignedText(f *testing.F) {
	c, err := ParseCollateral(vector(f, "sgx-v3-confswhardening", "collateral.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(c.TCBInfo))
	f.Add([]byte(c.QEIdentity))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if checkJSON(b) != nil {
			return
		}
		var info tcbInfo
		if json.Unmarshal(b, &info) == nil {
			for i := range info.Levels {
				if info.Levels[i].check() == nil {
					info.Levels[i].metBy(&pckExtension{})
				}
			}
		}
		var id enclaveIdentity
		if json.Unmarshal(b, &id) == nil && id.check() == nil {
			masked(make([]byte, 16), id.AttributesMask, id.Attributes)
		}
	})
}
