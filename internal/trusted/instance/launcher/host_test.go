package launcher

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

func wantRule(t testing.TB, err error, rule problem.Rule) {
	t.Helper()
	switch {
	case rule == "" && err != nil:
		t.Errorf("refused: %v", err)
	case rule != "" && (err == nil || problem.From(err).Rule != rule):
		t.Errorf("got %v, want rule %s", err, rule)
	}
}

func TestParseHost(t *testing.T) {
	const cas, las, id = "CUPEL_CAS_ADDR=cas:1", "CUPEL_LAS_ADDR=unix:/run/cupel/las.sock", "CUPEL_CONFIG_ID=a/b/c"
	cases := map[string]struct {
		env  []string
		rule problem.Rule
		cas  string
	}{
		"three":              {[]string{cas, las, id}, "", "cas:1"},
		"home":               {[]string{cas, las, id, "HOME=/root"}, "", "cas:1"},
		"default port":       {[]string{"CUPEL_CAS_ADDR=cas", las, id}, "", "cas:18765"},
		"default port v6":    {[]string{"CUPEL_CAS_ADDR=fd00::1", las, id}, "", "[fd00::1]:18765"},
		"alias":              {[]string{"SCONE_CAS_ADDR=x:2", las, "SCONE_CONFIG_ID=a/b"}, "", "x:2"},
		"equal alias":        {[]string{cas, "SCONE_CAS_ADDR=cas:1", las, id}, "", "cas:1"},
		"unequal alias":      {[]string{cas, "SCONE_CAS_ADDR=evil:1", las, id}, "host_environment", ""},
		"twice":              {[]string{cas, "CUPEL_CAS_ADDR=evil:1", las, id}, "host_environment", ""},
		"preload":            {[]string{cas, las, id, "LD_PRELOAD=/x"}, "host_environment", ""},
		"path":               {[]string{cas, las, id, "PATH=/x"}, "host_environment", ""},
		"missing":            {[]string{cas, las}, "host_environment", ""},
		"empty":              {nil, "host_environment", ""},
		"no name":            {[]string{cas, las, id, "=x"}, "host_environment", ""},
		"bad config id":      {[]string{cas, las, "CUPEL_CONFIG_ID=only-one"}, "config_id", ""},
		"grant":              {[]string{cas, las, id, "CUPEL_GRANT=t0ken"}, "", "cas:1"},
		"no grant":           {[]string{cas, las, id, "CUPEL_GRANT="}, "", "cas:1"},
		"grant's alias":      {[]string{cas, las, id, "SCONE_GRANT=t0ken"}, "host_environment", ""},
		"two grants":         {[]string{cas, las, id, "CUPEL_GRANT=a", "CUPEL_GRANT=b"}, "host_environment", ""},
		"long grant":         {[]string{cas, las, id, "CUPEL_GRANT=" + strings.Repeat("x", 513)}, "grant_form", ""},
		"grant of lines":     {[]string{cas, las, id, "CUPEL_GRANT=t0\nken"}, "grant_form", ""},
		"grant of words":     {[]string{cas, las, id, "CUPEL_GRANT=t0 ken"}, "grant_form", ""},
		"grant beyond ASCII": {[]string{cas, las, id, "CUPEL_GRANT=t0kën"}, "grant_form", ""},
		"LAS over TCP":       {[]string{cas, "CUPEL_LAS_ADDR=las:18766", id}, "las_address", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h, err := ParseHost(c.env)
			wantRule(t, err, c.rule)
			if h.CAS != c.cas {
				t.Errorf("CAS %q, want %q", h.CAS, c.cas)
			}
			if strings.Contains(fmt.Sprintf("%+v %v", h, err), "t0k") {
				t.Errorf("a grant is shown: %+v, %v", h, err)
			}
			if slices.Contains(c.env, "CUPEL_GRANT=t0ken") && string(h.Grant.Reveal()) != "t0ken" {
				t.Error("the grant was lost")
			}
		})
	}
}

