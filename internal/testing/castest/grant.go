package castest

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

// many is a number of instances that no test reaches.
const many = 10_000

// tokens are wide grants for tests that are about something else: made by
// whichever of the Env's owners may, one for each session.
type tokens struct {
	mu       sync.Mutex
	owners   []ident.KeyHash
	provider ident.KeyHash
	made     map[ident.SessionName]wide
}

// wide is one such grant.
type wide struct {
	token    owners.GrantToken
	services map[ident.ServiceName]bool
}

// know remembers an owner, beside the state too: a CAS that starts there again
// has the same ones.
func (e *Env) know(owner ident.KeyHash) error {
	e.tokens.mu.Lock()
	defer e.tokens.mu.Unlock()
	e.tokens.owners = append(e.tokens.owners, owner)

	b, err := json.Marshal(e.tokens.owners)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.Dir, ownersFile), b, 0o600)
}

// recall reads what know wrote.
func (e *Env) recall() error {
	b, err := os.ReadFile(filepath.Join(e.Dir, ownersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b, &e.tokens.owners)
}

// ownersFile is beside the CAS's state.
const ownersFile = "owners.json"

// Token returns the token of a grant for many instances of every service of the
// session; none where no owner of the Env's may deploy it.
func (e *Env) Token(ctx context.Context, name ident.SessionName, service ident.ServiceName) owners.GrantToken {
	e.tokens.mu.Lock()
	defer e.tokens.mu.Unlock()
	if w, ok := e.tokens.made[name]; ok && w.services[service] {
		return w.token
	}

	for _, owner := range e.tokens.owners {
		w, err := e.widest(ctx, cas.Caller{Key: owner}, name)
		if err == nil {
			e.tokens.made[name] = w
			return w.token
		}
	}
	return owners.GrantToken{}
}

// TokenOf returns the token of a grant for many instances of every service of the
// session, made by an owner that the Env doesn't know.
func (e *Env) TokenOf(ctx context.Context, owner ident.KeyHash, name ident.SessionName) (owners.GrantToken, error) {
	w, err := e.widest(ctx, cas.Caller{Key: owner}, name)
	return w.token, err
}

// widest makes a grant for all that a session has.
func (e *Env) widest(ctx context.Context, owner cas.Caller, name ident.SessionName) (wide, error) {
	read, err := e.CAS.GetSession(ctx, owner, name, nil)
	if err != nil {
		return wide{}, err
	}
	s, err := session.Parse([]byte(read.Text))
	if err != nil {
		return wide{}, err
	}

	req := owners.NewGrant{
		Version:  owners.Version,
		Session:  name,
		App:      "test",
		Services: map[ident.ServiceName]owners.GrantedService{},
	}
	w := wide{services: map[ident.ServiceName]bool{}}
	for _, svc := range s.Services {
		req.Services[svc.Name] = owners.GrantedService{Instances: many}
		w.services[svc.Name] = true
	}
	made, err := e.CAS.MakeGrant(ctx, owner, req)
	if err != nil {
		return wide{}, err
	}

	claimed, err := e.CAS.Claim(ctx, cas.Caller{Key: e.tokens.provider}, owners.Claim{Version: wire.ReleaseVersion, Code: made.Code})
	w.token = claimed.Token
	return w, err
}

// Grant makes a grant for a session, with the owner's key.
func (o *Owner) Grant(ctx context.Context, name ident.SessionName, services map[ident.ServiceName]owners.GrantedService) (owners.GrantMade, error) {
	var made owners.GrantMade
	body, err := json.Marshal(owners.NewGrant{
		Version:  owners.Version,
		Session:  name,
		App:      "test",
		Services: services,
	})
	if err != nil {
		return made, err
	}

	_, err = o.Do(ctx, http.MethodPost, owners.PathGrants, body, &made)
	return made, err
}

// Claim gets the token of a code, with the key of whoever is to hold it.
func Claim(ctx context.Context, addr string, identity ident.KeyHash, key *Key, code string) (owners.ClaimReply, error) {
	var reply owners.ClaimReply
	conn, err := (&Instance{Addr: addr, Identity: identity, Key: key}).Dial(ctx)
	if err != nil {
		return reply, err
	}
	defer conn.Close()
	return reply, conn.Post(wire.PathClaim, owners.Claim{Version: wire.ReleaseVersion, Code: code}, &reply)
}
