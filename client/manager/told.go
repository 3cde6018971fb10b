package manager

import (
	"fmt"
	"reflect"

	"cupel.dev/cupel/internal/trusted/problem"
)

// named is what has names that commands are made of, for people to type.
type named interface{ names() []string }

// needing is what is of no use without some of its fields, and says which is missing.
type needing interface{ lacks() string }

type field struct {
	name  string
	empty bool
}

// lacking is the first of some fields that is empty; none: "".
func lacking(fields ...field) string {
	for _, f := range fields {
		if f.empty {
			return f.name
		}
	}
	return ""
}

// told marks every problem in an answer with whose word it is, and refuses one without
// what it is about, and names that no app or instance can have.
func (c *Client) told(v reflect.Value) error {
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
func (c *Client) judge(part any) error {
	if is, ok := part.(named); ok {
		for _, name := range is.names() {
			if name != "" && !ValidName(name) {
				return c.untrue("nothing can be called %.100q", name).Want("names and ids of 1 to 40 of a-z 0-9 -").
					Fix("don't use this manager: one of Cupel's gives no such name")
			}
		}
	}
	if is, ok := part.(needing); ok {
		if missing := is.lacks(); missing != "" {
			return c.untrue("the field %q is missing, or empty", missing).Want("an answer as the manager's API describes it").
				Fix("check that the manager is of this release, and that nothing else answers in its place; else ask whoever runs it")
		}
	}
	return nil
}

// about refuses an answer that is about another app than it was asked for.
func (c *Client) about(ref string, a App, err error) (App, error) {
	if err == nil && !a.is(ref) {
		err = c.untrue("it is about app %s (id %s)", a.Name, a.ID).Want("app %s", ref).
			Fix("don't use this manager: one of Cupel's answers what it is asked for")
	}
	return a, err
}

// untrue is the problem of an answer that none of Cupel's managers gives.
func (c *Client) untrue(format string, args ...any) *problem.Error {
	return problem.New(problem.Unavailable, "reply", "the answer of the manager at %s: %w", c.addr, fmt.Errorf(format, args...))
}