func TestParseCommand(t *testing.T) {
	got, err := ParseCommand([]string{"--user", "app:1", "--cwd", "/x", "--env", "A=1", "--env", "B=", "--", "--user", "-x"})
	want := Command{User: "app:1", Cwd: "/x", Env: []string{"A=1", "B="}, Argv: []string{"--user", "-x"}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
	if c, err := ParseCommand([]string{"--"}); err != nil || len(c.Argv) != 0 || c.Cwd != "/" {
		t.Error(c, err)
	}
	for _, args := range [][]string{nil, {"--user"}, {"--user", "x"}, {"--cwd", "rel", "--"}, {"--env", "novalue", "--"}, {"--other", "x", "--"}, {"cmd"}} {
		_, err := ParseCommand(args)
		wantRule(t, err, "arguments")
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"A=1", "B=2"}, []string{"B=3", "C=4", "C=5"})
	if d := cmp.Diff([]string{"A=1", "B=3", "C=5"}, got); d != "" {
		t.Error(d)
	}
}

func TestNewPlan(t *testing.T) {
	image := Command{Cwd: "/srv", Env: []string{"PATH=/bin", "A=image"}, Argv: []string{"img"}}
	user := appUser{UID: 1, GID: 2, Home: "/home/u"}
	key := make([]byte, 32)
	cases := map[string]struct {
		reply wire.ReleaseReply
		rule  string
	}{
		"image's own":     {wire.ReleaseReply{}, ""},
		"files":           {wire.ReleaseReply{Files: []wire.File{{Path: "/run/cupel/x", Mode: 0o400}}}, ""},
		"volume":          {wire.ReleaseReply{Volumes: []wire.Volume{{Path: "/v", Key: key, Access: owners.ReadOnly}}}, ""},
		"relative file":   {wire.ReleaseReply{Files: []wire.File{{Path: "x"}}}, "release_content"},
		"unclean file":    {wire.ReleaseReply{Files: []wire.File{{Path: "/a/../b"}}}, "release_content"},
		"file in proc":    {wire.ReleaseReply{Files: []wire.File{{Path: "/proc/sys/x"}}}, "release_content"},
		"file in dev":     {wire.ReleaseReply{Files: []wire.File{{Path: "/dev/x"}}}, "release_content"},
		"root as a file":  {wire.ReleaseReply{Files: []wire.File{{Path: "/"}}}, "release_content"},
		"set-id file":     {wire.ReleaseReply{Files: []wire.File{{Path: "/x", Mode: 0o4755}}}, "release_content"},
		"file twice":      {wire.ReleaseReply{Files: []wire.File{{Path: "/x"}, {Path: "/x"}}}, "release_content"},
		"volume at root":  {wire.ReleaseReply{Volumes: []wire.Volume{{Path: "/", Key: key, Access: owners.ReadOnly}}}, "release_content"},
		"volume at sys":   {wire.ReleaseReply{Volumes: []wire.Volume{{Path: "/sys", Key: key, Access: owners.ReadOnly}}}, "release_content"},
		"short key":       {wire.ReleaseReply{Volumes: []wire.Volume{{Path: "/v", Key: key[:5], Access: owners.ReadOnly}}}, "release_content"},
		"unknown access":  {wire.ReleaseReply{Volumes: []wire.Volume{{Path: "/v", Key: key, Access: "x"}}}, "release_content"},
		"relative cwd":    {wire.ReleaseReply{Cwd: "x"}, "release_content"},
		"odd environment": {wire.ReleaseReply{Env: []string{"novalue"}}, "release_content"},
		"zero in argv":    {wire.ReleaseReply{Argv: []string{"a\x00b"}}, "release_content"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := newPlan(image, &c.reply, user)
			wantRule(t, err, problem.Rule(c.rule))
			if err == nil {
				if d := cmp.Diff([]string{"PATH=/bin", "HOME=/home/u", "A=image"}, p.Env); d != "" || p.Cwd != "/srv" || p.Argv[0] != "img" {
					t.Error(d, p)
				}
			}
		})
	}
	_, err := newPlan(Command{Cwd: "/"}, &wire.ReleaseReply{}, user)
	wantRule(t, err, RuleNotFound)
}

