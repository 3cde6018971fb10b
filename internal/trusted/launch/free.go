package launch

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"

	"cupel.dev/cupel/api/problem"
)

// freeFields empties, in place, every field of spec that is not measured.
// What it leaves alone is measured. A free field of the wrong type is left
// alone too: it is then another launch, and no runtime would take it.
func freeFields(spec map[string]any, variables []string) error {
	process, linux := object(spec, "process"), object(spec, "linux")
	if env, ok := process["env"].([]any); ok {
		freeEnv(env, variables)
	}

	emptyString(object(spec, "root"), "path")
	emptyString(spec, "hostname")
	emptyString(linux, "cgroupsPath")

	for ns := range objects(linux, "namespaces") {
		if ns["type"] == "network" {
			emptyString(ns, "path")
		}
	}

	for m := range objects(spec, "mounts") {
		if dest, _ := m["destination"].(string); slices.Contains(freeBinds, dest) && m["type"] == "bind" {
			emptyString(m, "source")
		}
	}

	return freeLimits(object(linux, "resources"))
}

// freeEnv empties the values of the host variables. A name that appears twice
// keeps its later values, since which one a program reads is its own choice.
func freeEnv(env []any, variables []string) {
	var seen []string
	for i, e := range env {
		s, _ := e.(string)
		name, _, ok := strings.Cut(s, "=")
		if ok && slices.Contains(variables, name) && !slices.Contains(seen, name) {
			env[i] = name + "="
			seen = append(seen, name)
		}
	}
}

// freeLimits empties the limits of memory, processes and CPU time. The swap
// limit is free only as the memory limit's equal (OCI counts memory and swap
// together), which means: no swap at all.
func freeLimits(resources map[string]any) error {
	if memory := object(resources, "memory"); memory != nil && isNumber(memory["limit"]) {
		if memory["swap"] != memory["limit"] {
			return invalid(ruleSwapLimit, "memory limit %v, with swap %v", memory["limit"], memory["swap"]).
				Want("both equal, so that the instance never swaps")
		}
		memory["limit"], memory["swap"] = number(0), number(0)
	}

	if pids := object(resources, "pids"); pids != nil && isNumber(pids["limit"]) {
		pids["limit"] = number(0)
	}

	if cpu := object(resources, "cpu"); cpu != nil {
		for _, key := range []string{"shares", "quota", "period"} {
			if isNumber(cpu[key]) {
				delete(cpu, key)
			}
		}
		for _, key := range []string{"cpus", "mems"} {
			if _, ok := cpu[key].(string); ok {
				delete(cpu, key)
			}
		}
	}
	return nil
}

// requireMemoryLimit refuses a launch without a memory limit: without one,
// the swap limit would be none either.
func requireMemoryLimit(spec map[string]any) error {
	memory := object(object(object(spec, "linux"), "resources"), "memory")
	limit, _ := memory["limit"].(json.Number)
	if n, err := limit.Int64(); err != nil || n <= 0 {
		return invalid(problem.RuleMemoryLimit, "no memory limit in the runtime spec").Want("a limit over 0 bytes")
	}
	return nil
}

// object returns a member that is an object; nil, which reads as empty, where
// it is not.
func object(o map[string]any, key string) map[string]any {
	v, _ := o[key].(map[string]any)
	return v
}

// objects yields the objects in a member that is a list.
func objects(o map[string]any, key string) iter.Seq[map[string]any] {
	list, _ := o[key].([]any)
	return func(yield func(map[string]any) bool) {
		for _, e := range list {
			if v, ok := e.(map[string]any); ok && !yield(v) {
				return
			}
		}
	}
}

func emptyString(o map[string]any, key string) {
	if _, ok := o[key].(string); ok {
		o[key] = ""
	}
}

func isNumber(v any) bool { _, ok := v.(json.Number); return ok }
