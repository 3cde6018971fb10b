package daemon

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	wire "cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/problem"
)

// derived are the files of the state folder that are found out or made again, so that
// a damaged one stops nobody.
var derived = []struct {
	name  string
	valid func([]byte) bool // nil: whoever reads it judges that
	then  string
}{
	{portsFile, validPorts, "the addresses are those of manager.json, or found anew"},
	{"cas.uid", validUser, "the CAS's user is the owner of its folder"},
	{"grace", validGrace, "apps have as long to end as cupel up --grace says"},
	{wire.EndpointFile, validEndpoint, "it is written anew"},
	{"simulation-root.pem", validPEM, "it is written anew from simtee"},
	{filepath.Join("cni", "subnet"), nil, "the bridge tells the subnet, if it is there"},
	{filepath.Join("containerd", "config.toml"), nil, "it is written anew"},
	{filepath.Join("containerd", "containerd.pid"), validProcess, "containerd is looked for, or started"},
}

// reasonRepaired is the event of a damaged file that is made again.
const reasonRepaired = "state_repaired"

// repair puts aside what is damaged and can be made again, and tells it.
func (p *parts) repair(ctx context.Context) {
	for _, d := range derived {
		why := damage(p.path(d.name), d.valid)
		if why == nil {
			continue
		}
		where := "it was put aside as damaged/" + filepath.Base(d.name)
		if err := p.putAside(d.name); err != nil {
			where = "it can't be put aside: " + err.Error()
		}
		message := fmt.Sprintf("%s in the state folder was damaged (%v): %s, and %s. Look at the disk (dmesg)", d.name, why, where, d.then)
		p.log.WarnContext(ctx, message)
		p.incidents.Tell(manager.Incident{Warning: true, Reason: reasonRepaired, Message: message})
	}
}

// damage says what is wrong with a file; nil: nothing, or it isn't there.
func damage(path string, valid func([]byte) bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("it is no file but has mode %v", info.Mode())
	}
	b, err := atomicfile.Read(path)
	switch {
	case err != nil:
		return err
	case valid == nil:
		return nil
	case len(b) == 0:
		return errors.New("it is empty")
	case !valid(b):
		return errors.New("it is not what was written there")
	}
	return nil
}

// putAside moves something to where nobody takes it for what it was. The newest of a
// name is kept.
func (l layout) putAside(name string) error {
	dir := l.path("damaged")
	to := filepath.Join(dir, filepath.Base(name))
	return errors.Join(os.MkdirAll(dir, 0o700), os.RemoveAll(to), os.Rename(l.path(name), to))
}

// validPorts, validEndpoint and validProcess judge what is written down in JSON: null and
// a word are JSON, too.
func validPorts(b []byte) bool {
	var ports map[string]string
	if json.Unmarshal(b, &ports) != nil || ports == nil {
		return false
	}
	for _, port := range ports {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
	}
	return true
}

func validEndpoint(b []byte) bool {
	var e wire.Endpoint
	return json.Unmarshal(b, &e) == nil && e.Address != ""
}

func validProcess(b []byte) bool {
	var p struct {
		PID   int
		Start uint64
	}
	return json.Unmarshal(b, &p) == nil && p.PID > 1 && p.Start > 0
}

func validUser(b []byte) bool {
	_, ok := parseUser(b)
	return ok
}

func validGrace(b []byte) bool {
	_, ok := parseGrace(b)
	return ok
}

func validPEM(b []byte) bool {
	block, _ := pem.Decode(b)
	return block != nil
}

// whole refuses a state folder that has lost what can't be made again, before anything
// new is made in its place: that would be another installation under the same name.
func (l layout) whole() error {
	for _, c := range []struct {
		name, because, mend string
	}{
		{
			filepath.Join("simtee", "platform.json"), "simulation-root.pem",
			"without a backup: cupel down --force, remove simulation-root.pem too, cupel up; then sessions and owners have to trust the new simulated root",
		},
		{
			filepath.Join("cas", "cas.db"), "manager.db",
			"without a backup sessions and secrets are lost: cupel cleanup, and begin anew",
		},
	} {
		info, err := os.Stat(l.path(c.name))
		if err == nil && info.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) || !exists(l.path(c.because)) {
			continue // whoever reads it says what else is wrong with it
		}
		return lostFile(l.path(c.name), err).
			Fix("put it back from a backup and look at the disk (dmesg); %s", c.mend)
	}
	if l.managerExpected() {
		file := l.path("manager.db")
		if info, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
			return lostFile(file, err).
				Fix("put it back from a backup and look at the disk (dmesg); without a backup: cupel down --force, move %s away if it is there, cupel up, and the apps' owners deploy them again", file)
		}
	}
	return nil
}

// portsFile remembers which port each listener got.
const portsFile = "ports.json"

// served reports whether this installation has served. It writes its ports down after
// everything else was made, so that a first start which failed before isn't one.
func (l layout) served() bool { return exists(l.path(portsFile)) }

// managerExpected reports whether there has to be a manager's database.
func (l layout) managerExpected() bool {
	records, err := os.ReadDir(l.path("node", "instances"))
	return l.served() || err == nil && len(records) > 0
}

// lostFile is the refusal of a file that is empty or gone, for which err is why.
func lostFile(path string, err error) *problem.Error {
	why := "is empty"
	if err != nil {
		why = "is gone"
	}
	return problem.New(problem.Invalid, ruleDamaged, "%s %s, though this installation served before", path, why).
		Want("the file as it was written")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// complete takes the ports that aren't known from what cupeld wrote down for others.
func (p *ports) complete(state string) {
	e, err := wire.ReadEndpoint(state)
	if err != nil {
		return
	}
	for name, addr := range map[string]string{
		"manager": e.Address, "registry": e.Registry, "cas-owners": e.CAS.Owners, "cas-instances": e.CAS.Instances,
	} {
		if p.last[name] == "" && strings.Contains(addr, ":") {
			p.remember(name, addr)
		}
	}
}
