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
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/wording"
)

// kind is what something in the state folder is.
type kind string

const (
	isFolder kind = "a folder"
	isFile   kind = "a file"
	isSocket kind = "a socket"
	isLog    kind = "a file to write to"
)

// linked tells of a kind that a link may lead to: an operator may have a folder on another
// disk, and a log elsewhere.
func (k kind) linked() bool { return k == isFolder || k == isLog }

// leadsNowhere is why a link is wrong at whose end nothing is. What is there otherwise, as
// on a disk that isn't mounted now, is whole.
type leadsNowhere struct{ path, target string }

func (e *leadsNowhere) Error() string {
	return fmt.Sprintf("it is a link to %s, and nothing is there", e.target)
}

// wrong says what is at a path instead; nil: it is of that kind, or nothing is there.
func (k kind) wrong(path string) error {
	look := os.Lstat
	if k.linked() {
		look = os.Stat
	}

	info, err := look(path)
	switch {
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrNotExist) && !exists(path):
		return nil // above it is what is wrong
	case errors.Is(err, fs.ErrNotExist):
		return nowhere(path)
	case errors.Is(err, syscall.ELOOP):
		return errors.New("it is a link in a circle")
	case err != nil:
		return err
	}

	have := info.Mode().Type()
	if k == isLog && isNull(info) {
		return nil
	}
	if want := map[kind]fs.FileMode{isFolder: fs.ModeDir, isSocket: fs.ModeSocket}[k]; have != want {
		return fmt.Errorf("it is %s, not %s", wordOf(have), k)
	}
	return nil
}

// nowhere says of a link where it leads, by an absolute name; nil: it is none any more.
func nowhere(path string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return ignoreMissing(err)
	}

	if !filepath.IsAbs(target) {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return ignoreMissing(err)
		}
		target = filepath.Join(dir, target)
	}

	return &leadsNowhere{path, target}
}

// isNull tells of /dev/null, by whatever name.
func isNull(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice && stat.Rdev == unix.Mkdev(1, 3) // Linux's devices.txt
}

