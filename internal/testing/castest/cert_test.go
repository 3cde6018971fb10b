package castest

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/wire"
)

// checkAppCertificate verifies an instance's certificate under the CA that the
// session exports.
func checkAppCertificate(t *testing.T, o *Owner, r *wire.ReleaseReply) {
	t.Helper()
	files := map[string][]byte{}
	for _, f := range r.Files {
		files[f.Path] = f.Content
	}
	pair, err := tls.X509KeyPair(files["/run/cupel/tls/cert.pem"], files["/run/cupel/tls/key.pem"])
	if err != nil {
		t.Fatal(err)
	}
	var ca owners.Value
	if _, err := o.Do(t.Context(), http.MethodGet, "/v1/values/session=demo,secret=app_ca", nil, &ca); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca.Value)) {
		t.Fatalf("not a certificate: %q", ca.Value)
	}
	for _, name := range []string{"localhost", "127.0.0.1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	want := "cupel://demo/client-app/" + r.InstanceID.String()
	if len(pair.Leaf.URIs) != 1 || pair.Leaf.URIs[0].String() != want {
		t.Errorf("URIs %v, want %s", pair.Leaf.URIs, want)
	}
	if !strings.Contains(string(files["/run/cupel/tls/cert.pem"]), ca.Value) {
		t.Error("the certificate file lacks the chain")
	}
}
