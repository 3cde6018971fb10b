package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/wire"
)

// fastRelease reads a release request in the very form in which Go's encoder
// writes it, and reports false for everything else, which encoding/json then
// judges. It exists because collateral makes requests large: encoding/json looks
// at each byte three times, which costs as much CPU as verifying a signature.
//
// The endorsements are cut out, not read: whoever verifies them parses them
// strictly. A fuzz target holds both readers against each other.
func fastRelease(body []byte) (*wire.ReleaseRequest, bool) {
	s := scanner{rest: body, ok: true}
	var req wire.ReleaseRequest

	s.literal(`{"version":2,"session":"`)
	req.Version = wire.ReleaseVersion
	req.Session = ident.SessionName(s.plain())
	s.literal(`,"service":"`)
	req.Service = ident.ServiceName(s.plain())

	if s.has(`,"grant":"`) {
		grant, err := owners.ParseGrantToken(string(s.plain()))
		if err != nil {
			return nil, false
		}
		req.Grant = grant
	}

	req.Returning = s.has(`,"returning":true`)
	s.literal(`,"evidence":{"type":"`)
	req.Evidence.Type = evidence.Type(s.plain())
	s.literal(`,"quote":"`)
	quote := s.plain()
	s.literal(`,"endorsements":`)
	req.Evidence.Endorsements = json.RawMessage(s.flatObject())
	s.literal(`}}`)

	if !s.ok || len(s.rest) != 0 {
		return nil, false
	}

	q := make([]byte, base64.StdEncoding.DecodedLen(len(quote)))
	n, err := base64.StdEncoding.Decode(q, quote)
	if err != nil {
		return nil, false
	}
	req.Evidence.Quote = q[:n]
	return &req, true
}

// scanner takes pieces off the front of rest until one is not there.
type scanner struct {
	rest []byte
	ok   bool
}

// literal takes a text that has to be there.
func (s *scanner) literal(want string) {
	rest, ok := bytes.CutPrefix(s.rest, []byte(want))
	s.rest, s.ok = rest, s.ok && ok
}

// has takes a literal that may be missing.
func (s *scanner) has(want string) bool {
	rest, ok := bytes.CutPrefix(s.rest, []byte(want))
	s.rest = rest
	return ok
}

// plain takes a string of unremarkable ASCII and its closing quote.
func (s *scanner) plain() []byte {
	end := bytes.IndexByte(s.rest, '"')
	if end < 0 {
		s.ok = false
		return nil
	}
	text := s.rest[:end]

	for _, c := range text {
		if c < ' ' || c > '~' || c == '\\' {
			s.ok = false
			return nil
		}
	}

	s.rest = s.rest[end+1:]
	return text
}

// flatObject takes an object of strings: from a brace to the first brace that is
// in no string. Another brace before it is for encoding/json.
func (s *scanner) flatObject() []byte {
	if len(s.rest) == 0 || s.rest[0] != '{' {
		s.ok = false
		return nil
	}

	for i := 1; i < len(s.rest); i++ {
		switch s.rest[i] {
		case '"':
			if i = closingQuote(s.rest, i+1); i < 0 {
				s.ok = false
				return nil
			}
		case '{', '[', ']':
			s.ok = false
			return nil
		case '}':
			object := s.rest[:i+1]
			s.rest = s.rest[i+1:]
			return object
		}
	}
	s.ok = false
	return nil
}

// closingQuote returns the place of the quote that ends a string whose text
// begins at i, or -1.
func closingQuote(b []byte, i int) int {
	for {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n

		escapes := 0
		for b[i-1-escapes] == '\\' {
			escapes++
		}

		if escapes%2 == 0 {
			return i
		}
		i++
	}
}
