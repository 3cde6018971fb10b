package client

import (
	"fmt"
	"reflect"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// told marks every problem in an answer with whose word it is, and refuses one without
// what it is about, and names that no app or instance can have.
func (c *Manager) told(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		if is, ok := v.Interface().(*problem.Error); ok {
			is.Source = c.source
			return nil
		}
		return c.told(v.Elem())
	case reflect.Struct:
		if err := c.judge(v.Interface()); err != nil {
			return err
		}
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				continue
			}
			if err := c.told(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := c.told(v.Index(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge refuses a part of an answer that none of Cupel's managers gives.
func (c *Manager) judge(part any) error {
	if name, bad := manager.BadName(part); bad {
		return c.untrue("nothing can be called %.100q", name).Want("names and ids of 1 to 40 of a-z 0-9 -").
			Fix("don't use this manager: one of Cupel's gives no such name")
	}
	if missing := manager.Missing(part); missing != "" {
		return c.untrue("the field %q is missing, or empty", missing).Want("an answer as the manager's API describes it").
			Fix("check that the manager is of this release, and that nothing else answers in its place; else ask whoever runs it")
	}
	return nil
}

// about refuses an answer that is about another app than it was asked for.
func (c *Manager) about(ref ident.AppRef, a manager.App, err error) (manager.App, error) {
	if err == nil && !a.Is(ref) {
		err = c.untrue("it is about app %s (id %s)", a.Name, a.ID).Want("app %s", ref).
			Fix("don't use this manager: one of Cupel's answers what it is asked for")
	}
	return a, err
}

// untrue is the problem of an answer that none of Cupel's managers gives.
func (c *Manager) untrue(format string, args ...any) *problem.Error {
	return problem.New(problem.Unavailable, problem.RuleReply, "the answer of the manager at %s: %w", c.addr, fmt.Errorf(format, args...))
}
