// Command launcher stands in for cupel-init in the node's tests: what it does
// is the service's name in its config id.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/instance/launcher"
	"cupel.dev/cupel/internal/trusted/instance/node"
	"cupel.dev/cupel/internal/trusted/wire"
)

const sockets = "/run/cupel/"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		socket := sockets + wire.Socket
		if len(os.Args) > 2 {
			socket = os.Args[2]
		}
		fmt.Println("child:", ask(socket))
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "app" {
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		<-term
		fmt.Println("app: bye")
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "launcher:", err)
		os.Exit(1)
	}
}

func run() error {
	launcher.KeepOutput()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	own := node.NewNode(sockets + wire.NodeSocket)
	ctx := context.Background()
	// Best effort, as cupel-init's: an instance outlives a node that dies while
	// it answers.
	report := func(p wire.Phase) {
		if _, err := own.Report(ctx, wire.Status{Phase: p, InstanceID: ident.KeyHash{7}}); err != nil {
			fmt.Println("report:", err)
		}
	}
	report(wire.Attested)
	id, err := ident.ParseServiceRef(os.Getenv("CUPEL_CONFIG_ID"))
	if err != nil {
		return err
	}
	fmt.Println("args:", strings.Join(os.Args, " "))
	switch id.Service {
	case "quote":
		fmt.Println("launcher:", ask(sockets+wire.Socket))
		out, err := exec.Command("/proc/self/exe", "child").Output()
		if err != nil {
			return err
		}
		os.Stdout.Write(out)
	case "quotes":
		go func() {
			for range time.Tick(50 * time.Millisecond) {
				fmt.Printf("again: %.5s\n", ask(sockets+wire.Socket))
			}
		}()
	case "serve":
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(l, http.NotFoundHandler()) }()
	case "count":
		go func() {
			for i := 0; ; i++ {
				fmt.Println("line", i)
				time.Sleep(2 * time.Millisecond)
			}
		}()
	case "app":
		app := exec.Command("/proc/self/exe", "app")
		app.Stdout = os.Stdout
		if err := app.Start(); err != nil {
			return err
		}
		defer func() {
			_ = app.Process.Signal(syscall.SIGTERM)
			_ = app.Wait()
		}()
	case "oom":
		report(wire.Running)
		var hog [][]byte
		for {
			b := bytes.Repeat([]byte{1}, 4<<20)
			hog = append(hog, b)
			fmt.Println("MiB", 4*len(hog))
		}
	case "exit":
		os.Exit(7)
	case "volume":
		if err := tryVolume(ctx, own); err != nil {
			return err
		}
	case "deny":
		deny()
	}
	report(wire.Running)
	<-term
	fmt.Println("bye")
	return nil
}

// ask requests evidence and tells what came.
func ask(socket string) string {
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	body, _ := json.Marshal(wire.QuoteRequest{Version: 1, ReportData: evidence.Data64{42}})
	resp, err := client.Post("http://las"+wire.PathQuote, "application/json", bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	var e evidence.Evidence
	if resp.StatusCode == http.StatusOK && json.Unmarshal(b, &e) == nil {
		return fmt.Sprintf("quote %x", e.Quote)
	}
	return string(b)
}

func tryVolume(ctx context.Context, own *node.Node) error {
	id := ident.Sum([]byte("volume"))
	at := func(g uint64) wire.Snapshot {
		return wire.Snapshot{Volume: id, Generation: g, Tag: ident.Digest{byte(g)}}
	}
	if _, _, err := own.Get(ctx, at(1)); err == nil {
		return errors.New("a volume that nobody stored")
	}
	for g := uint64(1); g <= 3; g++ {
		if err := own.Put(ctx, id, g, strings.NewReader(fmt.Sprint("generation ", g)), func() ident.Digest { return at(g).Tag }); err != nil {
			return err
		}
	}
	for g := uint64(1); g <= 3; g++ {
		r, _, err := own.Get(ctx, at(g))
		if err != nil {
			fmt.Println("get", g, "missing")
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		fmt.Println("get", g, string(b))
	}
	return nil
}

// deny tries what the launch profile forbids.
func deny() {
	try := func(what string, f func() error) { fmt.Println("deny:", what, f()) }
	errno := func(no uintptr, args ...uintptr) func() error {
		return func() error {
			args = append(args, 0, 0, 0)
			if _, _, e := syscall.RawSyscall(no, args[0], args[1], args[2]); e != 0 {
				return e
			}
			return nil
		}
	}
	try("unshare user namespace", errno(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER))
	try("ptrace", errno(syscall.SYS_PTRACE, 0))
	try("bpf", errno(321))
	try("keyctl", errno(250))
	try("init_module", errno(175))
	try("clone3", errno(435))
	try("mknod", func() error { return syscall.Mknod("/dev/x", syscall.S_IFCHR|0o600, 0x101) })
	try("write to root", func() error { return os.WriteFile("/x", nil, 0o600) })
	try("write to the sockets", func() error { return os.WriteFile("/run/cupel/x", nil, 0o600) })
	try("unshare mount namespace", errno(syscall.SYS_UNSHARE, syscall.CLONE_NEWNS))
	try("mount tmpfs", func() error { return syscall.Mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=1m") })
}
