package client_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"os"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/testing/castest"
)

// An owner attests a CAS before anything else is sent to it. What was learned, the Pin, is
// kept: it is all that a later client needs to talk to this very CAS and to nobody else.
func ExampleCAS_Attest() {
	address, code, root, stop := exampleCAS()
	defer stop()
	ctx := context.Background()

	var kept client.Pin
	cas, err := client.NewCAS(address, client.CASOptions{
		Save: func(p client.Pin) error { kept = p; return nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer cas.Close()

	_, err = cas.Version(ctx)
	fmt.Println("before:", problem.Is(err, problem.RuleCASNotAttested))

	a, err := cas.Attest(ctx, client.Expectation{
		Identities:      []evidence.CodeIdentity{{Measurements: []ident.Measurement{code}}},
		TrustSimulation: []ident.Digest{root}, // leave it out on real hardware
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("accepted:", a.Decision.Accepted, "simulated:", a.Claims.Simulated)

	later, err := client.NewCAS(address, client.CASOptions{Pin: &kept})
	if err != nil {
		log.Fatal(err)
	}
	defer later.Close()
	version, err := later.Version(ctx)
	fmt.Println("API", version.API, err)
	// Output:
	// before: true
	// accepted: true simulated: true
	// API 1 <nil>
}

// The audit log leads from its first entry to the signed end that the CAS shows.
func ExampleCAS_VerifyLog() {
	address, code, root, stop := exampleCAS()
	defer stop()
	ctx := context.Background()
	cas, err := client.NewCAS(address, client.CASOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer cas.Close()
	_, err = cas.Attest(ctx, client.Expectation{
		Identities:      []evidence.CodeIdentity{{Measurements: []ident.Measurement{code}}},
		TrustSimulation: []ident.Digest{root},
	})
	if err != nil {
		log.Fatal(err)
	}

	check, err := cas.VerifyLog(ctx, nil, func(e owners.Entry) error {
		fmt.Println(e.Seq, e.Event)
		return nil
	})
	fmt.Println(check.Entries, err)
	// Output:
	// 1 cas_started
	// 1 <nil>
}

// What a manager says is its operator's word: problems in its answers say so.
func ExampleNewManager() {
	m := client.NewManager("127.0.0.1:1", client.ManagerOptions{
		CertSHA256: ident.Digest{1}, // as the operator told it
		Remote:     true,
		Source:     problem.Operator,
	})
	defer m.Close()

	_, err := m.Instances(context.Background(), "")
	fmt.Println(problem.Is(err, client.RuleAway), problem.KindOf(err))
	// Output: true unavailable
}

// The holder of a grant's code turns it into the token that every release of an instance
// carries.
func ExampleHolder_Claim() {
	var own tls.Certificate // with the key that the grant will be claimed by
	holder := client.Holder{Certificate: own}
	code, err := owners.ParseGrantCode(os.Getenv("CUPEL_CODE"))
	if err != nil {
		log.Fatal(err)
	}

	claimed, err := holder.Claim(context.Background(), "cas.example:18765", code)
	if problem.KindOf(err) == problem.Unavailable {
		log.Fatal("try again later: ", err)
	}
	fmt.Println(claimed.Session, claimed.Services)
}

// exampleCAS runs a CAS on simulated hardware, and says where it listens, which code it is
// and under which root.
func exampleCAS() (address ident.Address, code ident.Measurement, root ident.Digest, stop func()) {
	dir, err := os.MkdirTemp("", "cupel-example")
	if err != nil {
		log.Fatal(err)
	}
	e, err := castest.Open(dir, castest.Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		log.Fatal(err)
	}
	return ident.Address(e.Owners), castest.CASMeasurement, e.Root(), func() { e.Stop(); _ = os.RemoveAll(dir) }
}
