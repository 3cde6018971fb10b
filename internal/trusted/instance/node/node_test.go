package node

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

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/wire"
)

func serveNode(t *testing.T, h http.Handler) *Node {
	t.Helper()
	path := filepath.Join(t.TempDir(), wire.NodeSocket)
	l, err := net.Listen("unix", path)
	mustDo(t, err)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	t.Cleanup(srv.Close)
	return NewNode(path)
}

func TestNode(t *testing.T) {
	id := ident.Sum([]byte("v"))
	stored := map[string][]byte{}
	var reported wire.Status
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+wire.PathVolumes+"{id}", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // it broke off: nothing is stored
		}
		stored[r.PathValue("id")+"@"+r.URL.Query().Get(wire.QueryGeneration)+"@"+r.Trailer.Get(wire.TrailerTag)] = b
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET "+wire.PathVolumes+"{id}", func(w http.ResponseWriter, r *http.Request) {
		b, ok := stored[r.PathValue("id")+"@"+r.FormValue(wire.QueryGeneration)+"@"+r.FormValue(wire.QueryTag)]
		if !ok {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "volume_missing", "generation %s", r.FormValue(wire.QueryGeneration)))
			return
		}
		_, _ = w.Write(b)
	})
	mux.HandleFunc("POST "+wire.PathStatus, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&reported)
		w.WriteHeader(http.StatusNoContent)
	})
	node := serveNode(t, mux)
	text := bytes.Repeat([]byte("ciphertext"), 10000)

	tag := ident.Sum([]byte("tag"))
	first := wire.Snapshot{Volume: id, Generation: 1, Tag: tag}
	if _, _, err := node.Get(t.Context(), first); problem.KindOf(err) != problem.NotFound {
		t.Errorf("missing snapshot: %v", err)
	}
	mustDo(t, node.Put(t.Context(), id, 1, bytes.NewReader(text), func() ident.Digest { return tag }))
	body, _, err := node.Get(t.Context(), first)
	mustDo(t, err)
	got, err := io.ReadAll(body)
	mustDo(t, err)
	mustDo(t, body.Close())
	if !bytes.Equal(got, text) {
		t.Error("another snapshot came back")
	}
	broken := errors.New("packing broke")
	err = node.Put(t.Context(), id, 2, io.MultiReader(bytes.NewReader(text), iotest.ErrReader(broken)), func() ident.Digest { return tag })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, _, err := node.Get(t.Context(), wire.Snapshot{Volume: id, Generation: 2, Tag: tag}); problem.KindOf(err) != problem.NotFound {
		t.Errorf("half a snapshot was stored: %v", err)
	}
	want := wire.Status{Version: wire.StatusVersion, Phase: wire.Exited, InstanceID: ident.KeyHash{1}, Code: 3}
	orders, err := node.Report(t.Context(), wire.Status{Phase: wire.Exited, InstanceID: ident.KeyHash{1}, Code: 3})
	mustDo(t, err)
	if orders != (wire.Orders{}) {
		t.Errorf("orders %+v of a node that gives none", orders)
	}
	if d := cmp.Diff(want, reported); d != "" {
		t.Error(d)
	}
}

func TestNodeUnreachable(t *testing.T) {
	_, err := NewNode(filepath.Join(t.TempDir(), "none")).Report(t.Context(), wire.Status{Phase: wire.Starting})
	if problem.KindOf(err) != problem.Unavailable {
		t.Errorf("got %v", err)
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
