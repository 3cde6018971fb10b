package server

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/wire"
)

// FuzzReleaseRequest: no panic, and what is accepted re-encodes to the same.
func FuzzReleaseRequest(f *testing.F) {
	for _, seed := range []string{
		`{"version":2,"session":"a/b","service":"c","evidence":{"type":"sgx","quote":"AAAA","endorsements":{"x":"y"}}}`,
		`{"version":2,"session":"a","service":"c","otp":"1","evidence":{"type":"sgx","quote":null}}`,
		`{"version":2,"session":"a","service":"c","returning":true,"evidence":{"type":"sgx","quote":"AAAA","endorsements":{"x":"y"}}}`,
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
		if raw := req.Evidence.Endorsements; raw != nil && !json.Valid(raw) {
			return // cut out, not read: the verifier refuses it
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

// FuzzFastRelease: where the fast reader answers, encoding/json answers the same.
func FuzzFastRelease(f *testing.F) {
	for _, seed := range []string{
		`{"version":2,"session":"a/b","service":"c","evidence":{"type":"sgx","quote":"AAAA","endorsements":{"x":"y","z":"a\\\"}}"}}}`,
		`{"version":2,"session":"a","service":"c","evidence":{"type":"sgx","quote":"","endorsements":{}}}`,
		`{"version":2,"session":"a","service":"c","evidence":{"type":"sgx","quote":"AA==","endorsements":{"x":"\\"}}}`,
		`{"version":2,"session":"a","service":"c","grant":"cupelgrant1.AA","evidence":{"type":"sgx","quote":"AA==","endorsements":{}}}`,
		`{"version":2,"session":"a","service":"c","evidence":{"type":"sgx","quote":"A","endorsements":{"x":1}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fast, ok := fastRelease(b)
		if !ok {
			return
		}
		if !json.Valid(fast.Evidence.Endorsements) {
			return // the verifier refuses it
		}
		var slow wire.ReleaseRequest
		if err := strictJSON(b, &slow); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if d := cmp.Diff(&slow, fast); d != "" {
			t.Errorf("%s: %s", b, d)
		}
	})
}

func TestFastReleaseTakesWhatClientsSend(t *testing.T) {
	body, err := json.Marshal(wire.ReleaseRequest{
		Version: wire.ReleaseVersion, Session: "a/b", Service: "c", Grant: owners.NewGrantToken(owners.GrantID{1}, [32]byte{2}),
		Evidence: evidence.Evidence{Type: evidence.SGX, Quote: []byte{1, 2, 3}, Endorsements: json.RawMessage(`{"tcb":"{\"a\":1}"}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := fastRelease(body); !ok {
		t.Errorf("%s: left to the slow reader", body)
	}
}
