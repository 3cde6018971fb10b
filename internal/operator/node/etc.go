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
)

// HostName is the name under which instances reach the machine that they run on.
const HostName = "host.cupel.internal"

// writeEtc writes the two files of the host's making that an instance sees.
func writeEtc(dir, host string, ip, gateway netip.Addr) error {
	var hosts bytes.Buffer
	fmt.Fprintf(&hosts, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	fmt.Fprintf(&hosts, "%s %s\n%s %s\n", ip, host, gateway, HostName)
	for name, content := range map[string][]byte{"hosts": hosts.Bytes(), "resolv.conf": resolvConf()} {
		path := filepath.Join(dir, name)
		// The app's user reads it, whatever the umask of whoever started us.
		if err := errors.Join(os.WriteFile(path, content, 0o644), os.Chmod(path, 0o644)); err != nil {
			return fmt.Errorf("write the instance's %s: %w", name, err)
		}
	}
	return nil
}

// resolvConf is the machine's, without resolvers that only the machine itself
// reaches. Behind a local stub, the stub's own upstreams are taken.
func resolvConf() []byte {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if out, servers := filterResolvers(b); servers > 0 {
			return out
		}
	}
	return []byte("# the machine has no name server that an instance could reach\n")
}

// Resolvers are the name servers that instances ask.
func Resolvers() []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(string(resolvConf())) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, a)
			}
		}
	}
	return out
}

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
