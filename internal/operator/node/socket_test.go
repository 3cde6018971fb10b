package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestInstancesFaultIsNoTrouble: what an instance does wrong in storing, or breaks off, is
// no trouble of the machine's that the operator could mend, and none that is over with its
// next volume. What the machine does wrong is one.
func TestInstancesFaultIsNoTrouble(t *testing.T) {
	id := ident.Digest{1}
	down := &replica{stored: map[wire.Snapshot]string{}}
	volumes := store(t, down)
	var told []manager.Incident
	troubles := manager.Troubles{Tell: func(in manager.Incident) { told = append(told, in) }}
	s := &nodeSocket{
		memory: 1 << 20, volumes: volumes, logger: slog.New(slog.DiscardHandler),
		stored: func(_ context.Context, err error) { troubles.Note("store a volume", "i-1-1", err) },
	}
	put := func(body io.Reader, tag string) error {
		r := httptest.NewRequest(http.MethodPut, "/?"+url.Values{wire.QueryGeneration: {"1"}}.Encode(), body)
		r.SetPathValue("id", id.String())
		r.Trailer = http.Header{wire.TrailerTag: {tag}}
		return s.putVolume(httptest.NewRecorder(), r)
	}
	good := ident.Sum([]byte("x")).String()
	for range 3 {
		for name, err := range map[string]error{
			"no tag":    put(strings.NewReader("x"), "no tag"),
			"too large": put(bytes.NewReader(make([]byte, 64<<20)), good),
			"broke off": put(iotest.ErrReader(io.ErrUnexpectedEOF), good),
		} {
			if err == nil {
				t.Errorf("%s: stored", name)
			}
		}
		if err := put(strings.NewReader("x"), good); err != nil {
			t.Error(err)
		}
	}
	if len(told) > 0 {
		t.Errorf("the instance's faults are told: %+v", told)
	}
	down.err = errors.New("no registry")
	if err := put(strings.NewReader("y"), good[:len(good)-1]+"0"); err == nil || len(told) != 1 || told[0].Reason != manager.ReasonTrouble {
		t.Errorf("the machine's: %v, %+v", err, told)
	}
}
