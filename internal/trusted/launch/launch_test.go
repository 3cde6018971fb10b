package launch

import (
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files")

const configJSON = `{
 "architecture": "amd64", "os": "linux",
 "config": {
  "User": "1000:1000", "Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"], "WorkingDir": "/home/client-app",
  "Entrypoint": ["/usr/bin/python3"], "Cmd": ["-c", "print('<&>')"]
 },
 "rootfs": {"type": "layers", "diff_ids": ["sha256:1111111111111111111111111111111111111111111111111111111111111111"]}
}`

var launcher = ident.Sum([]byte("launcher"))

func testImage(t *testing.T) ImageConfig {
	t.Helper()
	img, err := ParseImageConfig([]byte(configJSON))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func testFree() Free {
	return Free{
		CASAddr: "10.88.1.1:18765", LASAddr: LASAddr, ConfigID: "demo/client-app",
		Root: "rootfs", Hostname: "client-app-1", CgroupsPath: "/cupel-01234567/i-1",
		NetworkNamespace: "/var/lib/cupel/netns/i-1", Memory: 256 << 20, Pids: 4096, CPUQuota: 50000, CPUPeriod: 100000, CPUShares: 2048,
		ResolvConf: "/s/resolv.conf", Hosts: "/s/hosts", SocketDir: "/s/run/i-1", Launcher: "/s/cupel-init",
	}
}

// eachVersion runs f for every version of the profile.
func eachVersion(t *testing.T, f func(t *testing.T, v Version)) {
	for _, v := range []Version{V1, V2} {
		t.Run(string(v), func(t *testing.T) { f(t, v) })
	}
}

// launched returns a spec as a node would hand it to the runtime.
func launched(t *testing.T, v Version) []byte {
	t.Helper()
	empty, err := Spec(v, testImage(t))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := Fill(empty, testFree())
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestGolden pins the profiles: a change of one is a new version of it.
func TestGolden(t *testing.T) {
	img := testImage(t)
	for v, files := range map[Version][2]string{
		V1: {"spec.json", "measurement.txt"},
		V2: {"spec-v2.json", "measurement-v2.txt"},
	} {
		spec, err := Spec(v, img)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Expected(v, img, launcher)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, files[0], string(spec))
		golden(t, files[1], m.String()+"\n")
	}
}

// TestProfilesStay: a profile is its file, byte for byte, comments that nobody
// reads included.
func TestProfilesStay(t *testing.T) {
	for v, want := range map[Version]string{
		V1: "7e4a2e73aac8eed6b44c7ddbf4dd7315f8ca915714c06d3b331ca3432259215b",
	} {
		if got := ident.Sum(profiles[v].spec).String(); got != want {
			t.Errorf("profile %s has digest %s, want %s: make a new version instead", v, got, want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]Version{"": V1, "v1": V1, "v2": V2} {
		if v, err := ParseVersion(s); err != nil || v != want {
			t.Errorf("%q: %q, %v", s, v, err)
		}
	}
	for _, s := range []string{"v3", "2", "V1", " v1"} {
		_, err := ParseVersion(s)
		_, specErr := Spec(Version(s), testImage(t))
		if p := problem.From(err); err == nil || specErr == nil || p.Rule != "launch_profile" || p.Mend == "" {
			t.Errorf("%q: %v, %v", s, err, specErr)
		}
	}
}

// TestVersionsDiffer: a launch is of the version that its spec says, and none
// passes for another one.
func TestVersionsDiffer(t *testing.T) {
	img := testImage(t)
	measured := map[Version]ident.Measurement{}
	eachVersion(t, func(t *testing.T, v Version) {
		var err error
		if measured[v], err = Measure(launched(t, v), img, launcher); err != nil {
			t.Fatal(err)
		}
		if want, err := Expected(v, img, launcher); err != nil || measured[v] != want {
			t.Errorf("measured %v, want %v, %v", measured[v], want, err)
		}
	})
	if measured[V1] == measured[V2] {
		t.Error("both versions have one measurement")
	}
	spec := launched(t, V2)
	for name, edited := range map[string]string{
		"said to be v1":       strings.Replace(string(spec), `:"v2"`, `:"v1"`, 1),
		"said to be of later": strings.Replace(string(spec), `:"v2"`, `:"v3"`, 1),
		"not said":            strings.Replace(string(spec), `{"dev.cupel.launch-profile":"v2"}`, `{}`, 1),
	} {
		m, err := Measure([]byte(edited), img, launcher)
		if edited == string(spec) || err != nil || m == measured[V1] || m == measured[V2] {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	claims := strings.Replace(string(launched(t, V1)), `{"hostname"`, `{"annotations":{"dev.cupel.launch-profile":"v2"},"hostname"`, 1)
	if m, err := Measure([]byte(claims), img, launcher); err != nil || m == measured[V1] || m == measured[V2] {
		t.Errorf("v1 that says v2: %v, %v", m, err)
	}
}

// TestGrantIsFree: the fourth host variable exists in v2, with a free value.
func TestGrantIsFree(t *testing.T) {
	eachVersion(t, func(t *testing.T, v Version) {
		empty, err := Spec(v, testImage(t))
		if err != nil {
			t.Fatal(err)
		}
		f := testFree()
		f.Grant = secret.NewString("t0ken")
		spec, err := Fill(empty, f)
		if err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(string(spec), `"CUPEL_GRANT=t0ken"`); has != (v != V1) {
			t.Errorf("the spec has the grant: %v", has)
		}
		if m, err := Measure(spec, testImage(t), launcher); err != nil || m.String() == "" {
			t.Error(err)
		} else if want, _ := Expected(v, testImage(t), launcher); m != want {
			t.Errorf("measured %v, want %v", m, want)
		}
	})
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; a change here is a new launch profile):\n%s", name, diff)
	}
}

// edits are changes to a launched spec's JSON.
type edit struct {
	name string
	edit func(spec map[string]any)
}

func at(spec map[string]any, path ...string) map[string]any {
	for _, p := range path {
		spec = spec[p].(map[string]any)
	}
	return spec
}

func set(value any, path ...string) func(map[string]any) {
	return func(spec map[string]any) { at(spec, path[:len(path)-1]...)[path[len(path)-1]] = value }
}

func remove(path ...string) func(map[string]any) {
	return func(spec map[string]any) { delete(at(spec, path[:len(path)-1]...), path[len(path)-1]) }
}

func appendTo(value any, path ...string) func(map[string]any) {
	return func(spec map[string]any) {
		o, key := at(spec, path[:len(path)-1]...), path[len(path)-1]
		list, _ := o[key].([]any)
		o[key] = append(list, value)
	}
}

func drop(i int, path ...string) func(map[string]any) {
	return func(spec map[string]any) {
		o, key := at(spec, path[:len(path)-1]...), path[len(path)-1]
		list := o[key].([]any)
		o[key] = slices.Delete(slices.Clone(list), i, i+1)
	}
}

func inList(i int, key string, value any, path ...string) func(map[string]any) {
	return func(spec map[string]any) {
		at(spec, path[:len(path)-1]...)[path[len(path)-1]].([]any)[i].(map[string]any)[key] = value
	}
}

func bind(source, dest string) map[string]any {
	return map[string]any{"destination": dest, "type": "bind", "source": source, "options": []any{"bind", "ro"}}
}

func measureEdited(t *testing.T, v Version, edit func(map[string]any)) (ident.Measurement, error) {
	t.Helper()
	var spec map[string]any
	d := json.NewDecoder(strings.NewReader(string(launched(t, v))))
	d.UseNumber()
	if err := d.Decode(&spec); err != nil {
		t.Fatal(err)
	}
	edit(spec)
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return Measure(b, testImage(t), launcher)
}

func TestFreeFieldsAreFree(t *testing.T) { eachVersion(t, checkFreeFieldsAreFree) }

func checkFreeFieldsAreFree(t *testing.T, v Version) {
	want, err := Expected(v, testImage(t), launcher)
	if err != nil {
		t.Fatal(err)
	}
	values := []any{"CUPEL_CAS_ADDR=x:1", "CUPEL_LAS_ADDR=y", "CUPEL_CONFIG_ID=a/b=c"}
	if v != V1 {
		values = append(values, "CUPEL_GRANT=x")
	}
	for _, c := range []edit{
		{"as launched", func(map[string]any) {}},
		{"values of the host variables", set(values, "process", "env")},
		{"cgroup", set("/other", "linux", "cgroupsPath")},
		{"memory limit", set(map[string]any{"limit": 1, "swap": 1, "swappiness": 0}, "linux", "resources", "memory")},
		{"pids limit", set(map[string]any{"limit": 7}, "linux", "resources", "pids")},
		{"cpu limits", set(map[string]any{"shares": 2, "cpus": "0-1", "mems": "0"}, "linux", "resources", "cpu")},
		{"network namespace's path", inList(4, "path", "/other", "linux", "namespaces")},
		{"hostname", set("other", "hostname")},
		{"root's path", set("/other", "root", "path")},
		{"source of resolv.conf", inList(6, "source", "/other", "mounts")},
		{"source of hosts", inList(7, "source", "/other", "mounts")},
		{"source of the socket directory", inList(8, "source", "/other", "mounts")},
		{"source of the launcher", inList(9, "source", "/other", "mounts")},
	} {
		got, err := measureEdited(t, v, c.edit)
		if err != nil || got != want {
			t.Errorf("%s: measurement %v, %v; want %v", c.name, got, err, want)
		}
	}
}

func TestEveryOtherChangeIsMeasured(t *testing.T) { eachVersion(t, checkEveryOtherChangeIsMeasured) }

func checkEveryOtherChangeIsMeasured(t *testing.T, v Version) {
	want, err := Expected(v, testImage(t), launcher)
	if err != nil {
		t.Fatal(err)
	}
	cases := []edit{
		{"bind mount over git", appendTo(bind("/tmp/git", "/usr/bin/git"), "mounts")},
		{"ld.so.preload", appendTo(bind("/tmp/x", "/etc/ld.so.preload"), "mounts")},
		{"second mount over the launcher", appendTo(bind("/tmp/x", LauncherPath), "mounts")},
		{"mount removed", drop(6, "mounts")},
		{"writable hosts", inList(7, "options", []any{"bind"}, "mounts")},
		{"launcher not a bind", inList(9, "type", "tmpfs", "mounts")},
		{"source of proc", inList(0, "source", "/x", "mounts")},
		{"mount with an idmap", inList(9, "uidMappings", []any{map[string]any{"hostID": 1}}, "mounts")},
		{"LD_PRELOAD", appendTo("LD_PRELOAD=/x.so", "process", "env")},
		{"GIT_SSL_NO_VERIFY", appendTo("GIT_SSL_NO_VERIFY=1", "process", "env")},
		{"host variable twice", appendTo("CUPEL_CAS_ADDR=rogue:1", "process", "env")},
		{"host variable missing", drop(0, "process", "env")},
		{"host variable without value", set([]any{"CUPEL_CAS_ADDR", "CUPEL_LAS_ADDR=", "CUPEL_CONFIG_ID="}, "process", "env")},
		{"argument", appendTo("-x", "process", "args")},
		{"entrypoint", set([]any{"/bin/sh"}, "process", "args")},
		{"directory", set("/tmp", "process", "cwd")},
		{"user", set(1, "process", "user", "uid")},
		{"group", set(1, "process", "user", "gid")},
		{"additional group", set([]any{4}, "process", "user", "additionalGids")},
		{"terminal", set(true, "process", "terminal")},
		{"new privileges", set(false, "process", "noNewPrivileges")},
		{"rlimit removed", remove("process", "rlimits")},
		{"rlimit added", appendTo(map[string]any{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9}, "process", "rlimits")},
		{"core files", set([]any{map[string]any{"type": "RLIMIT_CORE", "hard": 1 << 30, "soft": 1 << 30}}, "process", "rlimits")},
		{"cores into a pipe", set([]any{map[string]any{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}}, "process", "rlimits")},
		{"oom score", set(500, "process", "oomScoreAdj")},
		{"apparmor", set("x", "process", "apparmorProfile")},
		{"ambient capability", set([]any{"CAP_KILL"}, "process", "capabilities", "ambient")},
		{"capability added", appendTo("CAP_SYS_PTRACE", "process", "capabilities", "bounding")},
		{"capability removed", drop(0, "process", "capabilities", "effective")},
		{"root not read-only", set(false, "root", "readonly")},
		{"hook", set(map[string]any{"prestart": []any{map[string]any{"path": "/x"}}}, "hooks")},
		{"hook in another case", set(map[string]any{"createRuntime": []any{map[string]any{"path": "/x"}}}, "HOOKS")},
		{"empty hooks", set(nil, "hooks")},
		{"annotation", set(map[string]any{"a": "b"}, "annotations")},
		{"domain name", set("x", "domainname")},
		{"version", set("1.2.0", "ociVersion")},
		{"unknown field", set("x", "somethingNew")},
		{"namespace missing", drop(0, "linux", "namespaces")},
		{"pid namespace joined", inList(0, "path", "/proc/1/ns/pid", "linux", "namespaces")},
		{"mount namespace joined", inList(3, "path", "/proc/1/ns/mnt", "linux", "namespaces")},
		{"user namespace", appendTo(map[string]any{"type": "user"}, "linux", "namespaces")},
		{"uid mapping", set([]any{map[string]any{"hostID": 0, "size": 1}}, "linux", "uidMappings")},
		{"masked path removed", drop(3, "linux", "maskedPaths")},
		{"masked paths removed", remove("linux", "maskedPaths")},
		{"read-only path removed", drop(0, "linux", "readonlyPaths")},
		{"sysctl", set("1", "linux", "sysctl", "net.ipv4.ip_forward")},
		{"device", appendTo(map[string]any{"path": "/dev/mem", "type": "c", "major": 1, "minor": 1}, "linux", "devices")},
		{"device access", appendTo(map[string]any{"allow": true, "access": "rwm"}, "linux", "resources", "devices")},
		{"propagation", set("shared", "linux", "rootfsPropagation")},
		{"seccomp off", remove("linux", "seccomp")},
		{"seccomp default", set("SCMP_ACT_ALLOW", "linux", "seccomp", "defaultAction")},
		{"seccomp syscall", appendTo(map[string]any{"names": []any{"bpf"}, "action": "SCMP_ACT_ALLOW"}, "linux", "seccomp", "syscalls")},
		{"seccomp notify", set("/x.sock", "linux", "seccomp", "listenerPath")},
		{"mount label", set("x", "linux", "mountLabel")},
		{"swappiness", set(60, "linux", "resources", "memory", "swappiness")},
		{"oom killer off", set(true, "linux", "resources", "memory", "disableOOMKiller")},
		{"cgroup v2 key", set(map[string]any{"memory.swap.max": "max"}, "linux", "resources", "unified")},
		{"cgroup path of the wrong type", set(7, "linux", "cgroupsPath")},
	}
	seen := map[ident.Measurement]string{want: "the unchanged launch"}
	for _, c := range cases {
		got, err := measureEdited(t, v, c.edit)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if same, ok := seen[got]; ok && same == "the unchanged launch" {
			t.Errorf("%s: same measurement as %s", c.name, same)
		}
		seen[got] = c.name
	}
}

// TestEveryLeafIsMeasuredOrListed changes each scalar of the launched spec in
// turn, so that a field added to the profile can't be forgotten.
func TestEveryLeafIsMeasuredOrListed(t *testing.T) { eachVersion(t, checkEveryLeafIsMeasuredOrListed) }

func checkEveryLeafIsMeasuredOrListed(t *testing.T, v Version) {
	want, err := Expected(v, testImage(t), launcher)
	if err != nil {
		t.Fatal(err)
	}
	free := map[string]bool{
		"/hostname": true, "/root/path": true, "/linux/cgroupsPath": true, "/linux/namespaces/4/path": true,
		"/linux/resources/pids/limit": true, "/linux/resources/cpu/quota": true, "/linux/resources/cpu/period": true, "/linux/resources/cpu/shares": true,
		"/process/env/0": true, "/process/env/1": true, "/process/env/2": true,
		"/mounts/6/source": true, "/mounts/7/source": true, "/mounts/8/source": true, "/mounts/9/source": true,
	}
	refused := map[string]bool{"/linux/resources/memory/limit": true, "/linux/resources/memory/swap": true}
	if v != V1 {
		free["/process/env/3"] = true
	}
	spec, err := parseObject(launched(t, v))
	if err != nil {
		t.Fatal(err)
	}
	leaves := 0
	eachLeaf(spec, "", func(path string) {
		leaves++
		got, err := Measure(canonical(nil, spec), testImage(t), launcher)
		switch {
		case refused[path]:
			if err == nil {
				t.Errorf("%s: accepted", path)
			}
		case err != nil:
			t.Errorf("%s: %v", path, err)
		case (got == want) != free[path]:
			t.Errorf("%s: measured %v, want %v", path, got != want, !free[path])
		}
	})
	if leaves < 300 {
		t.Errorf("walked %d leaves only", leaves)
	}
}

// eachLeaf changes one scalar after the other and calls f while it is changed.
func eachLeaf(v any, path string, f func(path string)) {
	visit := func(key string, old any, put func(any)) {
		switch x := old.(type) {
		case string:
			put(x + "x")
		case json.Number:
			put(json.Number(strings.TrimPrefix(x.String(), "0") + "1"))
		case bool:
			put(!x)
		default:
			eachLeaf(old, path+"/"+key, f)
			return
		}
		f(path + "/" + key)
		put(old)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			visit(k, v[k], func(n any) { v[k] = n })
		}
	case []any:
		for i, e := range v {
			visit(number(int64(i)).String(), e, func(n any) { v[i] = n })
		}
	}
}

func TestImageAndLauncherAreMeasured(t *testing.T) { eachVersion(t, checkImageAndLauncherAreMeasured) }

func checkImageAndLauncherAreMeasured(t *testing.T, v Version) {
	spec, img := launched(t, v), testImage(t)
	base, err := Measure(spec, img, launcher)
	if err != nil {
		t.Fatal(err)
	}
	other := ident.Sum([]byte("other"))
	img2, img3 := img, img
	img2.Config = other
	img3.DiffIDs = []ident.Digest{img.DiffIDs[0], other}
	for name, got := range map[string]func() (ident.Measurement, error){
		"launcher": func() (ident.Measurement, error) { return Measure(spec, img, other) },
		"config":   func() (ident.Measurement, error) { return Measure(spec, img2, launcher) },
		"layers":   func() (ident.Measurement, error) { return Measure(spec, img3, launcher) },
	} {
		if m, err := got(); err != nil || m == base {
			t.Errorf("%s: measurement %v, %v", name, m, err)
		}
	}
	// What the image says about its process reaches the spec.
	for name, change := range map[string]func(*ImageConfig){
		"user":       func(i *ImageConfig) { i.User = "root" },
		"env":        func(i *ImageConfig) { i.Env = append(i.Env, "LD_PRELOAD=/x") },
		"cwd":        func(i *ImageConfig) { i.Cwd = "/" },
		"entrypoint": func(i *ImageConfig) { i.Entrypoint = []string{"/bin/sh"} },
		"cmd":        func(i *ImageConfig) { i.Cmd = nil },
	} {
		changed := img
		change(&changed)
		if m, err := Expected(v, changed, launcher); err != nil || m == base {
			t.Errorf("%s: measurement %v, %v", name, m, err)
		}
	}
}

func TestRefusedSpecs(t *testing.T) { eachVersion(t, checkRefusedSpecs) }

func checkRefusedSpecs(t *testing.T, v Version) {
	good := string(launched(t, v))
	for _, c := range []struct {
		name, spec string
		rule       problem.Rule
	}{
		{"empty", "", "launch_spec"},
		{"not an object", "[]", "launch_spec"},
		{"two objects", good + "{}", "launch_spec"},
		{"duplicate key", strings.Replace(good, `"hostname"`, `"hostname":"a","hostname"`, 1), "launch_spec"},
		{"fraction", strings.Replace(good, `"uid":0`, `"uid":0.5`, 1), "launch_spec"},
		{"not UTF-8", strings.Replace(good, "client-app-1", "\xff", 1), "launch_spec"},
		{"deep", strings.Repeat("[", 100), "launch_spec"},
		{"no memory limit", strings.Replace(good, `"limit":268435456`, `"limit":0`, 1), "memory_limit"},
		{"swap allowed", strings.Replace(good, `"swap":268435456`, `"swap":-1`, 1), "swap_limit"},
		{"more swap", strings.Replace(good, `"swap":268435456`, `"swap":268435457`, 1), "swap_limit"},
		{"swap not said", strings.Replace(good, `"swap":268435456,`, ``, 1), "swap_limit"},
	} {
		if c.spec == good {
			t.Fatalf("%s: the edit did not apply", c.name)
		}
		_, err := Measure([]byte(c.spec), testImage(t), launcher)
		var p *problem.Error
		if !errors.As(err, &p) || p.Rule != c.rule || p.Kind != problem.Invalid {
			t.Errorf("%s: %v, want rule %s", c.name, err, c.rule)
		}
	}
}

func TestParseImageConfig(t *testing.T) {
	img := testImage(t)
	want := ImageConfig{
		Config: ident.Sum([]byte(configJSON)), DiffIDs: img.DiffIDs, User: "1000:1000", Cwd: "/home/client-app",
		Env:        []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"},
		Entrypoint: []string{"/usr/bin/python3"}, Cmd: []string{"-c", "print('<&>')"},
	}
	if diff := cmp.Diff(want, img); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]string{
		"no layers":     `{"config":{}}`,
		"bad digest":    `{"rootfs":{"diff_ids":["sha256:12"]}}`,
		"no algorithm":  `{"rootfs":{"diff_ids":["1111111111111111111111111111111111111111111111111111111111111111"]}}`,
		"windows":       strings.Replace(configJSON, `"linux"`, `"windows"`, 1),
		"twice":         strings.Replace(configJSON, `"User"`, `"User":"0","User"`, 1),
		"user a number": strings.Replace(configJSON, `"1000:1000"`, `1000`, 1),
		"env an object": strings.Replace(configJSON, `["PATH=/usr/bin:/bin", "LANG=C.UTF-8"]`, `{}`, 1),
		"cmd a number":  strings.Replace(configJSON, `"-c"`, `1`, 1),
	} {
		if _, err := ParseImageConfig([]byte(bad)); problem.KindOf(err) != problem.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpecRefusesUnusableImages(t *testing.T) {
	for name, change := range map[string]func(*ImageConfig){
		"environment without value": func(i *ImageConfig) { i.Env = []string{"PATH"} },
		"environment without name":  func(i *ImageConfig) { i.Env = []string{"=x"} },
		"zero byte":                 func(i *ImageConfig) { i.Cmd = []string{"a\x00b"} },
	} {
		img := testImage(t)
		change(&img)
		if _, err := Expected(Newest, img, launcher); problem.KindOf(err) != problem.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Fill(launched(t, Newest), Free{}); err == nil {
		t.Error("filled in without a memory limit")
	}
}

// FuzzMeasure: no panic; what is measured measures the same in canonical form.
func FuzzMeasure(f *testing.F) {
	f.Add([]byte(`{"linux":{"resources":{"memory":{"limit":1,"swap":1}}}}`))
	f.Add([]byte(`{"hooks":null,"process":{"env":["CUPEL_CAS_ADDR=x",1]},"linux":{"resources":{"memory":{"limit":1,"swap":1}},"namespaces":[{"type":"network","path":"x"},3]}}`))
	f.Add(profileV1)
	f.Add(profileV2)
	f.Fuzz(func(t *testing.T, b []byte) {
		img := ImageConfig{DiffIDs: []ident.Digest{{1}}}
		m, err := Measure(b, img, launcher)
		if err != nil {
			return
		}
		spec, err := parseObject(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Measure(canonical(nil, spec), img, launcher); err != nil || again != m {
			t.Fatalf("canonical form measures %v, %v; want %v", again, err, m)
		}
	})
}

func FuzzParseImageConfig(f *testing.F) {
	f.Add([]byte(configJSON))
	f.Fuzz(func(t *testing.T, b []byte) {
		if img, err := ParseImageConfig(b); err == nil {
			_, _ = Expected(Newest, img, launcher)
		}
	})
}