// wordOf is a person's word for a type of file.
func wordOf(mode fs.FileMode) string {
	switch mode {
	case 0:
		return "a file"
	case fs.ModeDir:
		return "a folder"
	case fs.ModeSymlink:
		return "a link"
	case fs.ModeNamedPipe:
		return "a pipe"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// derivation is something in the state folder that is found out or made again, so that
// a damaged one stops nobody.
type derivation struct {
	name  string
	kind  kind
	valid func([]byte) bool // nil: whoever reads it judges that
	then  string
}

// derived are all of them, folders before what is in them.
func (l layout) derived() []derivation {
	const anew = "it is made anew"
	list := l.logs()

	list = append(list, derivation{portsFile, isFile, readBy(parsePorts), "the addresses are those of manager.json, or found anew"},
		derivation{keptFile, isFile, readBy(parseFlags), "which other flags the last start had isn't known: give those again that matter"},
		derivation{"cas.uid", isFile, readBy(parseUser), "the CAS's user is the owner of its folder"},
		derivation{pathFile, isFile, readBy(parsePath), "it is written anew"},
		derivation{filepath.Base(l.turnFile()), isFile, nil, anew},
		derivation{"grace", isFile, readBy(parseGrace), "apps have as long to end as cupel up --grace says"},
		derivation{client.EndpointFile, isFile, validEndpoint, "it is written anew"},
		derivation{"simulation-root.pem", isFile, validPEM, "it is written anew from simtee"},
		derivation{"cni", isFolder, nil, anew},
		derivation{"cni/subnet", isFile, readBy(cni.ParseKept), "the bridge tells the subnet, if it is there; else it is the one that --subnet names, or a free one"},
		derivation{"cni/check.lock", isFile, nil, anew},
		derivation{"cni/leases", isFolder, nil, anew},
		derivation{"cni/leases/" + l.namespace(), isFolder, nil, anew},
		derivation{"cni/leases/" + l.namespace() + "/lock", isFile, nil, anew},
		derivation{"containerd/config.toml", isFile, nil, "it is written anew"},
		derivation{"containerd/containerd.pid", isFile, validProcess, "containerd is looked for, or started"},
		derivation{"containerd/containerd.sock", isSocket, nil, anew},
		derivation{"containerd/containerd.sock.ttrpc", isSocket, nil, anew},
		derivation{"containerd/run", isFolder, nil, anew},
		derivation{"containerd/opt", isFolder, nil, anew},
		derivation{"runc", isFolder, nil, anew},
		derivation{"registry/.lock", isFile, nil, anew},
		derivation{"runtimes", isFolder, nil, anew},
		derivation{"runtimes/cache", isFolder, nil, anew},
		derivation{"runtimes/locks", isFolder, nil, "the next cupel runtime build writes the copies of locks"},
		derivation{"cas/lock", isFile, nil, anew},
		derivation{"cas/cas.db-shm", isFile, nil, anew},
		derivation{"manager.db-shm", isFile, nil, anew})

	for _, name := range []string{"run", "etc", "logs", "netns", "launcher", "damaged"} {
		list = append(list, derivation{"node/" + name, isFolder, nil, anew})
	}
	return list
}

// logs are what is written for people alone.
func (l layout) logs() []derivation {
	const anew = "a new log is begun"
	list := []derivation{{"log", isFolder, nil, anew}, {"containerd/containerd.log", isLog, nil, anew}, {"containerd/containerd.log.1", isLog, nil, anew}}

	for _, name := range []string{"cupeld.log", "cupeld.stderr", "cas.log"} {
		list = append(list, derivation{"log/" + name, isLog, nil, anew}, derivation{"log/" + name + ".1", isLog, nil, anew})
	}
	return list
}

// repair puts aside what is damaged and can be made again, and tells it. That this
// installation served is still known then.
func (p *parts) repair(ctx context.Context) error {
	served := p.served()
	for _, message := range p.mend(p.derived()) {
		p.repaired(ctx, message)
	}

	if !served || p.served() {
		return nil
	}

	anew := &ports{p.path(portsFile), map[string]string{}}
	anew.keepFlags() // it may have said that
	if err := anew.save(); err != nil {
		return fmt.Errorf("keep that this installation served: %w", err)
	}
	return nil
}

// repaired tells of something that was put aside.
func (p *parts) repaired(ctx context.Context, message string) {
	p.log.WarnContext(ctx, message)
	p.incidents.Tell(manager.Incident{Warning: true, Reason: reasonRepaired, Message: message})
	p.damaged.add(message)
}

// watchLog tells of a log that can't be written, and goes on without it.
func (p *parts) watchLog(name string, log *rotatingFile) {
	if log == nil {
		return
	}
	if err := log.tell(func(err error) { p.logged(name, err) }); err != nil {
		p.unlogged(name, err)
	}
}

// logged takes note of how the writing of a log went. What a full disk keeps from it, the
// disk's own refusals tell.
func (p *parts) logged(name string, err error) {
	if !diskerror.Full(err) {
		p.troubles.Note("write "+name, "", p.explain(err))
	}
}

// unlogged is logged of a log that can't be opened when its writer starts, which up says,
// too.
func (p *parts) unlogged(name string, err error) {
	p.logged(name, err)
	e := problem.From(p.explain(err))
	p.damaged.add(strings.TrimSuffix(fmt.Sprintf("%s can't be written, and all goes on without it: %s. %s", name, e.Actual, e.Mend), " "))
}

// findings are what was found damaged in the state folder, in words. Methods are safe for
// concurrent use.
type findings struct {
	mu   sync.Mutex
	list []string
}

func (f *findings) add(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, line)
}

func (f *findings) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list)
}

// mend puts aside what is damaged of these, and says so of each.
func (l layout) mend(list []derivation) []string {
	var said []string
	for _, d := range list {
		why := d.damage(l.path(d.name))
		if _, nowhere := errors.AsType[*leadsNowhere](why); why == nil || nowhere { // a log is gone without, and a folder refused
			continue
		}
		said = append(said, l.replace(d, why)+". Look at the disk (dmesg)")
	}
	return said
}

// replace puts one of them aside, and says so.
func (l layout) replace(d derivation, why error) string {
	where := "it was put aside as damaged/" + filepath.Base(d.name)
	if err := l.putAside(d.name); err != nil {
		where = "it can't be put aside: " + err.Error()
	}

	return fmt.Sprintf("%s in the state folder was damaged (%v): %s, and %s", d.name, why, where, d.then)
}

