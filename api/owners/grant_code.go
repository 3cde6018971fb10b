package owners

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// MaxCode is the most bytes of a grant's code or token.
const MaxCode = 200

// Prefixes by which a person tells the two apart.
const (
	codePrefix  = "cupel1."
	tokenPrefix = "cupelgrant1."
)

// GrantID names a grant. Text form: 32 hex digits. It is no secret.
type GrantID [16]byte

// GrantCode is what an owner hands to an operator: it names the CAS and the
// grant, and its secret lets one key claim it, once.
type GrantCode struct {
	CAS    ident.KeyHash
	Grant  GrantID
	Secret [16]byte
}

// GrantToken is what the claim of a code gave: it travels with every release. Its
// text is a secret that is printed nowhere, but by Reveal and in JSON, which is
// how it reaches the CAS.
type GrantToken struct{ text string }

// Claim asks for a grant's token. The key of the connection becomes the one that
// the grant is claimed by: it may ask again, no other may.
type Claim struct {
	Version int    `json:"version"`
	Code    string `json:"code"`
}

// ClaimReply is what the holder of a grant has to know.
type ClaimReply struct {
	Version int               `json:"version"`
	Grant   GrantID           `json:"grant"`
	Session ident.SessionName `json:"session"`
	App     string            `json:"app"`
	// Maker is the key that made the grant: the app belongs to it.
	Maker    ident.KeyHash                        `json:"maker"`
	Services map[ident.ServiceName]GrantedService `json:"services"`
	Until    *time.Time                           `json:"until,omitempty"` // null: no end
	Token    GrantToken                           `json:"token"`
}

// GrantedService is how much of one service a grant lets run: Instances for one
// that serves, Runs for a job. One of them is positive, the other zero.
type GrantedService struct {
	Instances int `json:"instances,omitempty"` // with rights, at any one time
	Runs      int `json:"runs,omitempty"`      // that ended well, over the grant's life
	// Writes lists the volumes that the service writes: at most one instance of
	// it can run. It is the CAS's answer, from the session; nobody sets it.
	Writes []string `json:"writes,omitempty"`
}

// InstanceGone tells the CAS that an instance is no more: its rights end, and its place
// becomes free. A late commit of its is fenced by the lease.
type InstanceGone struct {
	Version  int              `json:"version"`
	Grant    GrantToken       `json:"grant"`
	Instance ident.InstanceID `json:"instance"`
}

// GiveBack ends a grant. It is no error if it has ended.
type GiveBack struct {
	Version int        `json:"version"`
	Grant   GrantToken `json:"grant"`
}

// String is the code as one line.
func (c GrantCode) String() string {
	b := append([]byte(nil), c.CAS[:]...)
	b = append(b, c.Grant[:]...)
	b = append(b, c.Secret[:]...)

	return codePrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseGrantCode reads a code; white space around it is passed over. What was
// given is never repeated in the error.
func ParseGrantCode(s string) (GrantCode, error) {
	var c GrantCode
	text, ok := strings.CutPrefix(strings.TrimSpace(s), codePrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)

	if !ok || err != nil || len(b) != len(c.CAS)+len(c.Grant)+len(c.Secret) {
		return GrantCode{}, problem.New(problem.Invalid, problem.RuleGrantCode, "%d characters that are no code", len(s)).
			Want("one line that begins with %q", codePrefix).
			Fix("copy all of what 'cupel session submit' printed")
	}

	n := copy(c.CAS[:], b)
	n += copy(c.Grant[:], b[n:])
	copy(c.Secret[:], b[n:])
	return c, nil
}

// NewGrantToken makes the token of a grant; mac is the CAS's.
func NewGrantToken(id GrantID, mac [32]byte) GrantToken {
	b := append(append([]byte(nil), id[:]...), mac[:]...)
	return GrantToken{tokenPrefix + base64.RawURLEncoding.EncodeToString(b)}
}

// ParseGrantToken takes a token's text as it is: what it says is the CAS's to
// judge. It refuses what can't be one, without repeating it.
func ParseGrantToken(s string) (GrantToken, error) {
	if len(s) > MaxCode || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return GrantToken{}, problem.New(problem.Invalid, ruleGrantToken, "%d characters that are no token", len(s)).
			Want("one line that begins with %q", tokenPrefix).
			Fix("give what the claim of the grant's code answered")
	}
	return GrantToken{s}, nil
}

// Split returns the grant that a token names and the CAS's word for it; false
// where the text is no token.
func (t GrantToken) Split() (id GrantID, mac [32]byte, ok bool) {
	text, ok := strings.CutPrefix(t.text, tokenPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != len(id)+len(mac) {
		return GrantID{}, [32]byte{}, false
	}

	n := copy(id[:], b)
	copy(mac[:], b[n:])
	return id, mac, true
}

// Reveal is the token's text.
func (t GrantToken) Reveal() string { return t.text }

// IsZero reports whether there is no token.
func (t GrantToken) IsZero() bool { return t.text == "" }

// Equal compares in constant time.
func (t GrantToken) Equal(o GrantToken) bool {
	return subtle.ConstantTimeCompare([]byte(t.text), []byte(o.text)) == 1
}

func (GrantToken) String() string       { return "[grant token]" }
func (GrantToken) GoString() string     { return "[grant token]" }
func (GrantToken) LogValue() slog.Value { return slog.StringValue("[grant token]") }

// MarshalJSON writes the text: a token is made to travel.
func (t GrantToken) MarshalJSON() ([]byte, error) { return json.Marshal(t.text) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *GrantToken) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return problem.New(problem.Invalid, ruleGrantToken, "the token is no string")
	}

	parsed, err := ParseGrantToken(s)
	*t = parsed
	return err
}

func (id GrantID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 8 hex digits, for tables.
func (id GrantID) Short() string { return id.String()[:8] }

// IsZero reports whether id was never set.
func (id GrantID) IsZero() bool { return id == GrantID{} }

func (id GrantID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 32 hex digits.
func (id *GrantID) UnmarshalText(b []byte) error {
	parsed, err := ParseGrantID(string(b))
	*id = parsed
	return err
}

// ParseGrantID reads 32 hex digits.
func ParseGrantID(s string) (GrantID, error) {
	var id GrantID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("grant id of %d characters: want %d hex digits", len(s), 2*len(id))
	}
	return GrantID(b), nil
}
