package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// everybody is what --deploy-keys has in a file's place where all keys may deploy.
const everybody = "all"

// refuseNamedAll refuses a list of keys that is called as the word for everybody: whoever
// names it means that not everybody may deploy.
func refuseNamedAll(list string) error {
	info, err := os.Lstat(list)
	if list != everybody || err != nil {
		return nil
	}

	return problem.New(problem.Invalid, ruleDeployKeys, "--deploy-keys %s lets everybody deploy, and there is %s of that name here", everybody, wordOf(info.Mode().Type())).
		Want("no doubt who may deploy").
		Fix("if the list of keys is there, name it as ./%[1]s; to let everybody deploy, run this elsewhere, or rename %[1]s first", everybody)
}

// keyLimits are what each key may have, by flags and by the memory of the machine.
func keyLimits(o Options) (manager.KeyLimits, error) {
	memory, err := memoryOf()
	if err != nil {
		return manager.KeyLimits{}, err
	}
	limits := manager.DefaultKeyLimits(memory)

	if o.AppQuota != "" {
		if err := limits.Set(o.AppQuota); err != nil {
			return limits, err
		}
	}

	if o.LowPorts != "" {
		ports, err := manager.ParsePorts(o.LowPorts)
		if err != nil {
			return limits, err
		}
		limits.LowPorts = ports
	}

	if restricts(o.DeployKeys) {
		file, err := filepath.Abs(o.DeployKeys)
		if err != nil {
			return limits, fmt.Errorf("find the list of keys that may deploy: %w", err)
		}
		if _, err := readDeployKeys(file); err != nil {
			return limits, problem.New(problem.Invalid, ruleDeployKeys, "%w", err).
				Want("one key a line, 64 hex digits, as `key_not_listed` shows it").
				Fix("mend that file, or name another with --deploy-keys")
		}
		limits.Listed = listedKeys(file)
	}
	return limits, nil
}

// readDeployKeys reads who may deploy: one key a line, and comments after #. With an error
// it returns the keys before the line that is none.
func readDeployKeys(file string) ([]ident.KeyHash, error) {
	b, err := atomicfile.Read(file)
	if err != nil {
		return nil, err
	}

	var keys []ident.KeyHash
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		text, _, _ := strings.Cut(line, "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}

		key, err := ident.ParseKeyHash(text)
		if err != nil {
			return keys, fmt.Errorf("%s: line %d is no key", file, number)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// listedKeys says by a file who may deploy. It is read each time, so that a change holds
// at once; one that can't be read lets nobody deploy. Owners aren't told what is in it.
func listedKeys(file string) func(ident.KeyHash) (bool, error) {
	return func(key ident.KeyHash) (bool, error) {
		keys, err := readDeployKeys(file)
		if slices.Contains(keys, key) {
			return true, nil
		}
		if err != nil {
			return false, problem.New(problem.Unavailable, ruleDeployKeys, "the list of keys that may deploy can't be read").
				Fix("let the operator mend the file of cupel up --deploy-keys")
		}
		return false, nil
	}
}
