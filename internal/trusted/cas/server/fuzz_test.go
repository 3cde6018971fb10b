package server

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzReleaseRequest: no panic, and what is accepted re-encodes to the same.
func FuzzReleaseRequest(f *testing.F) {
	for _, seed := range []string{
		`{"version":1,"session":"a/b","service":"c","evidence":{"type":"sgx","quote":"AAAA","endorsements":{"x":"y"}}}`,
		`{"version":1,"session":"a","service":"c","otp":"1","evidence":{"type":"sgx","quote":null}}`,
		`{"version":1,"evidence":{"endorsements":null}}`,
		`{"Version":1}`, `{}`, `null`, `[]`, `{"version":1}{}`, `{"session":"\ud800"}`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := decodeRelease(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(req)
		if err != nil {
			t.Fatalf("accepted, but does not marshal: %v", err)
		}
		again, err := decodeRelease(out)
		if err != nil {
			t.Fatalf("re-encoded %s: %v", out, err)
		}
		twice, err := json.Marshal(again)
		if err != nil || cmp.Diff(string(out), string(twice)) != "" {
			t.Errorf("%s\n%s\n%v", out, twice, err)
		}
	})
}

// FuzzValueRef: no panic, and never a reference without a session.
func FuzzValueRef(f *testing.F) {
	for _, seed := range []string{"session=a", "session=/a/b,secret=c", "secret=c", "session=a,session_hash=00", "=", ",,", "session=a,session=b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ref, err := parseValueRef(s); err == nil && ref.Session == "" {
			t.Errorf("%q names no session", s)
		}
	})
}
