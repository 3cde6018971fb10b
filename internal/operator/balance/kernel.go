package balance

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	chainPrerouting  = "prerouting"
	chainPostrouting = "postrouting"
	chainForward     = "forward"

	// mapPorts leads from a public port to its chain for new connections, mapSeen
	// to the one for clients that were seen to answer.
	mapPorts = "ports"
	mapSeen  = "seen"

	// chainFormat is empty and marks the layout of the table. A table without
	// it was made by another version and is replaced as a whole.
	chainFormat = "format_2"

	// netlinkBuffer lets a transaction of some thousand rules pass in one
	// piece, and its acknowledgements come back.
	netlinkBuffer = 8 << 20

	// newcomerFor is how long a client is remembered that only asked to connect, and
	// maxNewcomers how many of those per endpoint: anybody can ask in anybody's name.
	newcomerFor  = 30 * time.Second
	maxNewcomers = 4096
)

// kernel is our table in the kernel, of which it holds no state of its own.
type kernel struct {
	sent   int // messages that programmed it, for tests
	table  *nftables.Table
	subnet netip.Prefix  // of the instances
	idle   time.Duration // a client unseen for so long is forgotten
	size   uint32        // clients per set
}

// tableState is what the kernel has.
type tableState struct {
	exists  bool
	current bool // made by this format, and without flags such as dormant
	chains  map[string]bool
	sets    map[string]bool
	rules   map[string]int             // in each chain
	ports   map[string]map[uint16]bool // in mapPorts and in mapSeen
}

// noTable is the state where there is no table.
func noTable() tableState {
	return tableState{
		chains: map[string]bool{},
		sets:   map[string]bool{},
		rules:  map[string]int{},
		ports:  map[string]map[uint16]bool{},
	}
}

// conn opens a connection to nf_tables with buffers for large transactions.
func (k *kernel) conn() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(netlinkBuffer), c.SetWriteBuffer(netlinkBuffer))
	}))

	if err != nil {
		return nil, fmt.Errorf("open netlink to nftables: %w", err)
	}
	return c, nil
}

// read lists what our table has.
func (k *kernel) read() (tableState, error) {
	s := noTable()

	c, err := k.conn()
	if err != nil {
		return s, err
	}

	tables, err := c.ListTablesOfFamily(k.table.Family)
	if err != nil {
		return s, fmt.Errorf("list nftables tables: %w", err)
	}

	flags := uint32(0)
	for _, t := range tables {
		if t.Name == k.table.Name {
			s.exists = true
			flags = t.Flags
		}
	}
	if !s.exists {
		return s, nil
	}

	chains, err := c.ListChainsOfTableFamily(k.table.Family)
	if err != nil {
		return s, fmt.Errorf("list nftables chains: %w", err)
	}

	for _, ch := range chains {
		if ch.Table.Name == k.table.Name {
			s.chains[ch.Name] = true
		}
	}

	sets, err := c.GetSets(k.table)
	if err != nil {
		return s, fmt.Errorf("list nftables sets: %w", err)
	}

	for _, set := range sets {
		if !set.Anonymous {
			s.sets[set.Name] = true
		}
	}

	s.current = s.chains[chainFormat] && s.sets[mapPorts] && s.sets[mapSeen] && flags == 0

	for _, name := range []string{mapPorts, mapSeen} {
		s.ports[name] = map[uint16]bool{}
		if !s.sets[name] {
			continue
		}

		elements, err := c.GetSetElements(&nftables.Set{Table: k.table, Name: name})
		if err != nil {
			return s, fmt.Errorf("read nftables map %s: %w", name, err)
		}

		for _, e := range elements {
			if len(e.Key) >= 2 {
				s.ports[name][binaryutil.BigEndian.Uint16(e.Key)] = true
			}
		}
	}

	s.rules, err = k.countRules()
	return s, err
}

