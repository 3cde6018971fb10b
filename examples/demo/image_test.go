package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/operator/registry"
	"cupel.dev/cupel/internal/testing/need"
)

// TestImageIsChangedAndRestored: the operator of the demo changes one variable of an
// image, and puts back exactly what was there.
func TestImageIsChangedAndRestored(t *testing.T) {
	need.Root(t) // only root writes to the registry
	s, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	served := httptest.NewServer(s.Handler())
	defer served.Close()
	addr := strings.TrimPrefix(served.URL, "http://")

	const kind = "application/vnd.oci.image.manifest.v1+json"
	first := &image{base: served.URL + "/v2/runtimes/python", mediaType: kind}
	config := `{"architecture":"amd64","os":"linux","config":{"Env":["A=1"],"User":"1000"},"rootfs":{"type":"layers","diff_ids":[]}}`
	digest, err := first.upload(t.Context(), []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	first.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
		kind, digest, len(config))
	if err := first.restore(t.Context()); err != nil {
		t.Fatal(err)
	}

	i, err := pullImage(t.Context(), addr, "runtimes/python")
	if err != nil || string(i.manifest) != string(first.manifest) {
		t.Fatalf("%s, %v", i.manifest, err)
	}
	if err := i.pushWith(t.Context(), "B=2"); err != nil {
		t.Fatal(err)
	}
	changed, err := pullImage(t.Context(), addr, "runtimes/python")
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Config struct {
			Digest string `json:"digest"`
		} `json:"config"`
	}
	if err := json.Unmarshal(changed.manifest, &manifest); err != nil {
		t.Fatal(err)
	}
	now, _, err := changed.do(t.Context(), http.MethodGet, changed.base+"/blobs/"+manifest.Config.Digest, nil, "")
	if err != nil || !strings.Contains(string(now), `"Env":["A=1","B=2"]`) || !strings.Contains(string(now), `"User":"1000"`) {
		t.Errorf("the changed image's config is %s, %v", now, err)
	}
	if err := i.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last, err := pullImage(t.Context(), addr, "runtimes/python"); err != nil || string(last.manifest) != string(first.manifest) {
		t.Errorf("restored: %s, %v", last.manifest, err)
	}
}
