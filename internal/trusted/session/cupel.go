package session

import (
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/internal/trusted/secret"
	"go.yaml.in/yaml/v4"
)

// This file reads what Cupel adds to the language. Keys of its own stand in maps
// called `cupel:`, so that a session written for SCONE means the same here.

// signals are those that a host may send to an instance and a session may name.
var signals = []string{"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH"}

// NoSignal is the word for an app that reads its certificate anew by itself.
const NoSignal = "none"

// Bounds of `offline`: an instance lapses after half a minute of silence, so that
// less would end copies that the CAS still counts.
const (
	minOffline = time.Minute
	maxOffline = 365 * 24 * time.Hour
)

// minSalt is the number of characters from which on a salt keeps a hash from
// being guessed.
const minSalt = 16

// Salted reports whether nobody can guess the session's text from its hash.
func (s *Session) Salted() bool { return s.Salt.Len() >= minSalt }

func (r *reader) salt(f fields) {
	n := f.values["salt"]
	if n == nil || isNull(n) {
		return
	}
	salt := r.scalar(n, "salt")

	if len(salt) > 1024 {
		r.refuse(n, ruleField, "a salt of %d bytes", len(salt)).Want("at most 1024")
		return
	}
	if len(salt) < minSalt {
		r.warn(n, "a salt of less than 16 characters does not hide the session's hash: give random ones, as from `openssl rand -hex 16`")
	}

	r.session.Salt = secret.NewString(salt)
}

// serviceCupel reads a service's map `cupel:`.
func (r *reader) serviceCupel(s fields, svc *Service) {
	n := s.values["cupel"]
	if n == nil || isNull(n) {
		return
	}
	f := r.mapping(n, &sectionServiceCupel)

	svc.StopSignal = r.signal(f, "stop_signal")
	if n := f.values["on_renewal"]; n != nil && n.Value == NoSignal {
		svc.OnRenewal = NoSignal
	} else {
		svc.OnRenewal = r.signal(f, "on_renewal")
	}

	if v := f.values["offline"]; v != nil {
		svc.Offline = r.duration(v, "offline", minOffline, maxOffline)
	}
}

// signal reads a signal's name, with or without SIG before it; absent is "".
func (r *reader) signal(f fields, key string) string {
	n := f.values[key]
	if n == nil {
		return ""
	}
	v := r.scalar(n, key)

	name, ok := ParseSignal(v)
	if !ok {
		r.refuse(n, ruleField, "%s is %s", key, shown(v, nil)).Want("one of %s", Signals())
		return ""
	}
	return name
}

// ParseSignal returns the full name of a signal that a session may name, from that
// name with or without SIG before it.
func ParseSignal(word string) (name string, ok bool) {
	name = "SIG" + strings.TrimPrefix(word, "SIG")
	return name, slices.Contains(signals, name)
}

// Signals lists the names that ParseSignal knows, for people.
func Signals() string { return strings.Join(signals, ", ") }

// duration reads a length of time as Go and compose files write it: 90s, 10m, 1h30m.
func (r *reader) duration(n *yaml.Node, key string, low, high time.Duration) time.Duration {
	v := r.scalar(n, key)

	d, err := time.ParseDuration(v)
	if err != nil || d < low || d > high || d%time.Second != 0 {
		r.refuse(n, ruleField, "%s is %s", key, shown(v, nil)).
			Want("whole seconds from %s to %s, written like 90s, 10m or 1h30m", low, high)
		return low
	}
	return d
}
