package castest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"cupel.dev/cupel/api/openapi"
)

// contract holds replies against an API's OpenAPI document.
type contract struct {
	router routers.Router
}

func load(doc []byte) (*contract, error) {
	d, err := openapi3.NewLoader().LoadFromData(doc)
	if err != nil {
		return nil, err
	}
	if err := d.Validate(context.Background()); err != nil {
		return nil, err
	}
	// Names with slashes would need patterns that OpenAPI does not have: tests
	// ask for names without.
	r, err := gorillamux.NewRouter(d)
	return &contract{r}, err
}

var contracts = sync.OnceValues(func() (map[string]*contract, error) {
	owners, err := load([]byte(openapi.Owners))
	if err != nil {
		return nil, err
	}
	instances, err := load([]byte(openapi.Instances))
	return map[string]*contract{"owners": owners, "instances": instances}, err
})

// checkReply fails the test where a reply is not what the document says. Paths
// that the document has no route for are left to other tests.
func checkReply(t testing.TB, which, method, path string, status int, header http.Header, body []byte) {
	t.Helper()
	all, err := contracts()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse("https://cas" + path)
	if err != nil {
		t.Fatal(err)
	}
	req := &http.Request{Method: method, URL: u, Header: http.Header{}}
	route, params, err := all[which].router.FindRoute(req)
	if err != nil {
		if status < 300 {
			t.Errorf("%s %s: %v", method, path, err)
		}
		return
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 status, Header: header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if strings.HasSuffix(path, ".yaml") {
		return
	}
	if err := openapi3filter.ValidateResponse(context.Background(), in); err != nil {
		t.Errorf("%s %s: %d: %v\n%s", method, path, status, err, body)
	}
}

func TestOpenAPI(t *testing.T) {
	if _, err := contracts(); err != nil {
		t.Fatal(err)
	}
}

// begin starts a CAS whose every reply is held against its document.
func begin(t testing.TB, o Options) *Env {
	t.Helper()
	o.Observe = func(which, method, path string, status int, header http.Header, body []byte) {
		checkReply(t, which, method, path, status, header, body)
	}
	return Start(t, o)
}
