package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/ask"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/wording"
)

// valueFlags say where the values of a template's variables come from.
type valueFlags struct {
	given  []string // NAME=VALUE or NAME=@FILE
	useEnv bool
}

func (v *valueFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVarP(&v.given, "value", "e", nil, "a value: NAME=VALUE, NAME=@FILE for a file's content, or NAME to be asked for it, better for secrets; repeatable")
	f.BoolVar(&v.useEnv, "use-env", false, "take values that no -e gives from the environment")
}

// values are the variables of one session, filled in.
type values struct {
	session ident.SessionName
	byName  map[string]secret.Value
}

func (v *values) get(name string) (secret.Value, bool) {
	s, ok := v.byName[name]
	return s, ok
}

// maxValue bounds a value, so that @FILE can't be the wrong file by far.
const maxValue = 256 << 10

// collect finds a value for every variable that the template leaves open.
func (v *valueFlags) collect(ctx context.Context, g *globals, text []byte, name string, beside *besideFlags) (*values, error) {
	open, err := session.Variables(text)
	if err != nil {
		return nil, err
	}

	out := &values{byName: map[string]secret.Value{}}
	for _, given := range v.given {
		key, text, ok := strings.Cut(given, "=")
		if !slices.Contains(open, key) {
			unknown := problem.New(problem.Invalid, problem.RuleSessionValue, "-e %s: the template has no such variable", variableShown(key, ok)).
				Want("NAME=VALUE with one of %s", strings.Join(open, ", ")).Fix("leave it out, or name one of them")
			if near := problem.Nearest(key, open); near != "" {
				unknown.Fix("did you mean %s?", near)
			}
			return nil, unknown
		}

		if !ok && key == template.VarCA {
			return nil, problem.New(problem.Invalid, problem.RuleSessionValue, "-e %s without a value: a certificate is nothing to type in", key).
				Fix("give -e %s=@FILE, with the certificates of the authority that your git server's is signed by; or leave it out, if a public one signed it", key)
		}
		if !ok {
			continue // -e NAME: to be asked for, as it would be without
		}

		if _, twice := out.byName[key]; twice {
			return nil, problem.New(problem.Invalid, problem.RuleSessionValue, "-e %s is given twice", key).Fix("give it once")
		}

		if out.byName[key], err = valueOf(ctx, "-e "+key, key, text); err != nil {
			return nil, err
		}
		g.warnArgument("-e "+key, key, text)
	}

	g.warnArgument("--proxy", template.VarProxy, beside.proxy)
	if err := beside.into(ctx, out.byName); err != nil {
		return nil, err
	}

	if name != "" {
		if _, twice := out.byName[template.VarSession]; twice {
			return nil, problem.New(problem.Invalid, problem.RuleSessionValue, "the session's name is given by --name and by -e %s", template.VarSession).Fix("give one of them")
		}
		out.byName[template.VarSession] = secret.NewString(name)
	}

	for _, key := range open {
		if _, ok := out.byName[key]; ok {
			continue
		}
		if out.byName[key], err = v.missing(ctx, g, key); err != nil {
			return nil, err
		}
	}

	for key, value := range out.byName {
		out.byName[key] = pasted(key, value)
	}

	return out, out.check()
}

// pasted returns a value without the blanks around it, where it is an address or
// a name, which has none. Others are kept as they are: where they can't have any, they are
// refused.
func pasted(variable string, value secret.Value) secret.Value {
	switch variable {
	case template.VarSession, template.VarRepo, template.VarProxy:
		return secret.NewString(template.Pasted(string(value.Reveal())))
	}
	return value
}

// secretArgument refuses a secret of the app's own that stands on the command line
// itself, behind a flag for that variable.
func secretArgument(flag, variable, text string) error {
	if !strings.HasPrefix(variable, template.SecretPrefix) || text == "" || strings.HasPrefix(text, "@") {
		return nil
	}

	name := variable
	if strings.HasPrefix(flag, "--secret") {
		name = strings.TrimPrefix(variable, template.SecretPrefix)
	}

	return problem.New(problem.Invalid, ruleSecretArgument, "%s with the secret itself, of %s", flag, problem.Count(len(text), "character")).
		Want("%s=@FILE, or %s alone", name, name).
		Fix("put it into a file, or let yourself be asked for it: %s", onCommandLine)
}

const onCommandLine = "what stands on a command line stays in the shell's history, and others read it while the command runs"

// warnArgument warns of what is taken although it is a secret and stands on the command
// line itself: the token, and the password of a proxy.
func (g *globals) warnArgument(flag, variable, text string) {
	if strings.HasPrefix(text, "@") {
		return
	}

	switch {
	case variable == template.VarToken && text != "":
		g.warnf("%s has the token itself: %s. Better %s=@FILE, or %s alone", flag, onCommandLine, flag, flag)
	case variable == template.VarProxy && template.HasPassword(text):
		g.warnf("%s has the proxy's password itself: %s. Better @FILE", flag, onCommandLine)
	}
}

