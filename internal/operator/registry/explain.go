package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// explain says what a person can do about a registry's answer to what was done with
// REPOSITORY:TAG.
func (c *Client) explain(ctx context.Context, done string, ref rebuild.Ref, err error) error {
	if err == nil {
		return nil
	}

	if ctx.Err() != nil {
		return ctx.Err()
	}

	if p, ok := errors.AsType[*problem.Error](err); ok {
		return p
	}

	what := done + " " + string(ref)

	if t, ok := errors.AsType[*transport.Error](err); ok {
		switch t.StatusCode {
		case http.StatusNotFound:
			return problem.New(problem.NotFound, ruleRegistryMissing, "%s: the registry at %s has no such thing", what, c.addr).
				Fix("build or push it first: cupel runtime build NAME")
		case http.StatusGone:
			return c.damaged(done, ref, errors.New("it is not what was stored"))
		case http.StatusUnauthorized, http.StatusForbidden:
			return problem.New(problem.Denied, ruleRegistryDenied, "%s: the registry at %s refuses: %s", what, c.addr, http.StatusText(t.StatusCode)).
				Fix("write to it from its own machine")
		case http.StatusInsufficientStorage:
			full := fmt.Errorf("%s: the registry at %s answers %d: %w", what, c.addr, t.StatusCode, syscall.ENOSPC)
			return diskerror.Explain(full, ".", "the registry's state folder")
		}

		return problem.New(problem.Unavailable, ruleRegistryFailed, "%s: the registry at %s answers %d %s", what, c.addr, t.StatusCode, http.StatusText(t.StatusCode)).
			Fix("look at its log and its disk, then try again")
	}

	if u, ok := errors.AsType[*url.Error](err); ok {
		return problem.New(problem.Unavailable, problem.RuleRegistryUnreachable, "%s: no registry answers at %s: %w", what, c.addr, u.Err).
			Fix("start it (cupel up), or look at its log")
	}

	if b, ok := errors.AsType[*brokenError](err); ok {
		return problem.New(problem.Unavailable, problem.RuleRegistryUnreachable, "%s: the registry at %s broke off its answer: %w", what, c.addr, b.err).
			Fix("start it (cupel up), or look at its log")
	}

	return fmt.Errorf("%s: registry %s: %w", what, c.addr, err)
}

// judge is explain for content of REPOSITORY:TAG: where the registry gave an answer, and
// all of it came, an error is that its digest or form isn't the one that was stored.
func (c *Client) judge(ctx context.Context, ref rebuild.Ref, err error) error {
	explained := c.explain(ctx, "read", ref, err)
	if _, ok := errors.AsType[*problem.Error](explained); ok || err == nil || ctx.Err() != nil {
		return explained
	}

	return c.damaged("read", ref, err)
}

// damaged is the refusal of what isn't what was stored, for which err is why.
func (c *Client) damaged(done string, ref rebuild.Ref, err error) error {
	p := problem.New(problem.Unavailable, RuleDamaged, "%s %s: the registry at %s has it damaged: %w", done, ref, c.addr, err).
		Want("what was stored there")

	repository, _, _ := strings.Cut(string(ref), ":")
	return p.Fix("%s", mend(repository))
}

// mend is what can be done about something damaged in a repository.
func mend(repository string) string {
	if strings.HasPrefix(repository, volumePrefix) {
		return "put the registry's folder back from a backup, and look at the disk (dmesg); " +
			"without one what is in the volume is lost: let its owner begin it anew, cupel volume reset SESSION VOLUME"
	}
	return fmt.Sprintf("let the operator build it anew: cupel runtime build %s; and look at the disk (dmesg)", runtimeOf(repository))
}

// runtimeOf is the runtime whose image or sources a repository has.
func runtimeOf(repository string) string {
	return path.Base(strings.TrimSuffix(repository, "/sources"))
}
