package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxBody bounds what is read of the registry's answers.
const maxBody = 4 << 20

// image is an image in the operator's registry, as it was before it was changed.
type image struct {
	base      string // of its repository
	manifest  []byte
	mediaType string
}

// pullImage reads what the registry has as the newest image of a repository.
func pullImage(ctx context.Context, registry, repository string) (*image, error) {
	i := &image{base: "http://" + registry + "/v2/" + repository}
	answer, header, err := i.do(ctx, http.MethodGet, i.base+"/manifests/latest", nil, "application/vnd.oci.image.manifest.v1+json")
	if err != nil {
		return nil, err
	}

	i.manifest = answer
	i.mediaType = header.Get("Content-Type")
	return i, nil
}

// pushWith puts the image in its place that sets one variable more.
func (i *image) pushWith(ctx context.Context, variable string) error {
	var manifest struct {
		rest   map[string]any
		Config struct {
			Digest string `json:"digest"`
		} `json:"config"`
	}
	if err := json.Unmarshal(i.manifest, &manifest); err != nil {
		return err
	}

	if err := json.Unmarshal(i.manifest, &manifest.rest); err != nil {
		return err
	}

	text, _, err := i.do(ctx, http.MethodGet, i.base+"/blobs/"+manifest.Config.Digest, nil, "")
	if err != nil {
		return err
	}

	config, err := withVariable(text, variable)
	if err != nil {
		return err
	}

	digest, err := i.upload(ctx, config)
	if err != nil {
		return err
	}

	described, ok := manifest.rest["config"].(map[string]any)
	if !ok {
		return fmt.Errorf("the manifest describes no config")
	}
	described["digest"] = digest
	described["size"] = len(config)

	changed, err := json.Marshal(manifest.rest)
	if err != nil {
		return err
	}

	return i.tag(ctx, changed)
}

// restore puts the image back as it was.
func (i *image) restore(ctx context.Context) error { return i.tag(ctx, i.manifest) }

// tag makes a manifest the newest image.
func (i *image) tag(ctx context.Context, manifest []byte) error {
	_, _, err := i.do(ctx, http.MethodPut, i.base+"/manifests/latest", manifest, i.mediaType)
	return err
}

// withVariable adds a variable to an image's config.
func withVariable(config []byte, variable string) ([]byte, error) {
	var whole map[string]any
	if err := json.Unmarshal(config, &whole); err != nil {
		return nil, err
	}

	runs, ok := whole["config"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the image's config says nothing of how it runs")
	}

	env, _ := runs["Env"].([]any)
	runs["Env"] = append(env, variable)
	return json.Marshal(whole)
}

// upload stores bytes in the repository and returns their digest (OCI distribution
// specification, pushing blobs: POST then PUT).
func (i *image) upload(ctx context.Context, content []byte) (string, error) {
	sum := sha256.Sum256(content)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	_, header, err := i.do(ctx, http.MethodPost, i.base+"/blobs/uploads/", nil, "")
	if err != nil {
		return "", err
	}

	base, err := url.Parse(i.base)
	if err != nil {
		return "", err
	}

	at, err := base.Parse(header.Get("Location"))
	if err != nil {
		return "", err
	}

	query := at.Query()
	query.Set("digest", digest)
	at.RawQuery = query.Encode()

	_, _, err = i.do(ctx, http.MethodPut, at.String(), content, "application/octet-stream")
	return digest, err
}

// do makes one request to the registry; kind is the type of what is sent or asked for.
func (i *image) do(ctx context.Context, method, address string, content []byte, kind string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(content))
	if err != nil {
		return nil, nil, err
	}

	if kind != "" {
		name := "Accept"
		if content != nil {
			name = "Content-Type"
		}
		req.Header.Set(name, kind)
	}

	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}

	defer func() { _ = r.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err == nil && r.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, req.URL.Path, r.Status, strings.TrimSpace(string(answer)))
	}

	return answer, r.Header, err
}
