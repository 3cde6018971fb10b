package problem

import (
	"errors"
	"fmt"
	"testing"
)

func TestFrom(t *testing.T) {
	denied := New(Denied, "measurement", "another one")
	plain := errors.New("plain")
	for _, c := range []struct {
		name string
		err  error
		kind Kind
		rule string
	}{
		{"itself", denied, Denied, "measurement"},
		{"wrapped", fmt.Errorf("release: %w", denied), Denied, "measurement"},
		{"joined", errors.Join(plain, denied), Denied, "measurement"},
		{"another error", plain, Internal, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if p := From(c.err); p.Kind != c.kind || p.Rule != c.rule || KindOf(c.err) != c.kind {
				t.Errorf("got %+v, kind %q", p, KindOf(c.err))
			}
		})
	}
	if !errors.Is(From(plain), plain) {
		t.Error("the cause is lost")
	}
	if p := From(nil); p != nil || KindOf(nil) != "" {
		t.Errorf("no error became %v of kind %q", p, KindOf(nil))
	}
}
