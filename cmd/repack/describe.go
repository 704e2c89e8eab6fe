package main

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// setEnvironment gives each flag of a command a variable of the environment: REPACK_MAX_JOBS for
// --max-jobs. Those that have variables keep them. A flag beats its variable.
func setEnvironment(command *cli.Command) {
	for _, f := range command.Flags {
		variables := []string{"REPACK_" + strings.ToUpper(strings.ReplaceAll(f.Names()[0], "-", "_"))}
		switch f := f.(type) {
		case *cli.StringFlag:
			if len(f.EnvVars) == 0 {
				f.EnvVars = variables
			}
		case *cli.StringSliceFlag:
			f.EnvVars = variables
		case *cli.BoolFlag:
			f.EnvVars = variables
		case *cli.IntFlag:
			f.EnvVars = variables
		case *cli.DurationFlag:
			f.EnvVars = variables
		}
	}
}

// versionText is the version, with the commit and its date where the build knows them.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	text := version
	if version == unreleased && info.Main.Version != "" && info.Main.Version != "(devel)" {
		text = info.Main.Version
	}
	if commit := settings["vcs.revision"]; commit != "" {
		date, _, _ := strings.Cut(settings["vcs.time"], "T")
		text += fmt.Sprintf(" (commit %.12s, %s)", commit, date)
	}
	return text
}

func manCommand() *cli.Command {
	return &cli.Command{
		Name:  "man",
		Usage: "print the manual page: repack man | man -l -",
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			page, err := c.App.ToMan()
			if err != nil {
				return fmt.Errorf("write the manual page: %w", err)
			}
			_, err = fmt.Fprint(c.App.Writer, page)
			return err
		},
	}
}

// completions are scripts that ask the program itself what can follow.
var completions = map[string]string{
	"bash": `_repack() {
    local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:0:COMP_CWORD}")
    [[ $cur == -* ]] && words+=("$cur")
    COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _repack repack
`,
	"zsh": `#compdef repack
_repack() {
    local cur="${words[CURRENT]}"
    local -a before=("${(@)words[1,CURRENT-1]}")
    [[ $cur == -* ]] && before+=("$cur")
    local -a found=("${(@f)$("${before[@]}" --generate-bash-completion 2>/dev/null)}")
    _describe 'repack' found
}
compdef _repack repack
`,
	"powershell": `Register-ArgumentCompleter -Native -CommandName repack -ScriptBlock {
    param($word, $ast, $position)
    $words = $ast.CommandElements | ForEach-Object { "$_" } | Select-Object -Skip 1
    if ($word -and -not $word.StartsWith('-')) { $words = $words | Select-Object -SkipLast 1 }
    & repack @words --generate-bash-completion 2>$null | Where-Object { $_ -like "$word*" } |
        ForEach-Object { [System.Management.Automation.CompletionResult]::new($_) }
}
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script for your shell that completes commands and flags: source <(repack completion bash)",
		ArgsUsage: "bash|zsh|fish|powershell",
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			script, known := completions[shell]
			if shell == "fish" {
				var err error
				if script, err = c.App.ToFishCompletion(); err != nil {
					return fmt.Errorf("write the completion: %w", err)
				}
				known = true
			}
			if !known || c.NArg() != 1 {
				return usagef("want one of bash, zsh, fish and powershell")
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}
