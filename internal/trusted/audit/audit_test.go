package audit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

func makeLog(t *testing.T, key *ecdsa.PrivateKey, n int) ([]owners.Entry, []owners.SignedHead) {
	t.Helper()
	var chain Chain
	entries := []owners.Entry{}
	heads := []owners.SignedHead{{}}
	for i := range n {
		e := owners.Entry{
			Seq: uint64(i + 1), Time: int64(i) * 1000, Event: owners.EventSessionCreated, Actor: ident.KeyHash{byte(i)}, Request: "r", Session: "s",
			Detail: map[string]string{"a": "1", "b": "2"}, Rows: []owners.Row{{ID: "x", Version: uint64(i + 1), Hash: ident.Digest{byte(i)}}},
		}
		if err := chain.Append(e); err != nil {
			t.Fatal(err)
		}
		h, err := Sign(key, chain, e.Time)
		if err != nil {
			t.Fatal(err)
		}
		entries, heads = append(entries, e), append(heads, h)
	}
	return entries, heads
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestVerifyAccepts(t *testing.T) {
	key := newKey(t)
	entries, heads := makeLog(t, key, 6)
	for from := range heads {
		for to := from; to < len(heads); to++ {
			if to == 0 {
				continue
			}
			if err := Verify(&key.PublicKey, heads[from], entries[from:to], heads[to]); err != nil {
				t.Errorf("%d to %d: %v", from, to, err)
			}
		}
	}
}

// TestVerifyRefuses changes one thing at a time.
func TestVerifyRefuses(t *testing.T) {
	key := newKey(t)
	entries, heads := makeLog(t, key, 6)
	other, _ := makeLog(t, key, 6)
	other[3].Session = "fork"
	otherHead := func() owners.SignedHead {
		var c Chain
		for _, e := range other {
			if err := c.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		h, err := Sign(key, c, 1)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}()
	edit := func(change func(e *owners.Entry)) []owners.Entry {
		out := slices.Clone(entries[2:6])
		change(&out[1])
		return out
	}
	for name, c := range map[string]struct {
		from    owners.SignedHead
		entries []owners.Entry
		to      owners.SignedHead
		rule    string
	}{
		"missing at the end":  {heads[2], entries[2:5], heads[6], "audit_log_cut"},
		"missing within":      {heads[2], append(slices.Clone(entries[2:4]), entries[5]), heads[6], "audit_log_gap"},
		"older than seen":     {heads[4], nil, heads[3], "audit_log_older"},
		"fork":                {heads[5], other[5:6], otherHead, "audit_log_forked"},
		"fork at its end":     {heads[6], nil, otherHead, "audit_log_forked"},
		"edited session":      {heads[2], edit(func(e *owners.Entry) { e.Session = "t" }), heads[6], "audit_log_forked"},
		"edited time":         {heads[2], edit(func(e *owners.Entry) { e.Time++ }), heads[6], "audit_log_forked"},
		"edited event":        {heads[2], edit(func(e *owners.Entry) { e.Event = owners.EventSessionUpdated }), heads[6], "audit_log_forked"},
		"edited actor":        {heads[2], edit(func(e *owners.Entry) { e.Actor[0]++ }), heads[6], "audit_log_forked"},
		"edited request":      {heads[2], edit(func(e *owners.Entry) { e.Request = "q" }), heads[6], "audit_log_forked"},
		"edited detail":       {heads[2], edit(func(e *owners.Entry) { e.Detail = map[string]string{"a": "12", "b": ""} }), heads[6], "audit_log_forked"},
		"edited row":          {heads[2], edit(func(e *owners.Entry) { e.Rows = []owners.Row{{ID: "x", Version: 9}} }), heads[6], "audit_log_forked"},
		"no rows":             {heads[2], edit(func(e *owners.Entry) { e.Rows = nil }), heads[6], "audit_log_forked"},
		"unsigned end":        {heads[2], entries[2:6], owners.SignedHead{Seq: 6, Hash: heads[6].Hash}, "audit_head_signature"},
		"moved time of head":  {heads[2], entries[2:6], func() owners.SignedHead { h := heads[6]; h.Time++; return h }(), "audit_head_signature"},
		"unsigned beginning":  {owners.SignedHead{Seq: 2, Hash: heads[2].Hash}, entries[2:6], heads[6], "audit_head_signature"},
		"nothing at all":      {owners.SignedHead{}, nil, owners.SignedHead{}, "audit_head_signature"},
		"begins at the wrong": {heads[1], entries[2:6], heads[6], "audit_log_gap"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Verify(&key.PublicKey, c.from, c.entries, c.to)
			if err == nil || string(problem.From(err).Rule) != c.rule {
				t.Fatalf("%v; want rule %s", err, c.rule)
			}
			t.Log(err)
		})
	}
	if err := Verify(&newKey(t).PublicKey, heads[2], entries[2:6], heads[6]); err == nil {
		t.Error("another key's log verifies")
	}
}
