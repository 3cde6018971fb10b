package manager

import (
	"errors"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

var (
	theOperator = ident.KeyHash{0x0f}
	anna        = ident.KeyHash{0xa0}
	bert        = ident.KeyHash{0xb0}
)

// kept is a manager that has these apps.
func kept(limits KeyLimits, apps ...*App) *Manager {
	m := &Manager{cfg: Config{Operator: theOperator, Keys: limits}}
	m.state.Apps = map[string]*App{}
	for _, a := range apps {
		m.state.Apps[a.ID] = a
	}
	return m
}

func wish(instances int, memory uint64, port uint16) *Revision {
	return &Revision{Instances: instances, Memory: memory, Port: port}
}

func wantRule(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || string(p.Rule) != want {
		t.Fatalf("%v; want rule %s", err, want)
	}
	if p.Mend == "" {
		t.Errorf("%v: no word on how to mend it", err)
	}
	t.Log(err)
}

func TestKeyLimits(t *testing.T) {
	const G = 1 << 30
	limits := KeyLimits{Apps: 2, Instances: 10, Memory: 16 * G, Ports: 2, LowPorts: []uint16{443}}
	shop := &App{ID: "a-1", Owner: anna, Current: wish(4, G, 8080)}
	grown := &App{ID: "a-2", Owner: anna, Current: wish(1, G, 8081), Next: wish(5, G, 8081)}
	failed := &App{ID: "a-2", Owner: anna, Lost: wish(2, G, 8081)}
	huge := &App{ID: "a-9", Owner: anna, Current: wish(50, G, 8080)}
	other := &App{ID: "b-1", Owner: bert, Current: wish(9, 4*G, 8090)}
	fresh := func(owner ident.KeyHash) *App { return &App{ID: "new", Owner: owner} }

	for name, c := range map[string]struct {
		apps []*App
		app  *App
		rev  *Revision
		rule problem.Rule
	}{
		"first app":                 {[]*App{other}, fresh(anna), wish(10, G, 8080), ""},
		"second app":                {[]*App{shop, other}, fresh(anna), wish(6, G, 8081), ""},
		"third app":                 {[]*App{shop, grown}, fresh(anna), wish(1, G, 8082), "quota_key_apps"},
		"third, one failed":         {[]*App{shop, failed}, fresh(anna), wish(1, G, 8082), "quota_key_apps"},
		"too many instances":        {[]*App{shop}, fresh(anna), wish(7, G, 8081), "quota_key_instances"},
		"as many as roll out":       {[]*App{grown}, fresh(anna), wish(6, G, 8082), "quota_key_instances"},
		"too much memory":           {[]*App{shop}, fresh(anna), wish(5, 4*G, 8081), "quota_key_memory"},
		"update that grows":         {[]*App{shop, grown}, shop, wish(6, G, 8080), "quota_key_instances"},
		"update of what is too big": {[]*App{huge}, huge, wish(49, G, 8080), ""},
		"update that stays":         {[]*App{huge}, huge, wish(50, G, 8080), ""},
		"low port":                  {nil, fresh(anna), wish(1, G, 80), "low_port"},
		"low port that is allowed":  {nil, fresh(anna), wish(1, G, 443), ""},
		"the operator":              {nil, fresh(theOperator), wish(1000, 4*G, 80), ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantRule(t, kept(limits, c.apps...).checkKey(c.app, c.rev), string(c.rule))
		})
	}
	wantRule(t, kept(KeyLimits{}, huge).checkKey(fresh(anna), wish(1000, 4*G, 8080)), "")
}

// TestListedKeys: where there is a list, nobody else deploys; the operator does.
func TestListedKeys(t *testing.T) {
	listed := func(k ident.KeyHash) (bool, error) { return k == anna, nil }
	m := kept(KeyLimits{Listed: listed})
	wantRule(t, m.checkListed(anna), "")
	wantRule(t, m.checkListed(theOperator), "")
	err := m.checkListed(bert)
	wantRule(t, err, "key_not_listed")
	if !strings.Contains(err.Error(), bert.String()) {
		t.Errorf("the key is not shown, which the operator needs: %v", err)
	}

	broken := problem.New(problem.Unavailable, "deploy_keys", "can't be read").Fix("mend it")
	m = kept(KeyLimits{Listed: func(ident.KeyHash) (bool, error) { return false, broken }})
	wantRule(t, m.checkListed(anna), "deploy_keys")
}

func TestKeyLimitsFlag(t *testing.T) {
	l := DefaultKeyLimits(64 << 30)
	for _, bad := range []string{"", "apps", "apps=", "apps=0", "apps=-1", "apps=x", "other=1", "=1", "memory=lots"} {
		wantRule(t, l.Set(bad), "app_quota")
	}
	if err := l.Set("apps=3, memory=2G"); err != nil {
		t.Fatal(err)
	}
	if err := l.Set("instances=7"); err != nil {
		t.Fatal(err)
	}
	if l.Apps != 3 || l.Memory != 2<<30 || l.Instances != 7 || l.Ports != 50 {
		t.Errorf("%+v", l)
	}
	for _, bad := range []string{"", "x", "0", "65536", "80,"} {
		if _, err := ParsePorts(bad); err == nil {
			t.Errorf("%q is taken for ports", bad)
		}
	}
}
