package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

func serveNode(t *testing.T, h http.Handler) *Node {
	t.Helper()
	path := filepath.Join(t.TempDir(), NodeSocket)
	l, err := net.Listen("unix", path)
	must(t, err)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	t.Cleanup(srv.Close)
	return NewNode(path)
}

func TestNode(t *testing.T) {
	id := ident.Sum([]byte("v"))
	stored := map[string][]byte{}
	var reported Status
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+PathVolumes+"{id}", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // it broke off: nothing is stored
		}
		stored[r.PathValue("id")+"@"+r.FormValue(QueryGeneration)] = b
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET "+PathVolumes+"{id}", func(w http.ResponseWriter, r *http.Request) {
		b, ok := stored[r.PathValue("id")+"@"+r.FormValue(QueryGeneration)]
		if !ok {
			problem.Write(w, "", problem.New(problem.NotFound, "volume_missing", "generation %s", r.FormValue(QueryGeneration)))
			return
		}
		_, _ = w.Write(b)
	})
	mux.HandleFunc("POST "+PathStatus, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&reported)
		w.WriteHeader(http.StatusNoContent)
	})
	node := serveNode(t, mux)
	text := bytes.Repeat([]byte("ciphertext"), 10000)

	if _, _, err := node.Get(t.Context(), id, 1); problem.KindOf(err) != problem.NotFound {
		t.Errorf("missing snapshot: %v", err)
	}
	must(t, node.Put(t.Context(), id, 1, bytes.NewReader(text)))
	body, _, err := node.Get(t.Context(), id, 1)
	must(t, err)
	got, err := io.ReadAll(body)
	must(t, err)
	must(t, body.Close())
	if !bytes.Equal(got, text) {
		t.Error("another snapshot came back")
	}
	broken := errors.New("packing broke")
	err = node.Put(t.Context(), id, 2, io.MultiReader(bytes.NewReader(text), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, _, err := node.Get(t.Context(), id, 2); problem.KindOf(err) != problem.NotFound {
		t.Errorf("half a snapshot was stored: %v", err)
	}
	want := Status{Version: StatusVersion, Phase: Exited, InstanceID: ident.KeyHash{1}, Code: 3}
	must(t, node.Report(t.Context(), Status{Phase: Exited, InstanceID: ident.KeyHash{1}, Code: 3}))
	if d := cmp.Diff(want, reported); d != "" {
		t.Error(d)
	}
}

func TestNodeUnreachable(t *testing.T) {
	err := NewNode(filepath.Join(t.TempDir(), "none")).Report(t.Context(), Status{Phase: Starting})
	if problem.KindOf(err) != problem.Unavailable {
		t.Errorf("got %v", err)
	}
}
