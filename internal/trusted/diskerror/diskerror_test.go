package diskerror_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/diskerror"
)

// sqlite is an error as the database driver returns it.
type sqlite int

func (e sqlite) Error() string { return fmt.Sprintf("sqlite: %d", int(e)) }
func (e sqlite) Code() int     { return int(e) }

func TestExplain(t *testing.T) {
	own := problem.New(problem.Unavailable, diskerror.RuleFull, "%w", syscall.ENOSPC)
	for name, c := range map[string]struct {
		err  error
		rule problem.Rule // empty: the error stays
	}{
		"no room":                             {fmt.Errorf("write: %w", syscall.ENOSPC), diskerror.RuleFull},
		"quota":                               {syscall.EDQUOT, diskerror.RuleFull},
		"another process's words":             {errors.New("rpc: write /a: no space left on device: unknown"), diskerror.RuleFull},
		"another process's quota":             {errors.New("mkdir /a: disk quota exceeded"), diskerror.RuleFull},
		"database full":                       {fmt.Errorf("commit: %w", sqlite(13)), diskerror.RuleFull},
		"no room for its index":               {sqlite(4874), diskerror.RuleFull},
		"read-only":                           {syscall.EROFS, diskerror.RuleReadOnly},
		"another process's read-only":         {errors.New("open /a: read-only file system"), diskerror.RuleReadOnly},
		"database, no memory":                 {sqlite(3082), ""},
		"database, the disk":                  {sqlite(266), diskerror.RuleFails},
		"damaged, on a disk that can be read": {sqlite(11), ""},
		"the disk":                            {fmt.Errorf("open: %w", syscall.EIO), diskerror.RuleFails},
		"another process's disk":              {errors.New("rpc: read /a: input/output error"), diskerror.RuleFails},
		"database, not ours":                  {sqlite(8), ""},
		"hidden by another rule":              {problem.New(problem.Unavailable, "containerd_start", "it ended: no space left on device"), diskerror.RuleFull},
		"another error":                       {syscall.EACCES, ""},
		"another rule":                        {problem.New(problem.Invalid, "state_folder", "%w", syscall.EACCES), ""},
		"explained":                           {own, ""},
		"none":                                {nil, ""},
	} {
		err := diskerror.Explain(c.err, t.TempDir(), "the state folder")
		if c.rule == "" {
			if !errors.Is(err, c.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		p := problem.From(err)
		if p.Rule != c.rule || p.Kind != problem.Unavailable || !errors.Is(err, c.err) || !strings.Contains(p.Mend, "the disk of the state folder") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
