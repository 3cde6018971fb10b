package balance

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/netlab"
)

func TestSetLimits(t *testing.T) {
	var c Config
	if err := c.SetLimits("client-idle=1h, clients=10,connections=20,connection-idle=5m"); err != nil {
		t.Fatal(err)
	}
	if c.ClientIdle != time.Hour || c.MaxClients != 10 || c.MaxFlows != 20 || c.FlowIdle != 5*time.Minute {
		t.Errorf("%+v", c)
	}
	if err := c.SetLimits(""); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"x", "clients", "clients=0", "clients=-1", "clients=many", "connections=70000", "client-idle=1", "client-idle=1ms", "clients=1,,"} {
		if p := problem.From(c.SetLimits(bad)); p == nil || p.Rule != "balancer_limit" || p.Mend == "" {
			t.Errorf("%q: %v", bad, p)
		}
	}
}

// Who is turned away by the limit of connections is told of, with the flag.
func TestFullIsTold(t *testing.T) {
	l := newLab(t)
	var told []manager.Incident
	b := open(t, func(c *Config) {
		c.MaxFlows = 1
		c.Tell = func(i manager.Incident) { told = append(told, i) }
	})
	apply(t, b, l.instance("a"))
	at := netip.MustParseAddrPort("127.0.0.1:8080")
	c, err := netlab.Dial(netip.Addr{}, at)
	check(t, err)
	defer func() { _ = c.Close() }()
	_, _, err = greeting(c)
	check(t, err)
	for range 3 {
		d, err := netlab.Dial(netip.Addr{}, at)
		if err == nil {
			_, _, err = greeting(d)
			_ = d.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	}
	check(t, b.Close())
	if len(told) != 1 || told[0].Reason != "balancer_full" || !strings.Contains(told[0].Message, "cupel up --balancer connections=2") {
		t.Errorf("%v", told)
	}
}

// TestNobodyKeepsOthersOut: where all places are taken, who has most of them makes room,
// and gets no more.
func TestNobodyKeepsOthersOut(t *testing.T) {
	l := newLab(t)
	var told []manager.Incident
	b := open(t, func(c *Config) {
		c.MaxFlows = 8
		c.Tell = func(i manager.Incident) { told = append(told, i) }
	})
	one, two := l.instance("a"), l.instance("b")
	const other = port + 1
	check(t, b.Apply(t.Context(), []manager.Frontend{
		{App: "a", Port: port, Endpoints: []manager.Endpoint{one.Endpoint}},
		{App: "b", Port: other, Endpoints: []manager.Endpoint{two.Endpoint}},
	}))
	come := func(from netip.Addr, port uint16) (*net.TCPConn, error) {
		var c *net.TCPConn
		var err error
		l.outside.Do(func() { c, err = netlab.Dial(from, netip.AddrPortFrom(public6, port)) })
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			_, _, err = greeting(c)
		}
		return c, err
	}
	flood, user := client6(1), netip.MustParseAddr("2001:db8::2")
	var held []*net.TCPConn
	for range 8 {
		c, err := come(flood, port)
		check(t, err)
		held = append(held, c)
	}
	if _, err := come(flood, port); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who has all places gets one more: %v", err)
	}
	if _, err := come(flood, other); err != nil {
		t.Errorf("another app is shut out: %v", err)
	}
	if _, err := come(user, port); err != nil {
		t.Errorf("another client is shut out: %v", err)
	}
	here, err := netlab.Dial(netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:8080"))
	check(t, err)
	defer func() { _ = here.Close() }()
	if _, _, err := greeting(here); err != nil {
		t.Errorf("this machine is shut out: %v", err)
	}
	ended := 0
	for _, c := range held {
		if echo(c, []byte("x")) != nil {
			ended++
		}
	}
	if ended != 3 {
		t.Errorf("%d connections ended for three others", ended)
	}
	check(t, b.Close())
	if len(told) != 1 || !strings.Contains(told[0].Message, "App a has most, 8, and a single client 8 of those") {
		t.Errorf("%v", told)
	}
}