func TestLookupUser(t *testing.T) {
	root := fstest.MapFS{
		"etc/passwd": {Data: []byte("# comment\nroot:x:0:0:root:/root:/bin/sh\nbad line\napp:x:1500:1600::/home/app:/bin/sh\nnohome:x:7:7:::\n")},
		"etc/group":  {Data: []byte("root:x:0:\napp:x:1600:app\nextra:x:1700:other,app\nlast:x:1800:\n")},
	}
	cases := []struct {
		spec string
		want appUser
		rule problem.Rule
	}{
		{"", appUser{0, 0, []int{0}, "/root"}, ""},
		{"root", appUser{0, 0, []int{0}, "/root"}, ""},
		{"app", appUser{1500, 1600, []int{1600, 1700}, "/home/app"}, ""},
		{"1500", appUser{1500, 1600, []int{1600, 1700}, "/home/app"}, ""},
		{"app:last", appUser{1500, 1800, []int{1800}, "/home/app"}, ""},
		{"app:99", appUser{1500, 99, []int{99}, "/home/app"}, ""},
		{"4000", appUser{4000, 0, []int{0}, "/"}, ""},
		{"4000:4001", appUser{4000, 4001, []int{4001}, "/"}, ""},
		{"nohome", appUser{7, 7, []int{7}, "/"}, ""},
		{"nobody", appUser{}, "image_user"},
		{"app:nogroup", appUser{}, "image_user"},
		{"-1", appUser{}, "image_user"},
		{"4294967295", appUser{}, "image_user"},
		{"app:4294967295", appUser{}, "image_user"},
	}
	for _, c := range cases {
		t.Run(c.spec, func(t *testing.T) {
			got, err := lookupUser(root, c.spec)
			wantRule(t, err, c.rule)
			if d := cmp.Diff(c.want, got); err == nil && d != "" {
				t.Error(d)
			}
		})
	}
	if u, err := lookupUser(fstest.MapFS{}, "12:13"); err != nil || u.UID != 12 || u.GID != 13 {
		t.Errorf("an image without users: %+v %v", u, err)
	}
}

