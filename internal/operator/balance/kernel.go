package balance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	chainPrerouting  = "prerouting"
	chainPostrouting = "postrouting"

	// chainFormat is empty and marks the layout of the table. A table without
	// it was made by another version and is replaced as a whole.
	chainFormat = "format_1"

	// netlinkBuffer lets a transaction of some thousand rules pass in one
	// piece, and its acknowledgements come back.
	netlinkBuffer = 8 << 20

	// ipsDstNAT is the conntrack status bit of a connection whose destination
	// was translated (IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h).
	ipsDstNAT = 1 << 5
)

// kernel is our table in the kernel. It holds no state of its own.
type kernel struct {
	table  *nftables.Table
	subnet netip.Prefix  // of the instances
	idle   time.Duration // a client unseen for so long is forgotten
	size   uint32        // clients per set
}

// tableState is what the kernel has.
type tableState struct {
	exists  bool
	current bool // made by this format
	chains  map[string]bool
	sets    map[string]bool
}

func (k *kernel) conn() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(netlinkBuffer), c.SetWriteBuffer(netlinkBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("open netlink to nftables: %w", err)
	}
	return c, nil
}

// read lists our table's chains and named sets.
func (k *kernel) read() (tableState, error) {
	s := tableState{chains: map[string]bool{}, sets: map[string]bool{}}
	c, err := k.conn()
	if err != nil {
		return s, err
	}
	tables, err := c.ListTablesOfFamily(k.table.Family)
	if err != nil {
		return s, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		s.exists = s.exists || t.Name == k.table.Name
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
	s.current = s.chains[chainFormat]
	return s, nil
}

// serves tells whether the kernel has exactly the chains of want. It doesn't
// look into them: nobody but us edits our table, but `nft flush ruleset` and
// restarts of host firewalls do delete it.
func (s tableState) serves(want []frontend) bool {
	names := map[string]bool{chainPrerouting: true, chainPostrouting: true, chainFormat: true}
	for _, f := range want {
		if len(f.endpoints) > 0 {
			names[f.chain()] = true
		}
		for _, e := range f.endpoints {
			names[e.chain] = true
			if !s.sets[e.set4] || !s.sets[e.set6] {
				return false
			}
		}
	}
	for name := range names {
		if !s.chains[name] {
			return false
		}
	}
	return len(names) == len(s.chains)
}

// program makes want the table's content in one transaction. Sets of endpoints
// that stay keep their elements.
func (k *kernel) program(have tableState, want []frontend) error {
	c, err := k.conn()
	if err != nil {
		return err
	}
	if have.exists && !have.current {
		c.DelTable(k.table)
		have = tableState{}
	}
	tx := &transaction{kernel: k, conn: c}
	c.AddTable(k.table)
	tx.clear(have, want)
	tx.base()
	tx.frontends(have, want)
	if tx.err != nil {
		return fmt.Errorf("compose nftables transaction: %w", tx.err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("program nftables table %s: %w", k.table.Name, err)
	}
	return nil
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

// transaction composes one batch of messages.
type transaction struct {
	*kernel
	conn   *nftables.Conn
	lastID uint32 // of sets, in this batch
	err    error
}

// clear empties every chain and deletes chains and sets that want has no use
// for.
func (tx *transaction) clear(have tableState, want []frontend) {
	keep := map[string]bool{chainPrerouting: true, chainPostrouting: true, chainFormat: true}
	for _, f := range want {
		keep[f.chain()] = len(f.endpoints) > 0
		for _, e := range f.endpoints {
			keep[e.chain], keep[e.set4], keep[e.set6] = true, true, true
		}
	}
	// Rules go first: they hold the chains and sets that they name.
	for name := range have.chains {
		tx.conn.FlushChain(&nftables.Chain{Table: tx.table, Name: name})
	}
	for name := range have.chains {
		if !keep[name] {
			tx.conn.DelChain(&nftables.Chain{Table: tx.table, Name: name})
		}
	}
	for name := range have.sets {
		if !keep[name] {
			tx.conn.DelSet(&nftables.Set{Table: tx.table, Name: name})
		}
	}
}

// base adds the chains with hooks and the masquerading rules.
func (tx *transaction) base() {
	tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: chainFormat})
	tx.conn.AddChain(&nftables.Chain{
		Table: tx.table, Name: chainPrerouting, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	post := tx.conn.AddChain(&nftables.Chain{
		Table: tx.table, Name: chainPostrouting, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	// Instances reach the world under the machine's address.
	tx.rule(post, isIPv4(), inPrefix(srcOffset, tx.subnet, expr.CmpOpEq), inPrefix(dstOffset, tx.subnet, expr.CmpOpNeq),
		exprs(&expr.Masq{}))
	// An instance that called a public port is answered through us.
	tx.rule(post, isIPv4(), inPrefix(srcOffset, tx.subnet, expr.CmpOpEq),
		exprs(
			&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
			&expr.Masq{},
		))
}

// frontends adds each port's chain, and prerouting's way to it.
func (tx *transaction) frontends(have tableState, want []frontend) {
	var ports []nftables.SetElement
	for _, f := range want {
		if len(f.endpoints) == 0 {
			continue // the listener holds the port and refuses
		}
		for _, e := range f.endpoints {
			tx.endpoint(have, e)
		}
		svc := tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: f.chain()})
		for _, e := range f.endpoints {
			tx.rule(svc, loadSource(), exprs(
				&expr.Lookup{SourceRegister: 1, SetName: e.set4},
				&expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain},
			))
		}
		tx.deal(svc, f.endpoints)
		ports = append(ports, nftables.SetElement{
			Key:         binaryutil.BigEndian.PutUint16(f.port),
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: f.chain()},
		})
	}
	if len(ports) == 0 {
		return
	}
	pre := &nftables.Chain{Table: tx.table, Name: chainPrerouting}
	tx.rule(pre, isIPv4(), exprs(
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: append([]byte("lo"), make([]byte, 14)...)},
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	), isTCP(), exprs(
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		tx.verdictMap(nftables.TypeInetService, ports),
	))
}

