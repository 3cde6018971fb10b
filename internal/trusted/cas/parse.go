package cas

import (
	"context"
	"runtime"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
)

// What a session becomes in memory and in the answers to its instances is
// bounded too: a short text may name one large file for each of its services.
const (
	maxReferences = 100_000  // from services to secrets, those of their images' files included
	maxFilled     = 64 << 20 // bytes of all services' configurations
)

// smallText is the most bytes of a text that needn't wait for large ones: reading
// a megabyte takes up to a second.
const smallText = 64 << 10

// certificateSize is about what a generated key or certificate takes.
const certificateSize = 2 << 10

// parser lets a few texts be read at once, and of large ones fewer: strangers may
// upload as much as they like, and releases need the processors too.
type parser struct {
	small, large chan struct{}
}

// newParser lets as many texts be read at once as there are processors.
func newParser() parser {
	n := runtime.GOMAXPROCS(0)
	return parser{small: make(chan struct{}, n), large: make(chan struct{}, max(1, n/2))}
}

// enterParser waits for a turn to read a text of so many bytes.
func (c *CAS) enterParser(ctx context.Context, size int) (leave func(), err error) {
	turns := c.parser.small
	if size > smallText {
		turns = c.parser.large
	}
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-ctx.Done():
		return nil, problem.New(problem.Unavailable, ruleBusy, "other sessions are read at the moment: %w", ctx.Err()).Fix("try again")
	}
}

// parse makes the plan of an upload.
func (c *CAS) parse(ctx context.Context, text []byte, creator ident.KeyHash) (*plan, error) {
	leave, err := c.enterParser(ctx, len(text))
	if err != nil {
		return nil, err
	}
	defer leave()

	s, err := session.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := checkExpansion(s); err != nil {
		return nil, err
	}
	return planOf(s, text, creator)
}

// expansion is what one or several texts become when they are filled in.
type expansion struct{ references, bytes int64 }

func (e *expansion) add(o expansion) {
	e.references += o.references
	e.bytes += o.bytes
}

// checkExpansion refuses a session that is much larger than its text.
func checkExpansion(s *session.Session) error {
	sizes := make(map[string]int64, len(s.Secrets))
	for _, sec := range s.Secrets {
		sizes[sec.Name] = valueSize(sec)
	}

	images := make(map[string]expansion, len(s.Images))
	for _, img := range s.Images {
		var files expansion
		for _, f := range img.InjectionFiles {
			files.add(expand(f.Content, sizes))
		}
		images[img.Name] = files
	}

	var all expansion
	for _, svc := range s.Services {
		all.add(images[svc.ImageName])
		for _, t := range svc.Command {
			all.add(expand(t, sizes))
		}
		for _, e := range svc.Environment {
			all.add(expand(e.Value, sizes))
		}
	}

	if all.references <= maxReferences && all.bytes <= maxFilled {
		return nil
	}
	return problem.New(problem.Invalid, ruleSessionExpands, "the session's services refer to %d secrets in all, and their configurations have %d bytes", all.references, all.bytes).
		Want("at most %d references and %d bytes", maxReferences, maxFilled).
		Fix("let fewer services share large injection files, or put these into the image or a volume")
}

// expand is what one text becomes, secrets being of these sizes.
func expand(t session.Text, sizes map[string]int64) (e expansion) {
	for _, part := range t {
		e.bytes += int64(len(part.Literal))
		if part.Ref != nil {
			e.references++
			e.bytes += 2 * sizes[part.Ref.Secret] // in hexadecimal, at worst
		}
	}
	return e
}

// valueSize is about how many bytes a secret has.
func valueSize(s session.Secret) int64 {
	switch {
	case s.HasValue:
		return int64(s.Value.Len())
	case s.Kind == session.ASCII || s.Kind == session.Binary:
		return int64(secrets.Size(s))
	}
	return certificateSize
}

// weight is about what the plan takes in memory.
func (p *plan) weight() int64 {
	const (
		ofText      = 8 // times its bytes, parsed
		ofReference = 64
		ofPlan      = 4 << 10
	)
	references := 0
	for _, sp := range p.services {
		references += len(sp.shared) + len(sp.fresh)
	}
	return ofPlan + ofText*int64(len(p.text)) + ofReference*int64(references)
}

// generated is how many bytes the CAS may generate for p that it has not for the
// version before, which may be nil.
func (p *plan) generated(before *plan) int64 {
	var n int64
	for name, sec := range p.secrets {
		if sec.HasValue || secrets.PerInstance(sec) {
			continue
		}
		if before != nil {
			if was, ok := before.secrets[name]; ok && !was.HasValue && secrets.Fingerprint(was) == secrets.Fingerprint(sec) {
				continue
			}
		}
		n += valueSize(sec)
	}
	return n
}
