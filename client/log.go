package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/cas/audit"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/release"
)

// page reads entries after since. Nothing about them is checked yet.
func (c *Client) page(ctx context.Context, since uint64, who *release.Identity, head *release.SignedHead) (api.LogPage, error) {
	var page api.LogPage
	err := c.do(ctx, call{
		method: http.MethodGet, path: api.PathLog, query: url.Values{"since": {strconv.FormatUint(since, 10)}},
		out: &page, identity: who, head: head, aside: true,
	})
	return page, err
}

// LogCheck is what VerifyLog found to be unbroken.
type LogCheck struct {
	From    release.SignedHead `json:"from"` // zero: the beginning
	To      release.SignedHead `json:"to"`
	Entries uint64             `json:"entries"`
}

// VerifyLog reads the log after the given head (nil: from its beginning) to its
// end and checks that it leads from the one signed head to the other. each, if
// not nil, is given every entry.
func (c *Client) VerifyLog(ctx context.Context, since *release.SignedHead, each func(audit.Entry) error) (LogCheck, error) {
	var from, head release.SignedHead
	if since != nil {
		from = *since
	}
	var who release.Identity
	if _, err := c.page(ctx, from.Seq, &who, &head); err != nil {
		return LogCheck{}, err
	}
	n, err := c.walk(ctx, who, from, head, each)
	if err != nil {
		return LogCheck{}, err
	}
	return LogCheck{From: from, To: head, Entries: n}, c.keep(ctx, who, head)
}

// walk reads pages from one head to the other.
func (c *Client) walk(ctx context.Context, who release.Identity, from, to release.SignedHead, each func(audit.Entry) error) (uint64, error) {
	v, err := audit.NewVerifier(who.Key, from, to)
	if err != nil {
		return 0, err
	}
	for v.Position() < to.Seq {
		page, err := c.page(ctx, v.Position(), nil, nil)
		if err != nil {
			return 0, err
		}
		if len(page.Entries) == 0 {
			return 0, v.Done() // cut
		}
		at := v.Position()
		for _, e := range page.Entries {
			if e.Seq > to.Seq {
				break
			}
			if err := v.Append(e); err != nil {
				return 0, fmt.Errorf("audit log: %w", err)
			}
			if each != nil {
				if err := each(e); err != nil {
					return 0, err
				}
			}
		}
		if v.Position() == at {
			return 0, problem.New(problem.Denied, "audit_log_cut", "the log does not go on after entry %d", at).Want("entries up to %d", to.Seq)
		}
	}
	return v.Position() - from.Seq, v.Done()
}
