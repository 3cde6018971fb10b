package balance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Conntrack status bits of a connection (linux/netfilter/nf_conntrack_common.h): both
// ends have answered (IPS_ASSURED), and its destination was translated (IPS_DST_NAT).
const (
	ipsAssured = 1 << 2
	ipsDstNAT  = 1 << 5
)

// batchSize is how many messages a transaction has before the next frontend begins
// another one: the kernel acknowledges each, and drops what a socket can't hold.
const batchSize = 500

// program makes want the table's content. What the kernel serves by now, if that is
// known, is left alone where it is the same; nil old: everything is written. Each
// frontend changes at once. Sets of endpoints that stay keep their elements.
func (k *kernel) program(have tableState, old, want []frontend) error {
	tx := &transaction{kernel: k}
	if err := tx.begin(); err != nil {
		return err
	}

	if have.exists && !have.current {
		tx.conn.DelTable(k.table)
		have = noTable()
		old = nil
	}

	if old == nil {
		tx.base()
	}

	served := map[uint16]frontend{}
	for _, f := range old {
		served[f.port] = f
	}

	for _, f := range want {
		if len(f.endpoints) == 0 {
			continue // the listener holds the port and refuses
		}
		if before, ok := served[f.port]; ok && before.app == f.app && slices.Equal(before.endpoints, f.endpoints) {
			continue
		}
		tx.frontend(have, f)

		if err := tx.flush(batchSize); err != nil {
			return err
		}
	}

	if err := tx.clear(have, want); err != nil {
		return err
	}
	return tx.flush(0)
}

// transaction composes one batch of messages.
type transaction struct {
	*kernel
	conn     *nftables.Conn
	messages int    // about
	lastID   uint32 // of sets, in this batch
	err      error
}

// begin opens the next batch. Sets are numbered anew in each.
func (tx *transaction) begin() (err error) {
	tx.messages = 0
	tx.lastID = 0
	tx.conn, err = tx.kernel.conn()
	return err
}

// flush makes the kernel do what was composed, if that is more than so many messages.
func (tx *transaction) flush(above int) error {
	if tx.err != nil {
		return fmt.Errorf("compose nftables transaction: %w", tx.err)
	}
	if tx.messages <= above {
		return nil
	}

	if err := tx.conn.Flush(); err != nil {
		return fmt.Errorf("program nftables table %s: %w", tx.table.Name, err)
	}

	tx.sent += tx.messages
	return tx.begin()
}

// clear deletes the ports, chains and sets that want has no use for.
func (tx *transaction) clear(have tableState, want []frontend) error {
	keep := map[string]bool{mapPorts: true, mapSeen: true}
	for name := range baseRules {
		keep[name] = true
	}
	ports := map[uint16]bool{}
	for _, f := range want {
		if len(f.endpoints) == 0 {
			continue
		}

		ports[f.port] = true
		keep[f.chain()] = true
		keep[f.seenChain()] = true
		for _, e := range f.endpoints {
			keep[e.chain] = true
			keep[e.set4] = true
			keep[e.set6] = true
			keep[e.new4] = true
		}
	}

	for name, had := range have.ports {
		for port := range had {
			if !ports[port] {
				tx.messages++
				tx.fail(tx.conn.SetDeleteElements(tx.portMap(name), []nftables.SetElement{{Key: binaryutil.BigEndian.PutUint16(port)}}))
			}
		}
	}
	if err := tx.flush(batchSize); err != nil {
		return err
	}

	// Rules go first: they hold the chains and sets that they name.
	for _, what := range []func(name string){
		func(name string) { tx.conn.FlushChain(&nftables.Chain{Table: tx.table, Name: name}) },
		func(name string) { tx.conn.DelChain(&nftables.Chain{Table: tx.table, Name: name}) },
	} {
		for name := range have.chains {
			if !keep[name] {
				tx.messages++
				what(name)
			}

			if err := tx.flush(batchSize); err != nil {
				return err
			}
		}
	}

	for name := range have.sets {
		if !keep[name] {
			tx.messages++
			tx.conn.DelSet(&nftables.Set{Table: tx.table, Name: name})
		}

		if err := tx.flush(batchSize); err != nil {
			return err
		}
	}

	return nil
}

// base adds the table, the chains with hooks, and the rules that are always there. Hooks
// and priorities are nft(8)'s, CHAINS.
func (tx *transaction) base() {
	tx.messages += 12
	tx.conn.AddTable(tx.table)
	tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: chainFormat})
	for _, name := range []string{mapPorts, mapSeen} {
		tx.fail(tx.conn.AddSet(tx.portMap(name), nil))
	}

	pre := tx.conn.AddChain(&nftables.Chain{
		Table:    tx.table,
		Name:     chainPrerouting,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityNATDest,
	})
	forward := tx.conn.AddChain(&nftables.Chain{
		Table:    tx.table,
		Name:     chainForward,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter,
	})
	post := tx.conn.AddChain(&nftables.Chain{
		Table:    tx.table,
		Name:     chainPostrouting,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	for _, ch := range []*nftables.Chain{pre, forward, post} {
		tx.conn.FlushChain(ch)
	}

	tx.fromOutside(pre)
	tx.seen(forward)
	tx.masquerade(post)
}

// fromOutside leads new connections to a public port to its chain, by mapPorts: those to an
// address of this machine (nft(8), FIB EXPRESSIONS) that don't come in over lo. A name is
// compared whole, with the zeros that fill IFNAMSIZ.
func (tx *transaction) fromOutside(pre *nftables.Chain) {
	lo := make([]byte, unix.IFNAMSIZ)
	copy(lo, "lo")

	tx.rule(pre, isIPv4(), exprs(
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: lo},
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	), isTCP(), loadTCP(tcpDestinationPort, 2), exprs(toVerdict(mapPorts)))
}

