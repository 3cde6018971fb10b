package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/audit"
	"cupel.dev/cupel/internal/trusted/wire"
)

// page reads entries after since. Nothing about them is checked yet.
func (c *CAS) page(ctx context.Context, since uint64, who *wire.CASIdentity, head *owners.SignedHead) (owners.LogPage, error) {
	var page owners.LogPage
	err := c.do(ctx, casCall{
		method:   http.MethodGet,
		path:     owners.PathLog,
		query:    url.Values{"since": {strconv.FormatUint(since, 10)}},
		out:      &page,
		identity: who,
		head:     head,
		aside:    true,
	})
	return page, err
}

// LogCheck is what VerifyLog found to be unbroken.
type LogCheck struct {
	From    owners.SignedHead `json:"from"` // zero: the beginning
	To      owners.SignedHead `json:"to"`
	Entries uint64            `json:"entries"`
}

// VerifyLog reads the log after the given head (nil: from its beginning) to its
// end and checks that it leads from the one signed head to the other. each, if
// not nil, is given every entry. The chain of hashes is package audit's, whose entries and
// heads docs/cas.md describes.
//
// Errors, beside those of every call: denied with audit_head_signature, audit_log_cut,
// audit_log_forked or audit_log_older; conflict with audit_log_gap; the error of each.
func (c *CAS) VerifyLog(ctx context.Context, since *owners.SignedHead, each func(owners.Entry) error) (LogCheck, error) {
	var from, head owners.SignedHead
	if since != nil {
		from = *since
	}

	var who wire.CASIdentity
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
func (c *CAS) walk(ctx context.Context, who wire.CASIdentity, from, to owners.SignedHead, each func(owners.Entry) error) (uint64, error) {
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
			return 0, problem.New(problem.Denied, problem.RuleAuditLogCut, "the log does not go on after entry %d", at).Want("entries up to %d", to.Seq)
		}
	}

	return v.Position() - from.Seq, v.Done()
}
