package dcap_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/sgxquote"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

// forge is a maker of platforms who signs whatever a test wants: it has all
// keys of a simulated platform. What its fields say goes into the evidence.
type forge struct {
	t                                 *testing.T
	rootKey, caKey, pckKey, signerKey *ecdsa.PrivateKey
	root, ca, pck, signer             *x509.Certificate

	editQEReport   func([]byte)
	editTCBInfo    func(string) string
	editQEIdentity func(string) string
	rootList       func(*x509.RevocationList)
	pckList        func(*x509.RevocationList)
	pckChain       func(leaf, ca, root *x509.Certificate) []*x509.Certificate
	editCollateral func(*dcap.Collateral)

	quote      []byte
	collateral *dcap.Collateral
}

func newForge(t *testing.T) *forge {
	t.Helper()
	dir := t.TempDir()
	p, err := simtee.Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := p.Quote(simtee.Launch{}, evidence.Data64{})
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{t: t, quote: ev.Quote}
	if f.collateral, err = dcap.ParseCollateral(ev.Endorsements); err != nil {
		t.Fatal(err)
	}

	var state map[string]json.RawMessage
	readJSON(t, filepath.Join(dir, "platform.json"), &state)
	der := func(name string) (b []byte) {
		if err := json.Unmarshal(state[name], &b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return b
	}
	for name, key := range map[string]**ecdsa.PrivateKey{"root_key": &f.rootKey, "ca_key": &f.caKey, "pck_key": &f.pckKey, "signer_key": &f.signerKey} {
		parsed, err := x509.ParsePKCS8PrivateKey(der(name))
		if err != nil {
			t.Fatal(err)
		}
		*key = parsed.(*ecdsa.PrivateKey)
	}
	for name, cert := range map[string]**x509.Certificate{"root": &f.root, "ca": &f.ca, "pck": &f.pck, "signer": &f.signer} {
		if *cert, err = x509.ParseCertificate(der(name)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// rename issues all certificates anew, by the names of their roles.
func (f *forge) rename(root, ca, pck, signer pkix.Name) {
	f.t.Helper()
	again := func(c *x509.Certificate, name pkix.Name, parent *x509.Certificate, by *ecdsa.PrivateKey) *x509.Certificate {
		template := *c
		template.Subject, template.RawSubject = name, nil
		for _, e := range c.Extensions {
			if e.Id.String() == "1.2.840.113741.1.13.1" {
				template.ExtraExtensions = []pkix.Extension{e}
			}
		}
		if parent == nil {
			parent = &template
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, parent, c.PublicKey, by)
		if err != nil {
			f.t.Fatal(err)
		}
		issued, err := x509.ParseCertificate(der)
		if err != nil {
			f.t.Fatal(err)
		}
		return issued
	}
	f.root = again(f.root, root, nil, f.rootKey)
	f.ca = again(f.ca, ca, f.root, f.rootKey)
	f.pck = again(f.pck, pck, f.ca, f.caKey)
	f.signer = again(f.signer, signer, f.root, f.rootKey)
}

func (f *forge) evidence() evidence.Evidence {
	f.t.Helper()
	le := binary.LittleEndian
	q := slices.Clone(f.quote)

	const (
		qeReport    = sgxquote.SignedLen + 4 + sgxquote.SigLen + sgxquote.KeyLen
		qeSignature = qeReport + sgxquote.BodyLen
		auth        = qeSignature + sgxquote.SigLen
	)
	if f.editQEReport != nil {
		f.editQEReport(q[qeReport:qeSignature])
	}
	copy(q[qeSignature:auth], f.sign(f.pckKey, q[qeReport:qeSignature]))
	chain := pemChain(f.pck, f.ca, f.root)
	if f.pckChain != nil {
		chain = pemChain(f.pckChain(f.pck, f.ca, f.root)...)
	}
	q = q[:auth+2+int(le.Uint16(q[auth:]))]
	q = le.AppendUint16(q, sgxquote.CertPCKChain)
	q = le.AppendUint32(q, uint32(len(chain)))
	q = append(q, chain...)
	le.PutUint32(q[sgxquote.SignedLen:], uint32(len(q)-sgxquote.SignedLen-4))

	col := *f.collateral
	col.PCKCRLIssuerChain = pemChain(f.ca, f.root)
	col.RootCACRL = f.list(f.root, f.rootKey, f.rootList)
	col.PCKCRL = f.list(f.ca, f.caKey, f.pckList)
	col.TCBInfoIssuerChain, col.QEIdentityIssuerChain = pemChain(f.signer, f.root), pemChain(f.signer, f.root)
	if f.editTCBInfo != nil {
		col.TCBInfo = f.editTCBInfo(col.TCBInfo)
	}
	if f.editQEIdentity != nil {
		col.QEIdentity = f.editQEIdentity(col.QEIdentity)
	}
	col.TCBInfoSignature = hex.EncodeToString(f.sign(f.signerKey, []byte(col.TCBInfo)))
	col.QEIdentitySignature = hex.EncodeToString(f.sign(f.signerKey, []byte(col.QEIdentity)))
	if f.editCollateral != nil {
		f.editCollateral(&col)
	}
	b, err := json.Marshal(col)
	if err != nil {
		f.t.Fatal(err)
	}
	return evidence.Evidence{Type: evidence.SGX, Quote: q, Endorsements: b}
}

func (f *forge) sign(key *ecdsa.PrivateKey, msg []byte) []byte {
	digest := sha256.Sum256(msg)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		f.t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig
}

func (f *forge) list(issuer *x509.Certificate, key *ecdsa.PrivateKey, edit func(*x509.RevocationList)) string {
	list := &x509.RevocationList{
		Number:             big.NewInt(1),
		ThisUpdate:         time.Now().Add(-time.Minute),
		NextUpdate:         time.Now().Add(time.Hour),
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	if edit != nil {
		edit(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	if err != nil {
		f.t.Fatal(err)
	}
	return hex.EncodeToString(der)
}

func pemChain(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

// verify judges the forge's evidence, its root being trusted as roots says.
func (f *forge) verify(production bool) (evidence.Claims, error) {
	f.t.Helper()
	roots := dcap.Roots{Simulation: []*x509.Certificate{f.root}}
	if production {
		roots = dcap.Roots{Production: []*x509.Certificate{f.root}}
	}
	v, err := dcap.New(roots)
	if err != nil {
		f.t.Fatal(err)
	}
	return v.Verify(f.evidence(), time.Now())
}

// wantRefusal holds err against the rule and a part of the message.
func wantRefusal(t *testing.T, err error, wantRule, wantText string) {
	t.Helper()
	if wantRule == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if err == nil || rule(err) != wantRule || !strings.Contains(err.Error(), wantText) {
		t.Errorf("rule %q (%v), want %q: …%s…", rule(err), err, wantRule, wantText)
	}
}

func replacing(old, by string) func(string) string {
	return func(text string) string { return strings.ReplaceAll(text, old, by) }
}

// TestSignedTextsHaveOneReading: rightly signed, and still refused where two
// readers could see two things in them.
func TestSignedTextsHaveOneReading(t *testing.T) {
	for name, tc := range map[string]struct {
		old, by string
		rule    problem.Rule
		text    string
	}{
		"as it is":          {"", "", "", ""},
		"a new name":        {`"version"`, `"vendor":{"Version":null},"version"`, "", ""},
		"folded name":       {`"tcbStatus"`, `"tcbStatuſ"`, "", `name "tcbStatuſ", which is not quite "tcbStatus"`},
		"upper-case name":   {`"id"`, `"ID"`, "", `name "ID", which is not quite "id"`},
		"name twice":        {`"version"`, `"nextUpdate":"2099-01-01T00:00:00Z","version"`, "", `name "nextUpdate" twice`},
		"twice by folding":  {`"version"`, `"verſion":9,"version"`, "", "which is not quite"},
		"null":              {`"tcbDate"`, `"advisoryIDs":null,"tcbDate"`, "", `"advisoryIDs": null where a value belongs`},
		"fraction":          {`00:00Z"`, `00:00.25Z"`, "", "is not of the form 2006-01-02T15:04:05Z"},
		"another time zone": {`"tcbDate":"2024-03-13T00:00:00Z"`, `"tcbDate":"2024-03-13T02:00:00+02:00"`, "", "is not of the form"},
	} {
		t.Run(name, func(t *testing.T) {
			for document, edit := range map[string]func(*forge, func(string) string){
				"tcb_info":    func(f *forge, e func(string) string) { f.editTCBInfo = e },
				"qe_identity": func(f *forge, e func(string) string) { f.editQEIdentity = e },
			} {
				f := newForge(t)
				if tc.old != "" {
					edit(f, replacing(tc.old, tc.by))
				}
				want := document
				if tc.text == "" {
					want = ""
				}
				_, err := f.verify(false)
				wantRefusal(t, err, want, tc.text)
			}
		})
	}
}

// TestQEIdentityMasks: all of an expected value counts. MISCSELECT's hex text
// has the report's bytes in the report's order, which an asymmetric value tells.
func TestQEIdentityMasks(t *testing.T) {
	const misc, mask = `"miscselect":"00000000","miscselectMask":"FFFFFFFF"`, `"attributesMask":"FBFFFFFFFFFFFFFF0000000000000000"`
	for name, tc := range map[string]struct {
		old, by string
		report  [4]byte // the quoting enclave's MISCSELECT, as it lies in the report
		rule    problem.Rule
		text    string
	}{
		"as it is":                   {},
		"attributes beyond the mask": {`"attributes":"1100`, `"attributes":"1500`, [4]byte{}, "qe_identity", "attributes: 15000000000000000000000000000000 has bits outside its mask fb"},
		"XFRM beyond the mask":       {`"attributes":"11000000000000000000`, `"attributes":"11000000000000000300`, [4]byte{}, "qe_identity", "has bits outside its mask"},
		"no mask at all":             {mask, `"attributesMask":"00000000000000000000000000000000"`, [4]byte{}, "qe_identity", "has bits outside its mask"},
		"MISCSELECT beyond the mask": {misc, `"miscselect":"01000000","miscselectMask":"FEFFFFFF"`, [4]byte{1}, "qe_identity", "miscselect: 01000000 has bits outside its mask feffffff"},
		"the report's order":         {misc, `"miscselect":"01020304","miscselectMask":"0F0F0F0F"`, [4]byte{0xf1, 0xf2, 0xf3, 0xf4}, "", ""},
		"the other order":            {misc, `"miscselect":"04030201","miscselectMask":"0F0F0F0F"`, [4]byte{0xf1, 0xf2, 0xf3, 0xf4}, "qe_identity", "quoting enclave with MISCSELECT f1f2f3f4"},
		"a bit that isn't expected":  {"", "", [4]byte{1}, "qe_identity", "quoting enclave with MISCSELECT 01000000"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t)
			if tc.old != "" {
				if !strings.Contains(f.collateral.QEIdentity, tc.old) {
					t.Fatalf("no %s in %s", tc.old, f.collateral.QEIdentity)
				}
				f.editQEIdentity = replacing(tc.old, tc.by)
			}
			f.editQEReport = func(report []byte) { copy(report[16:20], tc.report[:]) }
			_, err := f.verify(false)
			wantRefusal(t, err, string(tc.rule), tc.text)
		})
	}
}

// TestQEStatus: a quoting enclave is up to date, out of date or revoked; any
// other status would be lost when it is joined with the platform's.
func TestQEStatus(t *testing.T) {
	f := newForge(t)
	f.editQEIdentity = replacing(`"UpToDate"`, `"ConfigurationNeeded"`)
	_, err := f.verify(false)
	wantRefusal(t, err, "qe_identity", "status ConfigurationNeeded, which a quoting enclave can't have")
}

// TestNamesAreExact: a certificate's role is the whole of its one common name.
func TestNamesAreExact(t *testing.T) {
	cn := func(names ...string) pkix.Name {
		var n pkix.Name
		for _, s := range names {
			n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: s})
		}
		return n
	}
	const sim, real, root = "SIMULATED ", "Intel ", "SGX Root CA"
	const ca, platform, pck, signer = "SGX PCK Processor CA", "SGX PCK Platform CA", "SGX PCK Certificate", "SGX TCB Signing"
	for name, tc := range map[string]struct {
		ca, pck, signer pkix.Name
		production      bool
		rule, text      string
	}{
		"simulated":                       {cn(sim + ca), cn(sim + pck), cn(sim + signer), false, "", ""},
		"simulated, platform CA":          {cn(sim + platform), cn(sim + pck), cn(sim + signer), false, "", ""},
		"real":                            {cn(real + ca), cn(real + pck), cn(real + signer), true, "", ""},
		"CA with a longer name":           {cn("Not " + sim + ca), cn(sim + pck), cn(sim + signer), false, "pck_chain", `expected the common name "SIMULATED SGX PCK Processor CA" or "SIMULATED SGX PCK Platform CA"`},
		"leaf with a longer name":         {cn(sim + ca), cn("Not an " + pck), cn(sim + signer), false, "pck_chain", `leaf certificate ["Not an SGX PCK Certificate"] (expected the common name "SIMULATED SGX PCK Certificate"`},
		"leaf in lower case":              {cn(sim + ca), cn(sim + strings.ToLower(pck)), cn(sim + signer), false, "pck_chain", "expected the common name"},
		"leaf with two names":             {cn(sim + ca), cn("Anybody", sim+pck), cn(sim + signer), false, "pck_chain", `leaf certificate ["Anybody" "SIMULATED SGX PCK Certificate"]`},
		"signer with a longer name":       {cn(sim + ca), cn(sim + pck), cn("Not an " + signer), false, "tcb_info_chain", `expected the common name "SIMULATED SGX TCB Signing"`},
		"real names, simulation root":     {cn(real + ca), cn(real + pck), cn(real + signer), false, "pck_chain", "expected the common name"},
		"simulated names, production":     {cn(sim + ca), cn(sim + pck), cn(sim + signer), true, "pck_chain", `expected the common name "Intel SGX PCK Processor CA"`},
		"simulated leaf, production":      {cn(real + ca), cn(sim + pck), cn(real + signer), true, "pck_chain", `expected the common name "Intel SGX PCK Certificate"`},
		"simulated signer, production":    {cn(real + ca), cn(real + pck), cn(sim + signer), true, "tcb_info_chain", `expected the common name "Intel SGX TCB Signing"`},
		"bare names under a real root":    {cn(ca), cn(pck), cn(signer), true, "pck_chain", "expected the common name"},
		"another maker, production":       {cn(real + ca), cn(real + pck), cn("Other " + signer), true, "tcb_info_chain", "expected the common name"},
		"trailing space":                  {cn(real + ca), cn(real + pck + " "), cn(real + signer), true, "pck_chain", "expected the common name"},
		"real leaf, simulation root":      {cn(sim + ca), cn(real + pck), cn(sim + signer), false, "pck_chain", "expected the common name"},
		"signer's name on the PCK's leaf": {cn(sim + ca), cn(sim + signer), cn(sim + signer), false, "pck_chain", "expected the common name"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t)
			rootName := sim + root
			if tc.production {
				rootName = real + root
			}
			f.rename(cn(rootName), tc.ca, tc.pck, tc.signer)
			_, err := f.verify(tc.production)
			wantRefusal(t, err, tc.rule, tc.text)
		})
	}
}

// TestListsSayOneThing: an extension that changes what a revocation list or an
// entry of it means is not passed over.
func TestListsSayOneThing(t *testing.T) {
	issuer := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}
	number := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 20}, Value: []byte{2, 1, 9}}
	other := func(reason int, extensions ...pkix.Extension) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{
				{
					SerialNumber:    big.NewInt(4711),
					RevocationTime:  time.Now(),
					ReasonCode:      reason,
					ExtraExtensions: extensions,
				},
			}
		}
	}
	for name, tc := range map[string]struct {
		root, pck func(*x509.RevocationList)
		rule      problem.Rule
		text      string
	}{
		"another certificate":      {other(0), other(0), "", ""},
		"with its reason":          {other(1), other(1), "", ""},
		"an entry of another list": {nil, other(0, issuer), "pck_crl", "the entry of serial 1267 has an unknown critical extension 2.5.29.29"},
		"in the root's list":       {other(0, issuer), nil, "root_crl", "unknown critical extension"},
		"two numbers":              {nil, func(l *x509.RevocationList) { l.ExtraExtensions = []pkix.Extension{number} }, "pck_crl", "extension 2.5.29.20 twice"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t)
			f.rootList, f.pckList = tc.root, tc.pck
			_, err := f.verify(false)
			wantRefusal(t, err, string(tc.rule), tc.text)
		})
	}
}

