package wire

import (
	"strings"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
)

// The LAS speaks HTTP/1.1 over a Unix socket of the instance's own.
const (
	// PathQuote: POST QuoteRequest -> evidence.Evidence.
	PathQuote = "/v1/quote"
	// Socket is the LAS socket's name in the instance's socket directory.
	Socket = "las.sock"
)

// QuoteRequest asks for evidence that carries ReportData.
type QuoteRequest struct {
	Version    int             `json:"version"` // 1
	ReportData evidence.Data64 `json:"report_data"`
}

// SocketPath returns the path in an address "unix:/path".
func SocketPath(addr string) (string, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", problem.New(problem.Invalid, ruleLASAddress, "%q", addr).Want("unix:/absolute/path")
	}
	return path, nil
}
