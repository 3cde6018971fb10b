//go:build e2e

package runtimeimage

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestPullRepeated: a server that repeats the secret has it printed by nobody, in
// whichever form it writes it; what else it says is shown.
func TestPullRepeated(t *testing.T) {
	p := newPlace(t, unpacked(t, "puller"))
	const secret = `p@ss/w0rd%41+X 9q&"<\é`
	p.s.token, p.pull.token = secret, secret+"\n"
	escaped := func(format, text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&b, format, c)
		}
		return b.String()
	}
	query := url.QueryEscape(secret)
	quoted := strings.ReplaceAll(strings.ReplaceAll(query, "+", "%20"), "%2F", "/")
	for name, form := range map[string]string{
		"as it is":             secret,
		"of a path":            url.PathEscape(secret),
		"of a query":           query,
		"with its slashes":     quoted,
		"in small digits":      strings.ToLower(quoted),
		"twice":                url.QueryEscape(quoted),
		"every byte":           escaped("%%%02x", secret),
		"JSON":                 strings.NewReplacer(`\`, `\\`, `"`, `\"`, "/", `\/`, "&", `\u0026`, "<", `\u003c`, "é", `\u00e9`).Replace(secret),
		"a program":            escaped(`\x%02X`, secret),
		"octal digits":         escaped(`\%03o`, secret),
		"HTML":                 html.EscapeString(secret),
		"HTML's numbers":       escaped("&#x%02X;", secret),
		"hexadecimal digits":   hex.EncodeToString([]byte(secret)),
		"Base64":               base64.StdEncoding.EncodeToString([]byte("somebody:" + secret)),
		"Base64 of an address": url.QueryEscape(base64.URLEncoding.EncodeToString([]byte("x " + secret))),
	} {
		p.s.answer("/info/refs", http.StatusTeapot, "denied\n<"+form+">")
		out := p.refused("/app.git", 72, "the server answers 418", "remote: denied")
		if strings.Contains(out, form) || strings.Contains(out, "w0rd") || strings.Contains(out, "X 9q") {
			t.Errorf("%s: %s", name, out)
		}
	}
}