// seen leads a client's packets to the chain that notes where it belongs, by mapSeen. A
// client that sends something (PSH) or says that it has said all (FIN) on a connection that
// both ends have answered on is who it says.
func (tx *transaction) seen(forward *nftables.Chain) {
	const original = 0 // IP_CT_DIR_ORIGINAL, from client to instance (linux/netfilter/nf_conntrack_tuple_common.h)

	tx.rule(forward, isIPv4(), inPrefix(dstOffset, tx.subnet, expr.CmpOpEq), isTCP(), loadTCP(tcpFlags, 1), exprs(
		masked([]byte{tcpFIN | tcpPSH}),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
		&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{original}},
	), hasStatus(ipsAssured), hasStatus(ipsDstNAT), exprs(
		&expr.Ct{Register: 1, Key: expr.CtKeyPROTODST}, // the port that the client called
		toVerdict(mapSeen),
	))
}

// masquerade gives what instances send the machine's address (nft(8), NAT STATEMENTS).
func (tx *transaction) masquerade(post *nftables.Chain) {
	fromInstance := inPrefix(srcOffset, tx.subnet, expr.CmpOpEq)

	// Instances reach the world under the machine's address.
	tx.rule(post, isIPv4(), fromInstance, inPrefix(dstOffset, tx.subnet, expr.CmpOpNeq), exprs(&expr.Masq{}))

	// An instance that called a public port is answered through us.
	tx.rule(post, isIPv4(), fromInstance, hasStatus(ipsDstNAT), exprs(&expr.Masq{}))
}

// portMap is one of the two maps from ports to chains.
func (tx *transaction) portMap(name string) *nftables.Set {
	return &nftables.Set{
		Table:    tx.table,
		ID:       tx.nextID(),
		Name:     name,
		IsMap:    true,
		KeyType:  nftables.TypeInetService,
		DataType: nftables.TypeVerdict,
	}
}

// frontend writes a port's chains, and the ways to them.
func (tx *transaction) frontend(have tableState, f frontend) {
	for _, e := range f.endpoints {
		tx.endpoint(have, e)
	}

	// Who was seen to answer comes before who only asked to connect, at whatever endpoint.
	svc := tx.empty(f.chain())
	for _, e := range f.endpoints {
		tx.known(svc, e.set4, e)
	}
	for _, e := range f.endpoints {
		tx.known(svc, e.new4, e)
	}
	tx.deal(svc, f.endpoints)

	seen := tx.empty(f.seenChain())
	for _, e := range f.endpoints {
		tx.rule(seen, isTo(e.addr.Addr()), loadSource(),
			exprs(&expr.Dynset{SrcRegKey: 1, SetName: e.set4, Operation: unix.NFT_DYNSET_OP_UPDATE}))
	}

	for name, chain := range map[string]string{mapPorts: f.chain(), mapSeen: f.seenChain()} {
		if have.ports[name][f.port] {
			continue
		}

		tx.messages++
		m := tx.portMap(name)
		m.ID = 0 // by its name
		tx.fail(tx.conn.SetAddElements(m, []nftables.SetElement{{
			Key:         binaryutil.BigEndian.PutUint16(f.port),
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain},
		}}))
	}
}

// known leads the clients of a set to their endpoint.
func (tx *transaction) known(svc *nftables.Chain, set string, e endpoint) {
	tx.rule(svc, loadSource(), exprs(
		&expr.Lookup{SourceRegister: 1, SetName: set},
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain},
	))
}

// empty adds a chain, or empties it.
func (tx *transaction) empty(name string) *nftables.Chain {
	tx.messages += 2
	ch := tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: name})
	tx.conn.FlushChain(ch)
	return ch
}