func TestMountinfo(t *testing.T) {
	const good = `69 50 0:40 / / ro,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b
70 69 0:41 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
71 69 0:42 / /dev rw,nosuid shared:7 master:3 - tmpfs tmpfs rw,size=65536k
72 71 0:43 / /dev/pts rw - devpts devpts rw
73 71 0:44 / /dev/shm rw - tmpfs shm rw
74 71 0:45 / /dev/mqueue rw - mqueue mqueue rw
75 69 0:46 / /sys ro,nosuid - sysfs sysfs ro
76 69 254:0 /s/resolv.conf /etc/resolv.conf ro - ext4 /dev/vda rw
77 69 254:0 /s/hosts /etc/hosts ro - ext4 /dev/vda rw
78 69 254:0 /s/with\040space /run/cupel ro - ext4 /dev/vda rw
79 69 254:0 /s/cupel-init /cupel-init ro - ext4 /dev/vda rw
80 70 0:41 /sys /proc/sys ro - proc proc rw
81 70 0:42 /null /proc/kcore rw - tmpfs tmpfs rw
82 70 0:50 / /proc/acpi ro - tmpfs tmpfs ro
83 75 0:51 / /sys/firmware ro - tmpfs tmpfs ro
84 70 0:5 /null /proc/keys rw - devtmpfs devtmpfs rw
`
	cases := map[string]struct {
		text string
		rule problem.Rule
	}{
		"profile":              {good, ""},
		"over a program":       {good + "90 69 254:0 /x /usr/bin/git ro - ext4 /dev/vda rw\n", "unexpected_mount"},
		"preload":              {good + "90 69 254:0 /x /etc/ld.so.preload ro - ext4 /dev/vda rw\n", "unexpected_mount"},
		"hosts twice":          {good + "90 69 254:0 /x /etc/hosts ro - ext4 /dev/vda rw\n", "unexpected_mount"},
		"root twice":           {good + "90 69 254:0 / / ro - ext4 /dev/vda rw\n", "unexpected_mount"},
		"mask with content":    {good + "90 70 254:0 /x /proc/scsi ro - ext4 /dev/vda rw\n", "unexpected_mount"},
		"mask is another file": {good + "90 70 0:41 /1/environ /proc/scsi ro - proc proc rw\n", "unexpected_mount"},
		"cgroups":              {good + "90 75 0:60 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "unexpected_mount"},
		"in proc":              {good + "90 70 254:0 /x /proc/self ro - ext4 /dev/vda rw\n", "unexpected_mount"},
		"fake proc":            {strings.Replace(good, "- proc proc rw\n71", "- tmpfs proc rw\n71", 1), "unexpected_mount"},
		"part of proc":         {strings.Replace(good, "0:41 / /proc", "0:41 /1 /proc", 1), "unexpected_mount"},
		"writable root":        {strings.Replace(good, "/ / ro,", "/ / rw,", 1), "unexpected_mount"},
		"writable hosts":       {strings.Replace(good, "/etc/hosts ro", "/etc/hosts rw", 1), "unexpected_mount"},
		"trick with escapes":   {strings.Replace(good, "/run/cupel ro", `/usr\057bin ro`, 1), "unexpected_mount"},
		"no proc":              {strings.Replace(good, " /proc rw", " /dev/pts2 rw", 1), "unexpected_mount"},
		"empty":                {"", "unexpected_mount"},
		"garbage":              {"hello\n", "mountinfo"},
		"no separator":         {"1 2 3 4 5 6 7 8 9\n", "mountinfo"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			mounts, err := parseMountinfo(c.text)
			if err == nil {
				err = checkMounts(mounts)
			}
			wantRule(t, err, c.rule)
		})
	}
	mounts, err := parseMountinfo(good)
	if err != nil || mounts[9].root != "/s/with space" {
		t.Errorf("%q %v", mounts[9].root, err)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("69 50 0:40 / / ro,relatime - overlay overlay rw\n")
	f.Add(`1 2 3 /\040 /\9 - - -`)
	f.Add("1 2 3 4 5 6 - x")
	f.Fuzz(func(t *testing.T, text string) {
		if mounts, err := parseMountinfo(text); err == nil {
			_ = checkMounts(mounts)
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add("CUPEL_CONFIG_ID=a/b@c")
	f.Fuzz(func(t *testing.T, e string) {
		h, err := ParseHost([]string{"CUPEL_CAS_ADDR=c", "CUPEL_LAS_ADDR=unix:/x", e})
		if err == nil {
			if _, err := ident.ParseServiceRef(h.Config.String()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestFirstWordMayBeASecret: what the launcher writes the host reads, and who
// writes TOKEN=… before a command, as for a shell, made a secret its first word.
func TestFirstWordMayBeASecret(t *testing.T) {
	for _, cause := range []error{unix.ENOENT, unix.EACCES, unix.EIO} {
		err := execError("ACCESS_TOKEN=ghp_MYREALTOKEN123", cause)
		if err == nil || strings.Contains(err.Error(), "MYREALTOKEN") || !strings.Contains(err.Error(), "the service's environment)") {
			t.Errorf("%v: %v", cause, err)
		}
	}
	if err := execError("python4", unix.ENOENT); !strings.Contains(err.Error(), `no command "python4"`) {
		t.Error(err)
	}
}

// TestTooBigToStart: the kernel refuses what a session may say, and the session's owner is
// told so.
func TestTooBigToStart(t *testing.T) {
	for _, c := range []*exec.Cmd{
		{Path: "/bin/true", Args: []string{"true", strings.Repeat("x", 128<<10)}},
		{Path: "/bin/true", Args: []string{"true"}, Env: []string{"KEY=" + strings.Repeat("x", 128<<10)}},
	} {
		err := startError("true", "/bin/true", errors.Unwrap(c.Run()))
		if p := problem.From(err); p.Kind != problem.Invalid || p.Rule != RuleNotExecutable || !strings.Contains(p.Expected, "128 KiB") || p.Mend == "" {
			t.Errorf("%v", err)
		}
	}
}

// A script is there whose interpreter isn't: the kernel itself says so of both with one
// word.
func TestInterpreterIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"#!/bin/no-such-shell\nexit\n":    `is there, but the instance does not have its interpreter "/bin/no-such-shell" (`,
		"#! /no/such/env python3\n":       `interpreter "/no/such/env" (`,
		"#!/bin/sh\r\nexit\r\n":           "interpreter \"/bin/sh\" with a carriage return",
		"#!/no/such/TOKEN=hunter2 x\nx\n": "the loader or interpreter that it names",
	} {
		file := filepath.Join(t.TempDir(), "script.sh")
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		cause := errors.Unwrap(exec.Command(file).Run())
		err := startError(file, file, cause)
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || problem.From(err).Rule != RuleNotFound {
			t.Errorf("%q: %v: %v", text, cause, err)
		}
	}
	if err := startError("sh", "/bin/sh", unix.EACCES); problem.From(err).Rule != RuleNotExecutable {
		t.Error(err)
	}
}
