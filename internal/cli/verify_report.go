package cli

import (
	"fmt"
	"time"
)

func printVerified(g *globals, r appReply) error {
	platform := "hardware"
	if r.Simulated {
		platform = "SIMULATED, protects nothing"
	}

	created := "as you created it on " + r.Session.CreatedAt.Format(time.RFC3339)
	rows := [][]string{{"session", string(r.Session.Session) + ", " + created}}
	if r.SessionBy == byOperator {
		rows = [][]string{
			{"session", string(r.Session.Session) + ", as the operator says; give --session to demand one"},
			{"its text", created},
		}
	}

	rows = append(rows, [][]string{
		{"session hash", r.Session.Hash.String()},
		{"address", r.Address + ", " + r.certificateCell()},
		{"answering", r.answeringCell()},
		{"platform", platform},
		{"audit log", fmt.Sprintf("followed to entry %d", r.Session.AuditHead)},
	}...)

	for _, v := range r.Volumes {
		rows = append(rows, []string{"volume " + v.Name, newestCell(v)})
	}
	if err := g.table([]string{"VERIFIED", "FOUND"}, rows); err != nil {
		return err
	}

	g.printf("\n")
	if err := g.printAttested(r); err != nil {
		return err
	}
	for _, b := range r.Behind {
		g.warnf("behind: instance %s of %s: %s", b.Instance.Short(), b.Service, b.Why)
	}
	return nil
}

func (r appReply) certificateCell() string {
	if r.Answering == nil {
		return r.Answers.text()
	}
	return "certificate for " + r.Name + " by the session's own CA"
}

func (r appReply) answeringCell() string {
	if r.Answering == nil {
		return "NOT KNOWN: whoever stands between could answer as well (--plain)"
	}
	return fmt.Sprintf("instance %s, attested %s", r.Answering.ID.Short(), r.Answering.ReleasedAt.UTC().Format(time.RFC3339))
}

func (g *globals) printAttested(r appReply) error {
	var rows [][]string
	for _, i := range r.Instances {
		where := "hardware"
		if i.Claims.Simulated {
			where = "SIMULATED"
		}

		grant := "-"
		if !i.Grant.IsZero() {
			grant = i.Grant.Short()
		}

		rows = append(rows, []string{
			i.ID.Short(), string(i.Service), string(i.State), i.ReleasedAt.UTC().Format(time.RFC3339),
			i.Claims.Measurement.String()[:12], where, i.Claims.TCBStatus, onOff(i.Claims.Debug),
			grant, i.SessionHash.String()[:12], hasCell(i),
		})
	}

	return g.table([]string{
		"INSTANCE", "SERVICE", "STATE", "ATTESTED", "MEASUREMENT", "PLATFORM", "STATUS", "DEBUG",
		"GRANT", "SESSION", "HAS",
	}, rows)
}