// TestListOfAnotherKey: the list says whose it is by name and by key id.
func TestListOfAnotherKey(t *testing.T) {
	f := newForge(t)
	ca := *f.ca
	ca.SubjectKeyId = []byte{1, 2, 3}
	f.collateral.PCKCRL = f.list(&ca, f.caKey, nil)

	ev := f.evidence()
	var col dcap.Collateral
	if err := json.Unmarshal(ev.Endorsements, &col); err != nil {
		t.Fatal(err)
	}
	col.PCKCRL = f.collateral.PCKCRL
	var err error
	if ev.Endorsements, err = json.Marshal(col); err != nil {
		t.Fatal(err)
	}
	v, err := dcap.New(dcap.Roots{Simulation: []*x509.Certificate{f.root}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(ev, time.Now())
	wantRefusal(t, err, "pck_crl", "of authority key 010203")
}

// TestRefusalsNameTheForm: the right certificates in a wrong order, and the right
// lists in another form, are refused for that and nothing else.
func TestRefusalsNameTheForm(t *testing.T) {
	reversed := func(text string) string {
		var blocks []string
		for rest := []byte(text); ; {
			var b *pem.Block
			if b, rest = pem.Decode(rest); b == nil {
				break
			}
			blocks = append([]string{string(pem.EncodeToMemory(b))}, blocks...)
		}
		return strings.Join(blocks, "")
	}
	inPEM := func(text string) string {
		der, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	}
	inBase64 := func(text string) string {
		return strings.Join(strings.Split(inPEM(text), "\n")[1:2], "")
	}
	for name, c := range map[string]struct {
		pckChain func(leaf, ca, root *x509.Certificate) []*x509.Certificate
		edit     func(*dcap.Collateral)
		rule     string
		says     string
	}{
		"as it belongs": {nil, nil, "", ""},
		"PCK chain from the root": {func(leaf, ca, root *x509.Certificate) []*x509.Certificate { return []*x509.Certificate{root, ca, leaf} }, nil,
			"pck_chain", "the PCK chain is in another order"},
		"PCK chain with the CA first": {func(leaf, ca, root *x509.Certificate) []*x509.Certificate { return []*x509.Certificate{ca, leaf, root} }, nil,
			"pck_chain", "the root last"},
		"TCB info's chain":   {nil, func(c *dcap.Collateral) { c.TCBInfoIssuerChain = reversed(c.TCBInfoIssuerChain) }, "tcb_info_chain", "the issuer chain is in another order"},
		"PCK CRL's chain":    {nil, func(c *dcap.Collateral) { c.PCKCRLIssuerChain = reversed(c.PCKCRLIssuerChain) }, "pck_crl_chain", "issuer chain is in another order"},
		"root's CRL in PEM":  {nil, func(c *dcap.Collateral) { c.RootCACRL = inPEM(c.RootCACRL) }, "root_crl", "it is in PEM, where DER in lower-case hex digits belongs"},
		"PCK CRL in PEM":     {nil, func(c *dcap.Collateral) { c.PCKCRL = inPEM(c.PCKCRL) }, "pck_crl", "it is in PEM"},
		"PCK CRL in base64":  {nil, func(c *dcap.Collateral) { c.PCKCRL = inBase64(c.PCKCRL) }, "pck_crl", "it is in base64"},
		"PCK CRL upper case": {nil, func(c *dcap.Collateral) { c.PCKCRL = hexUpper(c.PCKCRL) }, "pck_crl", "it has upper-case letters"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t)
			f.pckChain, f.editCollateral = c.pckChain, c.edit
			_, err := f.verify(false)
			wantRefusal(t, err, c.rule, c.says)
		})
	}
}