// endpoint adds an endpoint's sets, where it has none yet, and writes its chain.
func (tx *transaction) endpoint(have tableState, e endpoint) {
	sets := []nftables.Set{
		{Name: e.set4, KeyType: nftables.TypeIPAddr, Timeout: tx.idle, Size: tx.size},
		{Name: e.set6, KeyType: nftables.TypeIP6Addr, Timeout: tx.idle, Size: tx.size},
		{Name: e.new4, KeyType: nftables.TypeIPAddr, Timeout: newcomerFor, Size: min(tx.size, maxNewcomers)},
	}
	for _, s := range sets {
		if have.sets[s.Name] {
			continue
		}

		tx.messages++
		s.Table = tx.table
		s.ID = tx.nextID()
		s.KeyByteOrder = binaryutil.BigEndian
		s.Dynamic = true // the rules write it
		s.HasTimeout = true
		s.Comment = e.instance
		tx.fail(tx.conn.AddSet(&s, nil))
	}

	ch := tx.empty(e.chain)
	// A rule of its own: when the set is full the rule ends here, and the
	// connection is still translated by the next one.
	tx.rule(ch, loadSource(), exprs(&expr.Dynset{SrcRegKey: 1, SetName: e.new4, Operation: unix.NFT_DYNSET_OP_UPDATE}))

	ip := e.addr.Addr().As4()
	tx.rule(ch, isTCP(), exprs(
		&expr.Immediate{Register: 1, Data: ip[:]},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(e.addr.Port())},
		&expr.NAT{
			Type:        expr.NATTypeDestNAT,
			Family:      unix.NFPROTO_IPV4,
			RegAddrMin:  1,
			RegProtoMin: 2,
			Specified:   true,
		},
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
		Table:     tx.table,
		ID:        tx.nextID(),
		Name:      "__map%d",
		Anonymous: true,
		Constant:  true,
		IsMap:     true,
		KeyType:   key,
		DataType:  nftables.TypeVerdict,
	}

	tx.messages++
	tx.fail(tx.conn.AddSet(m, elements))

	lookup := toVerdict(m.Name)
	lookup.SetID = m.ID
	return lookup
}

// rule adds a rule to a chain, of all parts in their order.
func (tx *transaction) rule(ch *nftables.Chain, parts ...[]expr.Any) {
	tx.messages++
	tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: ch, Exprs: slices.Concat(parts...)})
}

// nextID numbers the sets of this batch. The library's own numbers come from a
// variable that connections share without a lock.
func (tx *transaction) nextID() uint32 {
	tx.lastID++
	return tx.lastID
}

// fail notes an error of composing, for the next flush.
func (tx *transaction) fail(err error) { tx.err = errors.Join(tx.err, err) }

// Offsets of the addresses in the IPv4 header (RFC 791 section 3.1).
const (
	srcOffset = 12
	dstOffset = 16
)

// Offsets of the destination port and of the control bits in the TCP header, and two of
// the bits (RFC 9293 section 3.1).
const (
	tcpDestinationPort = 2
	tcpFlags           = 13

	tcpFIN = 1 << 0
	tcpPSH = 1 << 3
)

// exprs is a part of a rule: expressions that pass values on in registers. Register 1 is
// the one that the parts of this file load, mask and compare.
func exprs(e ...expr.Any) []expr.Any { return e }

// isIPv4 selects IPv4, in a table that sees both families (nft(8), META EXPRESSIONS).
func isIPv4() []expr.Any {
	return exprs(
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
	)
}

// isTCP selects TCP, whatever headers stand before it.
func isTCP() []expr.Any {
	return exprs(
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	)
}

// loadIPv4 puts bytes of the IPv4 header into register 1.
func loadIPv4(offset, length uint32) *expr.Payload {
	return &expr.Payload{
		DestRegister: 1,
		Base:         expr.PayloadBaseNetworkHeader,
		Offset:       offset,
		Len:          length,
	}
}

// loadTCP puts bytes of the TCP header into register 1.
func loadTCP(offset, length uint32) []expr.Any {
	return exprs(&expr.Payload{
		DestRegister: 1,
		Base:         expr.PayloadBaseTransportHeader,
		Offset:       offset,
		Len:          length,
	})
}

// loadSource puts the client's IPv4 address into register 1.
func loadSource() []expr.Any { return exprs(loadIPv4(srcOffset, 4)) }

// masked keeps the bits of mask in register 1.
func masked(mask []byte) *expr.Bitwise {
	return &expr.Bitwise{
		SourceRegister: 1,
		DestRegister:   1,
		Len:            uint32(len(mask)),
		Mask:           mask,
		Xor:            make([]byte, len(mask)),
	}
}

// toVerdict goes where a map leads for register 1 (nft(8), VERDICT MAPS).
func toVerdict(name string) *expr.Lookup {
	return &expr.Lookup{
		SourceRegister: 1,
		DestRegister:   unix.NFT_REG_VERDICT,
		IsDestRegSet:   true,
		SetName:        name,
	}
}

// inPrefix compares the address at offset with a prefix.
func inPrefix(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	network := p.Masked().Addr().As4()
	return exprs(
		loadIPv4(offset, 4),
		masked(binaryutil.BigEndian.PutUint32(^uint32(0)<<(32-p.Bits()))),
		&expr.Cmp{Op: op, Register: 1, Data: network[:]},
	)
}

// hasStatus selects connections with a conntrack status bit (nft(8), CONNTRACK EXPRESSIONS).
func hasStatus(bit uint32) []expr.Any {
	return exprs(
		&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
		masked(binaryutil.NativeEndian.PutUint32(bit)),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	)
}

// isTo selects packets to an address.
func isTo(a netip.Addr) []expr.Any {
	ip := a.As4()
	return exprs(
		loadIPv4(dstOffset, 4),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip[:]},
	)
}
