package home

import (
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

func TestPinCheck(t *testing.T) {
	h := func(s string) ident.Digest { return ident.Sum([]byte(s)) }
	pin := Pin{Identity: ident.KeyHash{1}, Head: owners.SignedHead{Seq: 7, Hash: h("7")}, Attested: clock()}
	good := Seen{Identity: pin.Identity, Head: pin.Head, Time: clock(), Now: clock()}
	for name, c := range map[string]struct {
		change func(*Seen)
		rule   string
	}{
		"same":            {func(*Seen) {}, ""},
		"longer log":      {func(s *Seen) { s.Head = owners.SignedHead{Seq: 8, Hash: h("8")} }, ""},
		"clock at bound":  {func(s *Seen) { s.Time = s.Now.Add(5 * time.Minute) }, ""},
		"another key":     {func(s *Seen) { s.Identity = ident.KeyHash{2} }, "cas_identity_changed"},
		"no key":          {func(s *Seen) { s.Identity = ident.KeyHash{} }, "cas_identity_changed"},
		"older log":       {func(s *Seen) { s.Head = owners.SignedHead{Seq: 6, Hash: h("6")} }, "cas_log_older"},
		"empty log":       {func(s *Seen) { s.Head = owners.SignedHead{} }, "cas_log_older"},
		"another history": {func(s *Seen) { s.Head.Hash = h("seven") }, "cas_log_forked"},
		"clock ahead":     {func(s *Seen) { s.Time = s.Now.Add(5*time.Minute + time.Second) }, "cas_clock"},
		"clock behind":    {func(s *Seen) { s.Time = s.Now.Add(-6 * time.Minute) }, "cas_clock"},
		"no clock":        {func(s *Seen) { s.Time = time.Time{} }, "cas_clock"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := good
			c.change(&seen)
			err := pin.Check(seen)
			if c.rule == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			p := problem.From(err)
			if string(p.Rule) != c.rule || p.Kind != problem.Denied || p.Expected == "" || p.Mend == "" {
				t.Errorf("got %+v, want %s", p, c.rule)
			}
		})
	}
}
