package secrets

import (
	"crypto/x509"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/session"
)

// TestDue: what an earlier version issued for fifty years is due at once, but for
// certificate authorities, which users have pinned.
func TestDue(t *testing.T) {
	now := time.Now()
	cert := func(age, life time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: now.Add(-age), NotAfter: now.Add(life - age)}
	}
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	keyed := session.Secret{Kind: session.X509, PrivateKey: "key"}
	long := session.Secret{Kind: session.X509, PrivateKey: "key", ValidFor: "20 years"}
	ca := session.Secret{Kind: session.X509CA, PrivateKey: "key"}

	for name, c := range map[string]struct {
		secret session.Secret
		cert   *x509.Certificate
		want   bool
	}{
		"fresh":                   {keyed, cert(0, 90*day+backdated), false},
		"before half of its life": {keyed, cert(44*day, 90*day), false},
		"after half of its life":  {keyed, cert(46*day, 90*day), true},
		"of fifty years":          {keyed, cert(day, 50*year), true},
		"as long as asked for":    {long, cert(day, 20*year), false},
		"an authority of fifty":   {ca, cert(day, 50*year), false},
		"an authority at its end": {ca, cert(10*year-day, 10*year), false},
	} {
		got, err := due(c.secret, c.cert, now)
		if err != nil || got != c.want {
			t.Errorf("%s: due %v, %v; want %v", name, got, err, c.want)
		}
	}
}