// valueOf reads TEXT or @FILE, as flag gives it for a variable. A mark of UTF-8 at
// a file's beginning is not part of the value, nor is the line end at its end.
func valueOf(ctx context.Context, flag, variable, text string) (secret.Value, error) {
	name, isFile := strings.CutPrefix(text, "@")

	if !isFile && text == "" {
		return secret.Value{}, emptySecret(flag, variable, "has no value")
	}
	if !isFile {
		return secret.NewString(text), secretArgument(flag, variable, text)
	}

	b, err := readSmall(ctx, name, maxValue)
	if ctx.Err() != nil {
		return secret.Value{}, ctx.Err()
	}
	if err != nil {
		// The name of the file is not repeated: it may be a value that begins with @.
		p := problem.From(err)
		q := problem.New(p.Kind, p.Rule, "%s: %w", flag, fileTrouble(err)).
			Fix("check the name behind @; a value that itself begins with @ has to come from a file, or from the question that %s alone asks", askedBy(flag, variable))
		q.Expected = p.Expected
		return secret.Value{}, q
	}

	if b, err = template.TextOf(b); err != nil {
		p := problem.From(err)
		p.Actual = flag + ": " + p.Actual
		return secret.Value{}, p
	}

	if variable == template.VarCA && len(b) == 0 {
		return secret.Value{}, problem.New(problem.Invalid, problem.RuleGitCA, "%s: the file that it names is empty", flag).
			Want("the authority's certificates in PEM").
			Fix("give the file that holds them; where a public authority signed your git server's certificate, leave -e %s out", variable)
	}

	value := withoutLineEnd(variable, b)
	if len(value) == 0 && name != os.DevNull {
		return secret.Value{}, emptySecret(flag, variable, "names a file without a value")
	}

	return secret.New(value), nil
}

// emptySecret refuses a secret of the app's own without a value, as one is where a
// variable of the shell isn't set: the app would run with none. It is meant where it
// comes from /dev/null.
func emptySecret(flag, variable, why string) error {
	name, isSecret := strings.CutPrefix(variable, template.SecretPrefix)
	if !isSecret {
		return nil
	}

	return problem.New(problem.Invalid, ruleSecretEmpty, "%s %s: the app would have an empty %s", flag, why, name).
		Want("the secret").
		Fix("look whether the variable of your shell is set, or the file written; if it is meant to be empty: %s=@%s", flag, os.DevNull)
}

// withoutLineEnd returns a file's text as the value of a variable: of the app's own
// without the one line end that closes a file, of what git needs without any, since no
// token has them. PEM keeps its own.
func withoutLineEnd(variable string, b []byte) []byte {
	switch {
	case variable == template.VarCA:
		return b
	case !strings.HasPrefix(variable, template.SecretPrefix) && !strings.HasPrefix(variable, template.EnvPrefix):
		return bytes.TrimRight(b, "\r\n")
	}

	if line, ended := bytes.CutSuffix(b, []byte("\n")); ended {
		return bytes.TrimSuffix(line, []byte("\r"))
	}
	return b
}

// askedBy is what has a person asked for the value of a variable.
func askedBy(flag, variable string) string {
	if flag == "--git-user" || flag == "--proxy" {
		return "-e " + variable
	}
	return flag
}

// givenBy is what a person gives the value of a variable with.
func givenBy(variable string) string {
	if name, ok := strings.CutPrefix(variable, template.EnvPrefix); ok {
		return "--env " + name
	}
	if name, ok := strings.CutPrefix(variable, template.SecretPrefix); ok {
		return "--secret " + name
	}
	return "-e " + variable
}

