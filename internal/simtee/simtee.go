package simtee

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
)

// Signer is the MRSIGNER that simulated enclaves carry by convention: SHA-256
// of "cupel simulated signer".
func Signer() ident.Measurement { return sha256.Sum256([]byte("cupel simulated signer")) }

// Launch is what the platform is told that it measured.
type Launch struct {
	Measurement ident.Measurement // MRENCLAVE
	Signer      ident.Measurement // MRSIGNER
	ProductID   uint16
	SVN         uint16
	ConfigID    evidence.Data64
	Debug       bool
}

// LogValue keeps the launch readable in logs.
func (l Launch) LogValue() slog.Value {
	return slog.GroupValue(slog.String("measurement", l.Measurement.String()), slog.Bool("debug", l.Debug))
}

// collateralLife is how long an issue of the collateral is good; it is issued
// anew at half of it.
const collateralLife = 30 * 24 * time.Hour

// Platform is one simulated machine.
type Platform struct {
	keys *keys
	now  func() time.Time
	opts Condition
	// tail is everything of a quote after its own signature: the same in every
	// quote of one platform.
	tail []byte

	mu     sync.Mutex
	issued time.Time
	issue  []byte // dcap.Collateral as JSON
}

// Condition makes a platform worse than it should be, for tests of those who
// have to notice. The zero Condition is a healthy, current platform.
type Condition struct {
	TCBStatus  string   // of the platform; empty: UpToDate
	Advisories []string // of that status
	QEStatus   string   // of the quoting enclave; empty: UpToDate
	BelowTCB   bool     // the platform meets no TCB level at all

	RevokedPCK    bool
	RevokedCA     bool
	RevokedSigner bool

	// Evaluation is the tcbEvaluationDataNumber; 0 means the current one.
	Evaluation int
	// IssuedAt fixes the collateral's issue date; zero means that it is kept fresh.
	IssuedAt time.Time
}

// Open returns the platform whose keys are in dir, making both if they are
// missing.
func Open(dir string, now func() time.Time) (*Platform, error) {
	k, err := openKeys(dir, now())
	if err != nil {
		return nil, fmt.Errorf("simulated platform: %w", err)
	}
	return newPlatform(k, now, Condition{})
}

func newPlatform(k *keys, now func() time.Time, c Condition) (*Platform, error) {
	p := &Platform{keys: k, now: now, opts: c}
	var err error
	if p.tail, err = k.quoteTail(); err != nil {
		return nil, fmt.Errorf("simulated platform: %w", err)
	}
	return p, nil
}

// In returns the same platform in another condition.
func (p *Platform) In(c Condition) (*Platform, error) { return newPlatform(p.keys, p.now, c) }

// Root returns the platform's root certificate: what has to be trusted on purpose.
func (p *Platform) Root() *x509.Certificate { return p.keys.root }

// RootPEM returns Root in PEM.
func (p *Platform) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.keys.root.Raw})
}

// Quote returns evidence that l was launched and chose reportData.
func (p *Platform) Quote(l Launch, reportData evidence.Data64) (evidence.Evidence, error) {
	q, err := quote(p.keys.attestation, l, reportData, p.tail)
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("simulated quote: %w", err)
	}

	col, err := p.Collateral()
	if err != nil {
		return evidence.Evidence{}, err
	}
	return evidence.Evidence{Type: evidence.SGX, Quote: q, Endorsements: col}, nil
}

// Collateral returns what the maker of the platform publishes now, as the JSON
// of a dcap.Collateral.
func (p *Platform) Collateral() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	now := p.now()
	if !p.opts.IssuedAt.IsZero() {
		now = p.opts.IssuedAt
	}

	// A clock that was set back must not leave us with collateral of the future.
	if p.issue == nil || now.Sub(p.issued) > collateralLife/2 || now.Before(p.issued) {
		b, err := p.keys.collateral(now, p.opts)
		if err != nil {
			return nil, fmt.Errorf("simulated collateral: %w", err)
		}
		p.issue, p.issued = b, now
	}

	return p.issue, nil
}

// signRaw signs SHA-256(msg) as r||s.
func signRaw(key *ecdsa.PrivateKey, msg []byte) ([]byte, error) {
	h := sha256.Sum256(msg)
	r, s, err := ecdsa.Sign(rand.Reader, key, h[:])
	if err != nil {
		return nil, err
	}

	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig, nil
}