// damage says what is wrong with what is at the path; nil: nothing, or it isn't there.
func (d derivation) damage(path string) error {
	if err := d.kind.wrong(path); err != nil || d.valid == nil || !exists(path) {
		return err
	}

	b, err := atomicfile.Read(path)
	switch {
	case err != nil:
		return err
	case len(b) == 0:
		return errors.New("it is empty")
	case !d.valid(b):
		return errors.New("it is not what was written there")
	}
	return nil
}

// putAside moves something to where nobody takes it for what it was. The newest of a
// name is kept.
func (l layout) putAside(name string) error {
	dir := l.path(damagedFolder)
	if isFolder.wrong(dir) != nil { // what is there itself comes into it
		beside := dir + ".moved"
		if err := errors.Join(os.RemoveAll(beside), os.Rename(dir, beside), os.MkdirAll(dir, 0o700),
			os.Rename(beside, filepath.Join(dir, damagedFolder))); err != nil {
			return err
		}
	}

	to := filepath.Join(dir, filepath.Base(name))
	return errors.Join(os.MkdirAll(dir, 0o700), os.RemoveAll(to), os.Rename(l.path(name), to))
}

// damagedFolder is where damaged things are put.
const damagedFolder = "damaged"

// readBy judges what was written down by whether its reader takes it.
func readBy[T any](parse func([]byte) (T, bool)) (valid func([]byte) bool) {
	return func(b []byte) bool {
		_, ok := parse(b)
		return ok
	}
}

// validEndpoint and validProcess judge what is written down in JSON: null and a word are
// JSON, too.
func validEndpoint(b []byte) bool {
	var e managerapi.Endpoint
	return json.Unmarshal(b, &e) == nil && e.Address != ""
}

func validProcess(b []byte) bool {
	var p struct {
		PID   int
		Start uint64
	}
	return json.Unmarshal(b, &p) == nil && p.PID > 1 && p.Start > 0
}

func validPEM(b []byte) bool {
	block, _ := pem.Decode(b)
	return block != nil
}

// irreplaceable are the folders and files that can't be made again as they were, folders before
// what is in them, and what is lost with each.
func (l layout) irreplaceable() []original {
	const (
		node    = "cupel up; apps start anew, volumes are fetched from the registry, and what apps wrote since they were last stored there is lost"
		images  = "cupel up; runtimes have to be built again (cupel runtime build), and volumes that lay there alone are lost"
		fetched = "cupel up; images are fetched again and apps start anew; what they wrote since volumes were last stored is lost"
		begin   = "sessions and secrets are lost: cupel cleanup, and begin anew"
		last    = "cupel up; what was written to the database last may be lost"
	)

	moved := func(name string, kind kind, then string) original {
		return original{name, kind, fmt.Sprintf("cupel down --force, mv %s %s, %s", wording.ShellWord(l.path(name)), wording.ShellWord(l.path(name)+".damaged"), then)}
	}

	return []original{
		moved("simtee", isFolder, "remove "+wording.ShellWord(l.path("simulation-root.pem"))+" too, cupel up; then sessions and owners have to trust the new simulated root"),
		{"cas", isFolder, begin},
		{"cas/cas.db", isFile, begin},
		moved("cas/cas.db-wal", isFile, last),
		moved("manager.db-wal", isFile, last),
		moved("registry", isFolder, images),
		moved("node", isFolder, node),
		moved("node/instances", isFolder, node),
		moved("node/volumes", isFolder, node),
		moved("containerd", isFolder, fetched),
		moved("containerd/root", isFolder, fetched),
	}
}

// original is a folder or file that can't be made again as it was.
type original struct {
	name  string
	kind  kind
	other string // what to do without a backup
}

// unmounted is a folder in whose place is a link that leads nowhere: the disk that it leads
// to may only not be there now.
type unmounted struct {
	derivation
	link *leadsNowhere
}

// unmounted are all such folders, but for that of the logs.
func (l layout) unmounted() []unmounted {
	var list []unmounted
	for _, d := range append(l.derived(), derivation{name: reserveFolder, kind: isFolder}) {
		if link, ok := errors.AsType[*leadsNowhere](d.kind.wrong(l.path(d.name))); ok && d.kind == isFolder && d.name != "log" {
			list = append(list, unmounted{d, link})
		}
	}
	return list
}

