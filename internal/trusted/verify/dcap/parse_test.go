package dcap

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/internal/trusted/sgxquote"
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
	if pck.issuedCRL != issuedPlatformCRL || pck.simulated || ext.fmspcHex() != "00606a000000" {
		t.Errorf("CA %s, simulated %v, FMSPC %s", pck.issuedCRL, pck.simulated, ext.fmspcHex())
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

func TestReadExact(t *testing.T) {
	type level struct {
		Status string `json:"tcbStatus"`
		SVN    *int   `json:"svn"`
	}
	type doc struct {
		document
		Levels []level `json:"tcbLevels"`
	}
	for text, want := range map[string]string{
		`{"id":"QE","new":{"ID":1,"x":null},"tcbLevels":[{"tcbStatus":"a"},{"tcbStatus":"b","svn":1}]}`: "",
		`{"id":"QE","issueDate":"2025-06-19T10:01:18Z"}`:                                                "",
		`{"id":"QE","id":"QE"}`:                        `name "id" twice`,
		`{"id":"QE","ID":"TD_QE"}`:                     `name "ID" twice`,
		`{"a":1,"A":2}`:                                `name "A" twice`,
		`{"b":{"x":1,"x":1}}`:                          `name "x" twice`,
		`{"Id":"QE"}`:                                  `name "Id", which is not quite "id"`,
		`{"iſſueDate":"2025-06-19T10:01:18Z"}`:         `name "iſſueDate", which is not quite "issueDate"`,
		`{"tcbLevels":[{"tcbStatuſ":"a"}]}`:            `"tcbLevels": name "tcbStatuſ", which is not quite "tcbStatus"`,
		`{"tcbLevels":[{"tcbStatus":"a","SVN":1}]}`:    `name "SVN", which is not quite "svn"`,
		`{"tcbLevels":[{"tcbStatus":"a","svn":null}]}`: `"svn": null where a value belongs`,
		`{"tcbLevels":[null]}`:                         `"tcbLevels": null where a value belongs`,
		`null`:                                         `null where a value belongs`,
		`{"issueDate":"2025-06-19T10:01:18.5Z"}`:       `is not of the form`,
		`{"issueDate":"2025-06-19T12:01:18+02:00"}`:    `is not of the form`,
		`{"issueDate":"2025-06-19T10:01:18z"}`:         `is not of the form`,
		`{} {}`:                                        "text after the JSON value",
		`{"a":1,}`:                                     "invalid character",
		"{\"a\":\"\xff\"}":                             "not UTF-8",
		``:                                             "EOF",
		strings.Repeat(`{"a":`, 100):                   "nested deeper than 16",
	} {
		err := readExact([]byte(text), new(doc))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

// TestPCKExtensionIsExact: no byte of the extension is without meaning.
func TestPCKExtensionIsExact(t *testing.T) {
	q, err := parseQuote(vector(t, "sgx-v3-confswhardening", "quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseChain(string(q.certData))
	if err != nil {
		t.Fatal(err)
	}
	var list []field
	for _, e := range certs[0].Extensions {
		if e.Id.Equal(oidSGX) {
			if _, err := asn1.Unmarshal(e.Value, &list); err != nil {
				t.Fatal(err)
			}
		}
	}
	encode := func(v any) []byte {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}

	// The FMSPC's member with a third value after name and value.
	extra := make([]any, 0, len(list))
	for _, f := range list {
		if f.ID[len(f.ID)-1] == 4 {
			extra = append(extra, struct {
				ID    asn1.ObjectIdentifier
				Value asn1.RawValue
				More  int
			}{f.ID, f.Value, 7})
		} else {
			extra = append(extra, f)
		}
	}
	parts := []byte{}
	for _, f := range extra {
		parts = append(parts, encode(f)...)
	}
	longer := encode(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: parts})

	// The FMSPC as an octet string of octet strings.
	constructed := slices.Clone(list)
	for i, f := range list {
		if f.ID[len(f.ID)-1] == 4 {
			constructed[i].Value = asn1.RawValue{
				Class: asn1.ClassUniversal, Tag: asn1.TagOctetString, IsCompound: true, Bytes: encode([]byte{1, 2, 3, 4}),
			}
		}
	}

	for name, tc := range map[string]struct {
		der  []byte
		want string
	}{
		"as issued":            {encode(list), ""},
		"a member of three":    {longer, "bytes that no field holds"},
		"constructed FMSPC":    {encode(constructed), "FMSPC is missing or not 6 octets"},
		"a member twice":       {encode(append(slices.Clone(list), list[0])), "twice"},
		"followed by anything": {append(encode(list), 0), "bytes after its end"},
	} {
		if _, err := readPCKExtension(tc.der); tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
	}
}

// TestIssuersNeedKeyIDs: two missing key ids are not the same key id.
func TestIssuersNeedKeyIDs(t *testing.T) {
	q, err := parseQuote(vector(t, "sgx-v3-confswhardening", "quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseChain(string(q.certData))
	if err != nil {
		t.Fatal(err)
	}
	if err := issuedBy(certs[0], certs[1], 0); err != nil {
		t.Fatal(err)
	}
	certs[0].AuthorityKeyId, certs[1].SubjectKeyId = nil, nil
	if err := issuedBy(certs[0], certs[1], 0); err == nil || !strings.Contains(err.Error(), "authority key id is missing") {
		t.Errorf("no key ids at all: %v", err)
	}
}

// TestMiscSelectIsLittleEndian: a real report with EXINFO, bit 0.
func TestMiscSelectIsLittleEndian(t *testing.T) {
	q, err := parseQuote(vector(t, "sgx-v3-debug-occlum", "quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	want := evidence.SGXFields{
		Attributes: 0x7, // INIT, DEBUG, MODE64BIT
		XFRM:       0xe7,
		MiscSelect: 1,
	}
	if got := *q.body.sgx(); got != want {
		t.Errorf("attributes %v, XFRM %v, MISCSELECT %v, want %v", got.Attributes, got.XFRM, got.MiscSelect, want)
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
	tail = le.AppendUint16(tail, sgxquote.CertPCKChain)
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
		var info tcbInfo
		if readExact(b, &info) == nil {
			for i := range info.Levels {
				if info.Levels[i].check() == nil {
					info.Levels[i].metBy(&pckExtension{})
				}
			}
		}
		var id enclaveIdentity
		if readExact(b, &id) == nil && id.check() == nil {
			maskedEqual(make([]byte, 16), id.AttributesMask, id.Attributes)
		}
	})
}
