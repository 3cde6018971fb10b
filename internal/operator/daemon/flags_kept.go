package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/wording"
)

// keptFile is what the last start that served was given.
const keptFile = "up.json"

// keptFlags are flags of `up` with their values: those that were given, and where it listened.
type keptFlags map[string]string

// flagsKept is what the last start was given; nil: that isn't known, since there was none, or
// its file is damaged.
func (l layout) flagsKept() keptFlags {
	b, err := atomicfile.Read(l.path(keptFile))
	if err != nil {
		return nil
	}
	k, _ := parseFlags(b)
	return k
}

// parseFlags reads what keepFlags wrote.
func parseFlags(b []byte) (k keptFlags, ok bool) {
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, false
	}
	return k, k != nil
}

// runFlagsGiven are the flags that say how an installation runs, as far as they were given.
func runFlagsGiven(flags *pflag.FlagSet) map[string]string {
	var run pflag.FlagSet
	new(cli).runFlags(&run)

	given := map[string]string{}
	flags.Visit(func(f *pflag.Flag) {
		if run.Lookup(f.Name) != nil {
			given[f.Name] = f.Value.String()
		}
	})
	return given
}

// Flags of `up` that have rules of their own.
const (
	firstPortFlag  = "first-port"
	deployKeysFlag = "deploy-keys"
	subnetFlag     = "subnet"
)

// settle has a start listen where the last one did, as far as its own flags don't say
// where: owners and instances know the addresses.
func (l layout) settle(o *Options) {
	last := l.flagsKept()
	ports := loadPorts(l.path(portsFile))
	ports.complete(l.dir)

	for _, li := range listeners {
		_, given := o.Given[li.flagName()]
		addr := li.addr(o)
		switch host, _, err := net.SplitHostPort(*addr); {
		case given:
		case last[li.flagName()] != "":
			*addr = last[li.flagName()]
			o.settled = append(o.settled, li.name)
		case err == nil && ports.last[li.name] != "": // an earlier release kept the ports alone
			*addr = ports.again(li.name, host)
		}
	}

	if _, given := o.Given[firstPortFlag]; !given {
		o.FirstPort = ports.first()
	}
}

// codeKeys is the exit code of a start that doesn't say who may deploy where the last one
// may have (ruleKeysMissing, ruleKeysUnknown): tried again and again, it is refused each
// time.
const codeKeys = 12

// keysMissing refuses a start that lets everybody deploy, where the last one did not, or may
// not have.
func (l layout) keysMissing(o Options) error {
	if o.DeployKeys != "" {
		return nil
	}
	const want = "the keys that may deploy, or that everybody may"
	if why := l.flagsLost(); why != nil {
		p := problem.New(problem.Conflict, ruleKeysUnknown, "whether the last start had --deploy-keys isn't known: %s can't be read: %w", l.path(keptFile), why).Want(want)
		if errors.Is(why, fs.ErrPermission) && os.Geteuid() != 0 {
			return p.Fix("run it as root, with sudo")
		}
		return p.Fix("give the file that the last start had, if it had one: --deploy-keys FILE; to let everybody deploy: --deploy-keys %s", everybody)
	}

	list := l.flagsKept()[deployKeysFlag]
	if !restricts(list) {
		return nil
	}

	list = wording.ShellWord(list)
	return problem.New(problem.Conflict, ruleKeysMissing, "the last start had --deploy-keys %s, and this one has none", list).Want(want).
		Fix("give --deploy-keys %s again; to let everybody deploy: --deploy-keys %s", list, everybody)
}

// restricts tells of a value of --deploy-keys that not everybody may deploy.
func restricts(list string) bool { return list != "" && list != everybody }

// flagsLost says why it isn't known what the last start was given; nil: it is, or there was
// none. What was put aside is lost until a start has served since.
func (l layout) flagsLost() error {
	if err := (derivation{name: keptFile, kind: isFile, valid: readBy(parseFlags)}).damage(l.path(keptFile)); err != nil {
		return err
	}
	if exists(l.path(keptFile)) {
		return nil
	}

	if aside := filepath.Join(damagedFolder, keptFile); exists(l.path(aside)) {
		return fmt.Errorf("it was damaged, and put aside as %s", aside)
	}

	if why := (derivation{name: portsFile, kind: isFile, valid: readBy(parsePorts)}).damage(l.path(portsFile)); why != nil {
		return fmt.Errorf("it isn't there, and %s, which says whether it was, is damaged (%w)", portsFile, why)
	}
	if loadPorts(l.path(portsFile)).flagsKept() {
		return fmt.Errorf("it is gone, though %s says that it was there", portsFile)
	}
	return nil
}

// flagsDropped says of each flag that the last start was given, and this one is not, that its
// default holds again. Where it listens and what its network is stays.
func (l layout) flagsDropped(o Options) []string {
	last := l.flagsKept()
	var out []string

	for _, flag := range slices.Sorted(maps.Keys(last)) {
		_, given := o.Given[flag]
		stays := flag == firstPortFlag || flag == deployKeysFlag || flag == subnetFlag ||
			slices.ContainsFunc(listeners, func(li listener) bool { return li.flagName() == flag })
		if !given && !stays {
			out = append(out, "--"+flag+" "+wording.ShellWord(last[flag])+" of the last start isn't given: the default holds again")
		}
	}
	return out
}

// keepFlags writes down what a start was given that serves now.
func (l layout) keepFlags(o Options) error {
	k := keptFlags(maps.Clone(o.Given))
	if k == nil {
		k = keptFlags{}
	}

	for _, li := range listeners {
		k[li.flagName()] = *li.addr(&o)
	}

	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return writeOnce(l.path(keptFile), b, 0o600)
}

// keepGiven is keepFlags for a start that goes on without: a full disk is no reason to serve
// nothing. Only that not everybody may deploy has to be written down, since the next start
// would let everybody.
func (p *parts) keepGiven(ctx context.Context, o Options, ports *ports) error {
	err := p.keepFlags(o)
	if err == nil {
		ports.keepFlags()
		return nil
	}

	if restricts(o.DeployKeys) && !restricts(p.flagsKept()[deployKeysFlag]) {
		return problem.New(problem.Unavailable, ruleDeployKeysNotKept, "--deploy-keys can't be written down, so that a next start without it would let everybody deploy: %w", err).
			Fix("let root write to %s (lsattr shows attributes, df -h what is free), then run this again", p.path(keptFile))
	}

	p.log.WarnContext(ctx, "the next start won't know this one's flags", "error", err)
	e := problem.From(p.explain(err))
	p.damaged.add(strings.TrimSuffix("the next start won't know this one's flags, but those of one before: "+e.Actual+". "+e.Mend, ". "))
	return nil
}

// flagName is a listener's flag without its dashes.
func (l listener) flagName() string { return strings.TrimPrefix(l.flag, "--") }