// variableShown is a name given with -e for people. Without a = behind it, and
// unless it looks like a variable's name, it may be the value itself.
func variableShown(key string, hasValue bool) string {
	if variableForm.MatchString(key) && (hasValue || strings.ToUpper(key) == key) {
		return key
	}
	return "(not shown)"
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,39}$`)

// fileTrouble says why a file could not be read, without its name.
func fileTrouble(err error) error {
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		return errors.New("the file that it names: " + wording.File(at.Err))
	}
	return errors.New("the file that it names is too large")
}

// missing finds a value that no flag gave.
func (v *valueFlags) missing(ctx context.Context, g *globals, key string) (secret.Value, error) {
	if v.useEnv {
		if text := g.env(key); text != "" {
			return secret.NewString(text), nil
		}
	}

	if key == template.VarCA {
		return secret.Value{}, nil // the puller's own bundle
	}

	tty, ok := g.terminal()
	if !ok && key == template.VarSession {
		return secret.Value{}, problem.New(problem.Invalid, problem.RuleSessionValue, "the session has no name yet").Fix("give --name NAME")
	}

	if !ok {
		p := problem.New(problem.Invalid, problem.RuleSessionValue, "no value for %s, and no terminal to ask at", key)
		if strings.HasPrefix(key, template.SecretPrefix) || key == template.VarToken {
			return secret.Value{}, p.Fix("give it in a file, %s=@FILE, or --use-env with %s in the environment", givenBy(key), key)
		}
		return secret.Value{}, p.Fix("give %s=VALUE or %s=@FILE, or --use-env with %s in the environment", givenBy(key), givenBy(key), key)
	}

	if key == template.VarSession || key == template.VarRepo || strings.HasPrefix(key, template.EnvPrefix) {
		text, err := g.ask(ctx, key+": ")
		return secret.NewString(text), err
	}

	b, err := ask.Hidden(ctx, tty, g.err, key+" (not shown): ")
	if err != nil {
		return secret.Value{}, fmt.Errorf("read %s: %w", key, err)
	}
	if len(b) == 0 {
		return secret.Value{}, emptySecret(givenBy(key), key, "was answered with nothing")
	}

	return secret.New(b), nil
}

// check refuses what could only fail later, inside an instance, where the reason
// is harder to see.
func (v *values) check() error {
	var err error
	name := v.byName[template.VarSession]
	if v.session, err = ident.ParseSessionName(string(name.Reveal())); err != nil {
		return problem.New(problem.Invalid, problem.RuleSessionName, "%w", err)
	}

	for _, c := range []struct {
		variable string
		check    func(string) error
	}{
		{template.VarToken, template.CheckToken},
		{template.VarRepo, template.CheckRepository},
		{template.VarUser, template.CheckUser},
		{template.VarProxy, template.CheckProxy},
		{template.VarCA, func(pem string) error { return template.CheckAuthorities([]byte(pem)) }},
	} {
		value, ok := v.byName[c.variable]
		if !ok {
			continue
		}

		if err := c.check(string(value.Reveal())); err != nil {
			return err
		}
	}

	for _, variable := range slices.Sorted(maps.Keys(v.byName)) {
		if err := session.CheckValue("the value of "+givenBy(variable), v.byName[variable]); err != nil {
			return err
		}

		for _, prefix := range []string{template.EnvPrefix, template.SecretPrefix} {
			if name, ok := strings.CutPrefix(variable, prefix); ok {
				if err := template.CheckVariableSize(name, v.byName[variable].Len()); err != nil {
					return err
				}
			}
		}
	}

	if _, ok := v.byName[template.VarUser]; ok && template.HasUser(string(v.byName[template.VarRepo].Reveal())) {
		return problem.New(problem.Invalid, problem.RuleGitUser, "the user name is given twice: with --git-user, and in %s", template.VarRepo).Fix("give it once")
	}

	return nil
}

// askInputs completes the owner's inputs. They decide what a template is
// compared with, so they are never taken from the template: without flags and
// without a person there is nothing to compare with.
func (g *globals) askInputs(ctx context.Context, i *inputFlags) error {
	for _, f := range []struct {
		flag, prompt string
		value        *string
	}{{"runtime", "Runtime that your app runs on (for instance python): ", &i.runtime}, {"command", "Command line of your app: ", &i.command}} {
		if *f.value != "" {
			continue
		}

		if _, ok := g.terminal(); !ok {
			return problem.New(problem.Invalid, problem.RuleTemplateInput, "no --%s, and no terminal to ask at", f.flag).
				Fix("give --%s: what the template is compared with has to come from you, never from the file", f.flag)
		}

		text, err := g.ask(ctx, f.prompt)
		if err != nil {
			return err
		}
		*f.value = text
	}

	return nil
}

// withPredecessor makes text the next version of the session that the CAS has, or that
// version itself where it says the same.
func withPredecessor(ctx context.Context, c *client.CAS, name ident.SessionName, text []byte, uploader ident.KeyHash) ([]byte, error) {
	current, err := c.ReadSession(ctx, name, nil)
	if err != nil {
		return nil, err
	}

	after := func(version ident.Digest) []byte {
		return append(slices.Clip(text), "predecessor: "+version.String()+"\n"...)
	}

	has, err := session.Parse([]byte(current.Text))
	if err != nil {
		return nil, err
	}

	same := text
	if has.Predecessor != nil {
		same = after(*has.Predecessor)
	}

	if again, err := session.Parse(same); err == nil && again.Hash(uploader) == current.Hash {
		return same, nil
	}

	return after(current.Hash), nil
}