// mounted refuses a state folder that has one: a folder that is made anew in its place would
// be another folder.
func (l layout) mounted() error {
	for _, u := range l.unmounted() {
		return u.link.problem().Fix("%s; if that is gone for good, remove the link: the folder is made anew", u.link.mend())
	}
	return nil
}

// withoutDisks puts their links aside and tells it, so that apps can be stopped: an empty
// folder is enough for that. The folders of the runtimes are needed by who builds some alone,
// and the reserve by who starts.
func (p *parts) withoutDisks(ctx context.Context) {
	for _, u := range p.unmounted() {
		if u.name != reserveFolder && u.name != "runtimes" && !strings.HasPrefix(u.name, "runtimes/") {
			p.repaired(ctx, p.replace(u.derivation, u.link))
		}
	}
}

// problem refuses to work where that link is.
func (e *leadsNowhere) problem() *problem.Error {
	return problem.New(problem.Invalid, problem.RuleStateDamaged, "%s: %w", e.path, e).Want("what the link leads to")
}

// mend is what to do about it.
func (e *leadsNowhere) mend() string {
	return fmt.Sprintf("mount what it leads to (%s), then run this again", e.target)
}

// wrongKind refuses a state folder in which something else is where such a folder or file
// has to be.
func (l layout) wrongKind() error {
	for _, k := range l.irreplaceable() {
		path := l.path(k.name)
		if why := k.kind.wrong(path); why != nil {
			if nowhere, ok := errors.AsType[*leadsNowhere](why); ok {
				return nowhere.problem().Fix("%s; if that is gone for good, put it back from a backup; without a backup: %s", nowhere.mend(), k.other)
			}
			return problem.New(problem.Invalid, problem.RuleStateDamaged, "%s is damaged: %w", path, why).Want("%s", k.kind).
				Fix("put it back from a backup and look at the disk (dmesg); without a backup: %s", k.other)
		}
	}
	return nil
}

// whole refuses a state folder that has lost what can't be made again, before anything
// new is made in its place: that would be another installation under the same name.
func (l layout) whole() error {
	if err := l.wrongKind(); err != nil {
		return err
	}

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
			Fix("look at the disk (dmesg), then put it back from a backup; %s", c.mend)
	}

	if l.managerExpected() {
		file := l.path("manager.db")
		if info, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
			return lostFile(file, err).
				Fix("look at the disk (dmesg), then put it back from a backup; without a backup: cupel down --force, move %s away if it is there, cupel up, and the apps' owners deploy them again", wording.ShellWord(file))
		}
	}
	return nil
}

// portsFile remembers which port each listener got.
const portsFile = "ports.json"

// served reports whether this installation has served. It writes its ports down after
// everything else was made, so that a first start which failed before isn't one.
func (l layout) served() bool { return exists(l.path(portsFile)) }

// forgottenFile says that the manager's database was given up, and the next start makes
// another: see forget.
const forgottenFile = "manager.forgotten"

// managerExpected reports whether there has to be a manager's database.
func (l layout) managerExpected() bool {
	if exists(l.path(forgottenFile)) {
		return false
	}
	records, err := os.ReadDir(l.path("node", "instances"))
	return l.served() || err == nil && len(records) > 0
}

// lostFile is the refusal of a file that is empty or gone, for which err is why.
func lostFile(path string, err error) *problem.Error {
	why := "is empty"
	if err != nil {
		why = "is gone"
	}
	return problem.New(problem.Invalid, problem.RuleStateDamaged, "%s %s, though this installation served before", path, why).
		Want("the file as it was written")
}

// exists reports whether there is something at a path, be it a link that leads nowhere.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// complete takes the ports that aren't known from what cupeld wrote down for others.
func (p *ports) complete(state string) {
	e, err := client.ReadEndpoint(state)
	if err != nil {
		return
	}

	for name, addr := range map[string]string{
		managerListener:   e.Address,
		registryListener:  e.Registry,
		ownersListener:    e.CAS.Owners,
		instancesListener: e.CAS.Instances,
	} {
		if p.last[name] == "" && strings.Contains(addr, ":") {
			p.remember(name, addr)
		}
	}
}
