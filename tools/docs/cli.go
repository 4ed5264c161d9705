package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// commands are documented in this order; words that begin with an argument are
// subcommands.
var commands = []string{
	"", "serve", "router", "adaptermgr", "worker",
	"adapter list", "adapter get", "adapter load", "adapter upload", "adapter update", "adapter canary", "adapter rollback", "adapter watch", "adapter unload",
	"adapter validate", "adapter make-dummy",
	"chat", "generate", "bench", "bench serve", "bench engine", "bench kernels", "bench coldstart", "bench plot", "pull", "version",
}

const cliIntro = `# Command line

One binary holds all roles and tools. Every flag may also stand in the environment as ` + "`CHORALE_<FLAG>`" + ` (` + "`--max-lora-rank`" + `:
` + "`CHORALE_MAX_LORA_RANK`" + `) and in a YAML file given by ` + "`--config`" + `, whose keys are flag names; a flag beats the
environment, which beats the file. ` + "`--flag VALUE`" + ` and ` + "`--flag=VALUE`" + ` are the same; a flag that takes several values takes them as SGLang
does (` + "`--lora-paths a=x b=y`" + `) or repeated. SGLang's server flags that mean nothing here are accepted and named in one line on
stderr ([moving from SGLang](api.md#sglang)).

Exit status: 0 success, 1 failure, 80 wrong usage, 130 after ctrl-C, 137 after a second signal while draining.

`

// cliPage asks the program for its help.
func cliPage(bin string) (string, error) {
	var b strings.Builder
	b.WriteString(notice + cliIntro)
	for _, c := range commands {
		args := append(strings.Fields(c), "--help")
		cmd := exec.Command(bin, args...)
		cmd.Env = append(os.Environ(), "COLUMNS=100")
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", bin, strings.Join(args, " "), err)
		}
		title := strings.TrimSpace("chorale " + c)
		fmt.Fprintf(&b, "## %s\n\n```text\n%s\n```\n\n", title, strings.TrimRight(string(out), "\n "))
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}