// endpoint adds an endpoint's sets, where it has none yet, and its chain.
func (tx *transaction) endpoint(have tableState, e endpoint) {
	sets := []struct {
		name string
		key  nftables.SetDatatype
	}{{e.set4, nftables.TypeIPAddr}, {e.set6, nftables.TypeIP6Addr}}
	for _, s := range sets {
		if have.sets[s.name] {
			continue
		}
		tx.fail(tx.conn.AddSet(&nftables.Set{
			Table: tx.table, ID: tx.nextID(), Name: s.name, KeyType: s.key, KeyByteOrder: binaryutil.BigEndian,
			Dynamic: true, HasTimeout: true, Timeout: tx.idle, Size: tx.size, Comment: e.instance,
		}, nil))
	}
	ch := tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: e.chain})
	// A rule of its own: when the set is full the rule ends here, and the
	// connection is still translated by the next one.
	tx.rule(ch, loadSource(), exprs(&expr.Dynset{SrcRegKey: 1, SetName: e.set4, Operation: unix.NFT_DYNSET_OP_UPDATE}))
	ip := e.addr.Addr().As4()
	tx.rule(ch, isTCP(), exprs(
		&expr.Immediate{Register: 1, Data: ip[:]},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(e.addr.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	))
}

// deal adds the rule that gives new clients to the endpoints in turn.
func (tx *transaction) deal(svc *nftables.Chain, endpoints []endpoint) {
	// The kernel counts from zero after every change; beginning elsewhere each
	// time keeps frequent changes from favouring the first endpoint.
	first := rand.IntN(len(endpoints))
	turns := make([]nftables.SetElement, len(endpoints))
	for i := range endpoints {
		turns[i] = nftables.SetElement{
			Key:         binaryutil.NativeEndian.PutUint32(uint32(i)),
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: endpoints[(first+i)%len(endpoints)].chain},
		}
	}
	tx.rule(svc, exprs(
		&expr.Numgen{Register: 1, Type: unix.NFT_NG_INCREMENTAL, Modulus: uint32(len(endpoints))},
		tx.verdictMap(nftables.TypeInteger, turns),
	))
}

// verdictMap adds an anonymous map and returns the lookup of register 1 in it.
func (tx *transaction) verdictMap(key nftables.SetDatatype, elements []nftables.SetElement) expr.Any {
	m := &nftables.Set{
		Table: tx.table, ID: tx.nextID(), Name: "__map%d", Anonymous: true, Constant: true, IsMap: true,
		KeyType: key, DataType: nftables.TypeVerdict,
	}
	tx.fail(tx.conn.AddSet(m, elements))
	return &expr.Lookup{SourceRegister: 1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: m.Name, SetID: m.ID}
}

func (tx *transaction) rule(ch *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: ch, Exprs: all})
}

// nextID numbers the sets of this batch. The library's own numbers come from a
// variable that connections share without a lock.
func (tx *transaction) nextID() uint32 {
	tx.lastID++
	return tx.lastID
}

func (tx *transaction) fail(err error) { tx.err = errors.Join(tx.err, err) }

const (
	srcOffset = 12 // in the IPv4 header
	dstOffset = 16
)

func exprs(e ...expr.Any) []expr.Any { return e }

func isIPv4() []expr.Any {
	return exprs(
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
	)
}

func isTCP() []expr.Any {
	return exprs(
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	)
}

// loadSource puts the client's IPv4 address into register 1.
func loadSource() []expr.Any {
	return exprs(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: srcOffset, Len: 4})
}

// inPrefix compares the address at offset with a prefix.
func inPrefix(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - p.Bits()))
	network := p.Masked().Addr().As4()
	return exprs(
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: network[:]},
	)
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
