package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

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
	if o.DeployKeys != "" {
		file, err := filepath.Abs(o.DeployKeys)
		if err != nil {
			return limits, fmt.Errorf("find the list of keys that may deploy: %w", err)
		}
		limits.Listed = listedKeys(file)
		if _, err := limits.Listed(ident.KeyHash{}); err != nil {
			return limits, err
		}
	}
	return limits, nil
}

// listedKeys says by a file who may deploy: one key a line, and comments after #.
// The file is read each time, so that a change holds at once; one that can't be
// read lets nobody deploy.
func listedKeys(file string) func(ident.KeyHash) (bool, error) {
	return func(key ident.KeyHash) (bool, error) {
		b, err := os.ReadFile(file)
		if err != nil {
			return false, problem.New(problem.Unavailable, "deploy_keys", "the list of keys that may deploy can't be read").
				Fix("let the operator mend the file of cupel up --deploy-keys")
		}
		for line := range strings.Lines(string(b)) {
			text, _, _ := strings.Cut(line, "#")
			if text = strings.TrimSpace(text); text == "" {
				continue
			}
			listed, err := ident.ParseKeyHash(text)
			if err != nil {
				return false, problem.New(problem.Unavailable, "deploy_keys", "the list of keys that may deploy has a line that is no key").
					Want("one key a line, 64 hex digits, as `key_not_listed` shows it").
					Fix("let the operator mend the file of cupel up --deploy-keys")
			}
			if listed == key {
				return true, nil
			}
		}
		return false, nil
	}
}
