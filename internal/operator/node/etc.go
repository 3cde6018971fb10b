package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// HostName is the name under which instances reach the machine that they run on.
const HostName = "host.cupel.internal"

// writeEtc writes the two files of the host's making that an instance sees.
func writeEtc(dir, host string, ip, gateway netip.Addr) error {
	var hosts bytes.Buffer
	fmt.Fprintf(&hosts, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	fmt.Fprintf(&hosts, "%s %s\n%s %s\n", ip, host, gateway, HostName)

	resolvers, _ := resolvConf()
	for name, content := range map[string][]byte{"hosts": hosts.Bytes(), "resolv.conf": resolvers} {
		path := filepath.Join(dir, name)
		// The app's user reads it, whatever the umask of whoever started us.
		if err := errors.Join(os.WriteFile(path, content, 0o644), os.Chmod(path, 0o644)); err != nil {
			return fmt.Errorf("write the instance's %s: %w", name, err)
		}
	}
	return nil
}

// resolvConf is the machine's resolv.conf without resolvers that only the machine itself
// reaches, and the number of its name servers. Where the machine asks a local stub, the
// stub's own upstreams are taken.
func resolvConf() (content []byte, servers int) {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		b, err := atomicfile.Read(path)
		if err != nil {
			continue
		}
		if out, servers := filterResolvers(b); servers > 0 {
			return out, servers
		}
	}
	return []byte("# the machine has no name server that an instance could reach\n"), 0
}

// renewResolvConf gives an instance that runs the machine's name servers of now: on a
// machine that boots or changes its network they come later than its apps. One that
// has none for a while leaves those that were. The file stays the same, since it is
// mounted.
func renewResolvConf(path string, content []byte, servers int) (renewed bool, err error) {
	have, err := atomicfile.Read(path)
	if err != nil || servers == 0 || bytes.Equal(have, content) {
		return false, err
	}

	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	_, err = f.WriteAt(content, 0)
	return true, errors.Join(err, f.Truncate(int64(len(content))), f.Close())
}

// Resolvers are the name servers that instances ask.
func Resolvers() []netip.Addr {
	var out []netip.Addr
	content, _ := resolvConf()
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, a)
			}
		}
	}
	return out
}

// filterResolvers keeps the lines of a resolv.conf(5) that hold for instances too, and
// counts its name servers.
func filterResolvers(b []byte) (out []byte, servers int) {
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}

		switch f[0] {
		case "nameserver":
			addr, err := netip.ParseAddr(f[1])
			if err != nil || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
				continue
			}
			servers++
		case "search", "options", "domain":
		default:
			continue
		}

		out = append(append(out, strings.Join(f, " ")...), '\n')
	}
	return out, servers
}
