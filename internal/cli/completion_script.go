package cli

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/problem"
)

func newCompletionCommand(g *globals) *cobra.Command {
	var bare bool
	c := &cobra.Command{
		Use:   "completion SHELL",
		Short: "Write what has a shell complete commands, flags and names",
		Long: `Writes a script for bash, zsh, fish or powershell. With it the Tab key completes
commands and flags, and the apps, instances, sessions, grants and runtimes that you
may see. What can't be found out within 300 ms is left out in silence.

In bash it works with the package bash-completion and without. In zsh completion has
to be on: autoload -U compinit; compinit.`,
		Example: `  source <(cupel completion bash)                          # in this shell
  cupel completion bash > /etc/bash_completion.d/cupel     # in each new one
  cupel completion zsh > "${fpath[1]}/_cupel"
  cupel completion fish > ~/.config/fish/completions/cupel.fish`,
		Args: exactArgs("SHELL"),
		RunE: func(c *cobra.Command, args []string) error { return runCompletion(g, c.Root(), args[0], !bare) },
	}

	c.ValidArgsFunction = cobra.FixedCompletions(slices.Sorted(maps.Keys(completionScripts)), cobra.ShellCompDirectiveNoFileComp)
	c.Flags().BoolVar(&bare, "no-descriptions", false, "names alone, without what they are")
	return c
}

// completionScripts make the script of each shell.
var completionScripts = map[string]func(root *cobra.Command, w io.Writer, descriptions bool) error{
	"bash": func(root *cobra.Command, w io.Writer, descriptions bool) error {
		err := root.GenBashCompletionV2(w, descriptions)
		if err == nil {
			_, err = io.WriteString(w, bareBash)
		}
		return err
	},
	"zsh": func(root *cobra.Command, w io.Writer, descriptions bool) error {
		if descriptions {
			return root.GenZshCompletion(w)
		}
		return root.GenZshCompletionNoDesc(w)
	},
	"fish": func(root *cobra.Command, w io.Writer, descriptions bool) error {
		return root.GenFishCompletion(w, descriptions)
	},
	"powershell": func(root *cobra.Command, w io.Writer, descriptions bool) error {
		if descriptions {
			return root.GenPowerShellCompletionWithDesc(w)
		}
		return root.GenPowerShellCompletion(w)
	},
}

// bareBash takes the place of a function of the script before it, which asks the package
// bash-completion for the words of the line. Where that isn't there, they are found here:
// what stands together is one word, since bash also parts words at = and :.
const bareBash = `
__cupel_init_completion()
{
    COMPREPLY=()
    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi

    local line=${COMP_LINE:0:COMP_POINT} rest word i
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        rest=${line#"${line%%[![:space:]]*}"}
        word=${COMP_WORDS[i]}
        if ((i == COMP_CWORD)); then
            word=$rest
        fi
        if ((i > 0)) && [[ $rest == "$line" ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        line=${rest#"$word"}
    done
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=
    if ((cword > 0)); then
        prev=${words[cword-1]}
    fi
}
`

func runCompletion(g *globals, root *cobra.Command, shell string, descriptions bool) error {
	script, ok := completionScripts[shell]
	if !ok {
		known := slices.Sorted(maps.Keys(completionScripts))
		p := problem.New(problem.Invalid, problem.RuleUsage, "no completion for the shell %s", wordShown(shell)).
			Want("%s", strings.Join(known, ", ")).Fix("see 'cupel completion --help'")

		if near := nearName(shell, known); near != "" {
			p = p.Fix("did you mean %s?", near)
		}
		return p
	}

	var b bytes.Buffer
	if err := script(root, &b, descriptions); err != nil {
		return err
	}
	return g.write(b.String())
}
