// Command outside is an owner's program in a module of its own: it uses Cupel's public
// packages alone. It attests a CAS, creates a session there, lists the session's instances,
// verifies the CAS's audit log and, where a manager is named, asks it what it runs.
//
// docs/client.md explains it step by step.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"math/big"
	"os"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
)

type settings struct {
	cas         string
	code        string // the measurement of the CAS that is expected
	root        string // the simulated root that is trusted; empty: real hardware alone
	sessionFile string
	sessionName string
	manager     string // empty: no manager is asked
	certificate string // the SHA-256 of the manager's certificate
}

func main() {
	var s settings
	flag.StringVar(&s.cas, "cas", "", "HOST[:PORT] of the CAS's API for owners")
	flag.StringVar(&s.code, "code", "", "measurement that the CAS has to prove")
	flag.StringVar(&s.root, "simulation-root", "", "SHA-256 of a simulated root to trust")
	flag.StringVar(&s.sessionFile, "session", "", "file with the text of a session")
	flag.StringVar(&s.sessionName, "name", "", "name of that session")
	flag.StringVar(&s.manager, "manager", "", "HOST:PORT of a manager")
	flag.StringVar(&s.certificate, "manager-certificate", "", "SHA-256 of the manager's certificate")
	flag.Parse()

	if err := run(context.Background(), s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(problem.From(err).Kind.ExitCode())
	}
}

func run(ctx context.Context, s settings) error {
	name, err := ident.ParseSessionName(s.sessionName)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(s.sessionFile)
	if err != nil {
		return err
	}
	expected, err := expectation(s)
	if err != nil {
		return err
	}
	own, err := certificate()
	if err != nil {
		return err
	}

	cas, err := client.NewCAS(ident.Address(s.cas), client.CASOptions{
		Certificate: &own,
		Patience:    10 * time.Second,
		Save:        func(p client.Pin) error { fmt.Printf("remember entry %d\n", p.Head.Seq); return nil },
	})
	if err != nil {
		return err
	}
	defer cas.Close()

	if err := attest(ctx, cas, expected); err != nil {
		return err
	}
	if err := create(ctx, cas, name, text); err != nil {
		return err
	}
	if err := verify(ctx, cas); err != nil {
		return err
	}
	if s.manager == "" {
		return nil
	}
	return ask(ctx, s, own)
}

// expectation says which code on which platform is accepted as a CAS.
func expectation(s settings) (client.Expectation, error) {
	code, err := ident.ParseMeasurement(s.code)
	if err != nil {
		return client.Expectation{}, err
	}
	e := client.Expectation{
		Identities: []evidence.CodeIdentity{{Measurements: []ident.Measurement{code}}},
		Tolerate:   []evidence.Tolerance{evidence.Hyperthreading},
	}

	if s.root != "" {
		root, err := ident.ParseDigest(s.root)
		if err != nil {
			return client.Expectation{}, err
		}
		e.TrustSimulation = []ident.Digest{root}
	}
	return e, nil
}

// attest prints what the CAS proved and why that was accepted, rule by rule.
func attest(ctx context.Context, cas *client.CAS, expected client.Expectation) error {
	a, err := cas.Attest(ctx, expected)
	if err != nil {
		return err
	}

	fmt.Printf("attested %s, simulated: %t\n", a.Claims.Measurement, a.Claims.Simulated)
	for _, f := range a.Decision.Findings {
		fmt.Printf("rule %s: %s: %t\n", f.Rule, f.Actual, f.OK)
	}
	return nil
}

// create uploads a session, reads it back, and lists its instances.
func create(ctx context.Context, cas *client.CAS, name ident.SessionName, text []byte) error {
	created, err := cas.CreateSession(ctx, text)
	if err != nil {
		return err
	}
	fmt.Printf("session %s\n", created.Hash)

	kept, err := cas.ReadSession(ctx, name, &created.Hash)
	if err != nil {
		return err
	}
	if kept.Text != string(text) {
		return problem.New(problem.Denied, problem.RuleSessionHash, "the CAS keeps another text")
	}

	instances, err := cas.Instances(ctx, name)
	if err != nil {
		return err
	}
	fmt.Printf("%s at the CAS\n", problem.Count(len(instances), "instance"))
	for _, i := range instances {
		fmt.Printf("instance %s of %s is %s\n", i.ID.Short(), i.Service, i.State)
	}
	return nil
}

// verify reads the CAS's log from its beginning to its end.
func verify(ctx context.Context, cas *client.CAS) error {
	sessions := 0
	check, err := cas.VerifyLog(ctx, nil, func(e owners.Entry) error {
		if e.Event == owners.EventSessionCreated {
			sessions++
		}
		return nil
	})
	if err != nil {
		return err
	}

	fmt.Printf("log verified to entry %d: %d session\n", check.To.Seq, sessions)
	return nil
}

// ask lists what a manager says that it runs. That is its operator's word.
func ask(ctx context.Context, s settings, own tls.Certificate) error {
	shown, err := ident.ParseDigest(s.certificate)
	if err != nil {
		return err
	}
	m := client.NewManager(ident.Address(s.manager), client.ManagerOptions{
		CertSHA256:  shown,
		Remote:      true,
		Source:      problem.Operator,
		Certificate: &own,
	})
	defer m.Close()

	instances, err := m.Instances(ctx, "")
	if problem.Is(err, client.RuleAway) {
		return fmt.Errorf("nobody serves at %s: %w", s.manager, err)
	}
	if err != nil {
		return err
	}
	for _, i := range instances {
		fmt.Printf("the operator says: %s of %s is %s\n", i.ID, i.App, i.State)
	}
	return nil
}

// certificate makes an owner's key, and a certificate that carries it: only the key counts.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "owner"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
