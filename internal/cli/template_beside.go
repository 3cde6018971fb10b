package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/trusted/secret"
)

// besideFlags are what an owner may give beside repository and token. A template
// depends on which of them there are; their values are its variables' and go to
// the CAS alone.
type besideFlags struct {
	user    string
	proxy   string
	env     []string // NAME, NAME=VALUE or NAME=@FILE
	secrets []string
}

func (b *besideFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&b.user, "git-user", "", "the user name that goes with the token, for git servers that want one (default x-access-token); @FILE for a file's content")
	f.StringVar(&b.proxy, "proxy", "", "the proxy that leads to the git server, as http://[USER:PASSWORD@]HOST:PORT; @FILE for a file's content")
	f.StringArrayVar(&b.env, "env", nil, "a variable for the app alone: NAME=VALUE, NAME=@FILE for a file's content, or NAME to be asked for it; repeatable")
	f.StringArrayVar(&b.secrets, "secret", nil, "a variable for the app alone that is never shown: NAME=@FILE, or NAME to be asked for it; repeatable")
}

// inputs notes in what a template is rendered from which of the flags there are.
func (b *besideFlags) inputs(in *template.Inputs) error {
	in.GitUser = b.user != ""
	in.Proxy = b.proxy != ""

	for _, given := range []struct {
		text  string
		check func(string) error
	}{{b.user, template.CheckUser}, {template.Pasted(b.proxy), template.CheckProxy}} {
		if given.text == "" || strings.HasPrefix(given.text, "@") {
			continue // a file is read where its content is needed
		}
		if err := given.check(given.text); err != nil {
			return err
		}
	}

	for _, text := range b.secrets {
		name, value, _ := strings.Cut(text, "=")
		if err := template.CheckVariable(name); err != nil {
			return err
		}
		if err := secretArgument("--secret "+name, template.SecretPrefix+name, value); err != nil {
			return err
		}
	}

	for _, list := range []struct {
		given []string
		names *[]string
	}{{b.env, &in.Env}, {b.secrets, &in.Secrets}} {
		for _, text := range list.given {
			name, _, _ := strings.Cut(text, "=")
			if err := template.CheckVariable(name); err != nil {
				return err
			}
			*list.names = append(*list.names, name)
		}
	}
	return nil
}

// into puts the values that the flags give beside those of -e.
func (b *besideFlags) into(ctx context.Context, values map[string]secret.Value) error {
	type given struct{ flag, variable, text string }
	var all []given
	if b.user != "" {
		all = append(all, given{"--git-user", template.VarUser, b.user})
	}
	if b.proxy != "" {
		all = append(all, given{"--proxy", template.VarProxy, b.proxy})
	}

	for _, list := range []struct {
		flag, prefix string
		given        []string
	}{{"--env", template.EnvPrefix, b.env}, {"--secret", template.SecretPrefix, b.secrets}} {
		for _, text := range list.given {
			if name, value, ok := strings.Cut(text, "="); ok {
				all = append(all, given{list.flag + " " + name, list.prefix + name, value})
			}
		}
	}

	for _, g := range all {
		if _, twice := values[g.variable]; twice {
			return problem.New(problem.Invalid, problem.RuleSessionValue, "the value of %s is given twice: with %s, and with -e %s", g.variable, g.flag, g.variable).
				Fix("give one of them")
		}

		var err error
		if values[g.variable], err = valueOf(ctx, g.flag, g.variable, g.text); err != nil {
			return err
		}
	}
	return nil
}