// countRules asks for all rules of our table at once.
func (k *kernel) countRules() (map[string]int, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink to nftables: %w", err)
	}
	defer func() { _ = c.Close() }()

	// A dump of NFT_MSG_GETRULE that names a table answers with all of its rules, of all
	// chains (linux/netfilter/nf_tables.h).
	table, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(k.table.Name + "\x00")},
	})
	if err != nil {
		return nil, err
	}

	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(k.table.Family), unix.NFNETLINK_V0, 0, 0}, table...), // struct nfgenmsg
	})

	if err != nil {
		return nil, fmt.Errorf("list nftables rules: %w", err)
	}

	count := map[string]int{}
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}

		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return nil, fmt.Errorf("list nftables rules: %w", err)
		}

		name := ""
		chain := ""
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				name = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			}
		}

		if name == k.table.Name {
			count[chain]++
		}
	}

	return count, nil
}

// baseRules is how many rules the chains have that every table has.
var baseRules = map[string]int{chainFormat: 0, chainPrerouting: 1, chainForward: 1, chainPostrouting: 2}

// serves tells whether the kernel has what program makes of want: every chain with
// its number of rules, every set and every port, and nothing else. `nft flush
// ruleset`, restarts of host firewalls and people take some of it away.
func (s tableState) serves(want []frontend) bool {
	rules := maps.Clone(baseRules)
	sets := map[string]bool{mapPorts: true, mapSeen: true}
	ports := map[uint16]bool{}

	for _, f := range want {
		n := len(f.endpoints)
		if n == 0 {
			continue
		}
		rules[f.chain()] = 2*n + 1 // two lookups for each, and one that deals
		rules[f.seenChain()] = n
		ports[f.port] = true

		for _, e := range f.endpoints {
			rules[e.chain] = 2 // notes the newcomer, and translates
			sets[e.set4] = true
			sets[e.set6] = true
			sets[e.new4] = true
		}
	}

	for name, n := range rules {
		if !s.chains[name] || s.rules[name] != n {
			return false
		}
	}

	return s.current && len(s.chains) == len(rules) && maps.Equal(s.sets, sets) &&
		maps.Equal(s.ports[mapPorts], ports) && maps.Equal(s.ports[mapSeen], ports)
}

// clients returns the addresses in a set.
func (k *kernel) clients(set string) ([]netip.Addr, error) {
	c, err := k.conn()
	if err != nil {
		return nil, err
	}

	elements, err := c.GetSetElements(&nftables.Set{Table: k.table, Name: set})
	if err != nil {
		return nil, fmt.Errorf("read nftables set %s: %w", set, err)
	}

	addrs := make([]netip.Addr, 0, len(elements))
	for _, e := range elements {
		if a, ok := netip.AddrFromSlice(e.Key); ok {
			addrs = append(addrs, a)
		}
	}

	return addrs, nil
}

// membership is a client's place in a set.
type membership struct {
	set    string
	client netip.Addr
}

// remember writes clients into sets with their full life ahead; all or none.
func (k *kernel) remember(members []membership) error {
	c, err := k.conn()
	if err != nil {
		return err
	}

	for _, m := range members {
		s := &nftables.Set{Table: k.table, Name: m.set, HasTimeout: true}
		element := []nftables.SetElement{{Key: m.client.AsSlice(), Timeout: k.idle}}

		// Adding what is there leaves its age alone, and deleting what isn't
		// there fails: add, delete, add works either way.
		err = errors.Join(err, c.SetAddElements(s, element), c.SetDeleteElements(s, element), c.SetAddElements(s, element))
	}

	if err != nil {
		return fmt.Errorf("compose nftables set elements: %w", err)
	}

	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables set elements: %w", err)
	}

	return nil
}

// remove deletes the table; one that isn't there is no error.
func (k *kernel) remove() error {
	have, err := k.read()
	if err != nil || !have.exists {
		return err
	}

	c, err := k.conn()
	if err != nil {
		return err
	}

	c.DelTable(k.table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", k.table.Name, err)
	}

	return nil
}

// newTable names the table; the name is part of nft's grammar.
func newTable(name string) (*nftables.Table, error) {
	ok := name != "" && len(name) <= 64 && strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
	}) < 0
	if !ok {
		return nil, fmt.Errorf("nftables table name %q: want 1 to 64 of a-z 0-9 _", name)
	}

	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}, nil
}
