package cas_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestTotalHolds: updates of what is there go on in a full CAS, within a reserve and
// not without end: keys are free.
func TestTotalHolds(t *testing.T) {
	w := newWorldWith(t, "key-bytes=160K,total-bytes=100K")
	for i := range 200 {
		who, name := caller(byte(i+1), "192.0.2.1"), fmt.Sprintf("t%d", i)
		if w.upload(who, small(name)) != nil || w.update(who, ident.SessionName(name), large(name, 9000)) != nil {
			break
		}
	}
	if used := w.UsedInAll()["bytes"]; used > 100<<10+(100<<10)/16 {
		t.Errorf("%d bytes are kept of a total of %d and a reserve of a sixteenth", used, 100<<10)
	}
}

// TestReadersRenewAfterAReset: who reads a volume goes on after its reset, and has
// its certificate renewed: what it has of the volume lies in its memory.
func TestReadersRenewAfterAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.Close(); synctest.Wait() }()
		w.put(strings.Replace(replaceCode(certified), "  - name: certified\n",
			"  - name: certified\n    volumes: [{name: v, path: /v, update_policy: ephemeral}]\n", 1) + "volumes: [{name: v}]\n")
		w.mustAsk(1, "s", "told")
		if _, err := w.ResetVolume(t.Context(), w.owner, owners.ResetVolume{Version: owners.Version, Session: "s", Volume: "v"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(13 * time.Hour)
		r, err := w.KeepAlive(context.Background(), cas.Caller{Key: ident.KeyHash{1}}, wire.KeepAlive{Version: wire.ReleaseVersion})
		if err != nil || !r.CertificateDue {
			t.Fatal(err, r)
		}
		if _, err := w.ask(1, "s", "told"); err != nil {
			t.Errorf("its certificate is due, and the renewal is refused: %v", err)
		}
	})
}

// TestKeyBelongsToTheGeneration: after a commit under a fresh key, who has an earlier
// generation gets no key that does not open it.
func TestKeyBelongsToTheGeneration(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s"))
	v := w.mustAsk(1, "s", "a").Volumes[0]
	if err := w.tag(1, v, 0, ident.Digest{}, ident.Digest{1}); err != nil {
		t.Fatal(err)
	}
	if err := w.exit(1); err != nil {
		t.Fatal(err)
	}
	old := string(w.mustAsk(2, "s", "r").Volumes[0].Key) // generation 1
	if _, err := w.Rotate(t.Context(), w.owner, owners.Rotate{Version: owners.Version, Session: "s", Volumes: []string{"v"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.tag(3, w.mustAsk(3, "s", "b").Volumes[0], 1, ident.Digest{1}, ident.Digest{2}); err != nil {
		t.Fatal(err)
	}
	w.restart() // or any first report of instance 2
	if again, err := w.ask(2, "s", "r"); err == nil && len(again.Volumes[0].Key) != 0 && string(again.Volumes[0].Key) != old {
		t.Errorf("generation %d comes with a key that it isn't sealed under", again.Volumes[0].Generation)
	}
}

// TestHalfAJobIsNoRun: a job that committed one of its two volumes and was killed may
// run again.
func TestHalfAJobIsNoRun(t *testing.T) {
	w := newWorld(t)
	w.put(replaceCode(`version: "0.3"
name: s
services: [{name: j, image_name: job, mrenclaves: [CODE], command: j}]
volumes: [{name: v}, {name: u}]
images:
  - name: job
    volumes:
      - {name: v, path: /v, update_policy: rollback_protected}
      - {name: u, path: /u, update_policy: rollback_protected}
`))
	token := w.claim(provider, w.submit(w.owner, "s", services{"j": {Runs: 1}}).Code).Token
	if err := w.tag(1, w.mustAskUnder(token, 1, "s", "j").Volumes[0], 0, ident.Digest{}, ident.Digest{1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Gone(t.Context(), provider, owners.InstanceGone{Version: wire.ReleaseVersion, Grant: token, Instance: ident.InstanceID{1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.askUnder(token, 2, "s", "j"); err != nil {
		t.Errorf("the job can't run again: %v", err)
	}
}
