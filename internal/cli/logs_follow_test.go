package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/httpproblem"
)

// TestFollowedLogsGoOnOverUpdates: whoever follows an app sees what the instances
// write that replace others, is told so, and is told when the app is gone.
func TestFollowedLogsGoOnOverUpdates(t *testing.T) {
	var mu sync.Mutex
	looks := 0
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		looks++
		list := manager.InstanceList{Version: manager.Version, Instances: []manager.Instance{
			{ID: "i-1", App: "shop", AppID: "app-1", Role: "app", Revision: 1, State: "running"},
			{ID: "i-2", App: "shop", AppID: "app-1", Role: "app", Revision: 2, State: map[bool]string{true: "waiting", false: "running"}[looks < 3]},
			{ID: "pull-1", App: "shop", AppID: "app-1", Role: "pull", Revision: 2, State: "exited"},
		}}
		if looks > 6 {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "app", "no app \"shop\""))
			return
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("GET "+manager.PathInstances+"/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(manager.LogLine{Stream: "stdout", Line: "from " + r.PathValue("id"), Instance: r.PathValue("id")})
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()

	var out, errs bytes.Buffer
	f := &follower{
		g: &globals{out: &out, err: &errs, output: "table"}, opts: client.LogOptions{Tail: -1}, role: "app",
		every: time.Millisecond, known: map[string]bool{},
		m: client.NewManager(ident.Address(server.Listener.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum(server.Certificate().Raw)}),
	}
	if err := f.follow(t.Context(), []string{"i-1"}, "shop", false); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"i-1", "i-2"} {
		if n := strings.Count(out.String(), "from "+id+"\n"); n != 1 {
			t.Errorf("%s was shown %d times:\n%s", id, n, out.String())
		}
	}
	if strings.Contains(out.String(), "pull-1") {
		t.Errorf("the puller is shown too:\n%s", out.String())
	}
	for _, want := range []string{"i-2 of revision 2 is followed from now on", "shop was removed: nothing more comes of it"} {
		if strings.Count(errs.String(), want) != 1 {
			t.Errorf("want once %q in:\n%s", want, errs.String())
		}
	}
}

// TestOneRefusedStream: of several instances the others go on, and the refusal is told
// once; where all are refused, it is the end.
func TestOneRefusedStream(t *testing.T) {
	refusal := problem.New(problem.Unavailable, "followers", "2 instances and events are followed already").Want("at most 2").Fix("leave -f out")
	goOn := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-goOn:
			httpproblem.Write(w, "", problem.New(problem.NotFound, "app", "no app \"shop\""))
		default:
			_ = json.NewEncoder(w).Encode(manager.InstanceList{Version: manager.Version})
		}
	})
	refused := 0
	var f *follower
	var mu sync.Mutex
	mux.HandleFunc("GET "+manager.PathInstances+"/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "i-1" {
			httpproblem.Write(w, "", refusal)
			mu.Lock()
			defer mu.Unlock()
			if refused++; refused == 2 {
				close(goOn)
			}
			return
		}
		w.(http.Flusher).Flush()
		<-goOn
		f.await(r, 1)
		_ = json.NewEncoder(w).Encode(manager.LogLine{Stream: "stdout", Line: "after the refusals", Instance: "i-1"})
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	follow := func(ids ...string) (out, errs bytes.Buffer, err error) {
		m := client.NewManager(ident.Address(server.Listener.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum(server.Certificate().Raw)})
		defer m.Close()
		f = &follower{
			g: &globals{out: &out, err: &errs, output: "table"}, opts: client.LogOptions{Tail: -1}, role: "app",
			every: time.Millisecond, known: map[string]bool{}, m: m,
		}
		err = f.follow(t.Context(), ids, "shop", false)
		return out, errs, err
	}

	out, errs, err := follow("i-1", "i-2", "i-3")
	if err != nil || !strings.Contains(out.String(), "after the refusals") {
		t.Errorf("%v: %s", err, out.String())
	}
	if strings.Count(errs.String(), "is not followed, the others go on: followers: 2 instances") != 1 {
		t.Errorf("told: %s", errs.String())
	}
	if _, _, err := follow("i-4"); problem.From(err).Rule != "followers" {
		t.Errorf("all refused: %v", err)
	}
}

// TestUnreadLogs: where the reader of the output went away, whatever shows logs ends with
// 141 and without a word: with each of several instances, as text and as JSON, and while
// none of them writes.
func TestUnreadLogs(t *testing.T) {
	mux := http.NewServeMux()
	var quiet atomic.Bool
	mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(manager.InstanceList{Version: manager.Version})
	})
	mux.HandleFunc("GET "+manager.PathInstances+"/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		if !quiet.Load() {
			_ = json.NewEncoder(w).Encode(manager.LogLine{Stream: "stdout", Line: "a line", Instance: r.PathValue("id")})
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	defer server.CloseClientConnections()

	defer noteClosedPipe()()
	for _, output := range []string{"table", "json"} {
		for _, silent := range []bool{false, true} {
			quiet.Store(silent)
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			_ = read.Close()
			var errs bytes.Buffer
			g := &globals{out: write, err: &errs, output: output}
			m := client.NewManager(ident.Address(server.Listener.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum(server.Certificate().Raw)})
			f := &follower{g: g, opts: client.LogOptions{Tail: -1}, role: "app", every: time.Millisecond, known: map[string]bool{}, m: m}
			follow := func(ctx context.Context) error { return f.follow(ctx, []string{"i-1", "i-2"}, "shop", false) }
			if silent {
				err = g.whileRead(t.Context(), follow)
			} else {
				err = follow(t.Context())
			}
			_ = write.Close()
			m.Close()
			if code := g.fail(err); code != closedPipeCode || errs.String() != "" {
				t.Errorf("%s, silent %t: exit %d, %q (%v)", output, silent, code, errs.String(), err)
			}
		}
	}
}

// await returns when so many streams go on.
func (f *follower) await(r *http.Request, streams int) {
	for r.Context().Err() == nil {
		f.mu.Lock()
		n := f.follows
		f.mu.Unlock()
		if n == streams {
			return
		}
		runtime.Gosched()
	}
}

// TestNobodyIsFollowedAnyMore: a stream that ended, or is of an instance that is gone,
// is no other that goes on. Where one ends, those that were refused are tried again.
func TestNobodyIsFollowedAnyMore(t *testing.T) {
	for name, first := range map[string]struct {
		gone, before bool // i-1 isn't there; it ends before i-2 is refused
		tries        int  // to follow i-2
	}{
		"gone before":  {gone: true, before: true, tries: 1},
		"ended before": {before: true, tries: 1},
		"gone after":   {gone: true, tries: 2},
		"ended after":  {tries: 2},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			f := &follower{g: &globals{out: &out, err: &errs, output: "table"}, role: "app", every: time.Millisecond, known: map[string]bool{}}
			tries := atomic.Int32{}
			mux := http.NewServeMux()
			mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(manager.InstanceList{Version: manager.Version, Instances: []manager.Instance{
					{ID: "i-2", App: "shop", AppID: "app-1", Role: "app", Revision: 1, State: "running"},
				}})
			})
			mux.HandleFunc("GET "+manager.PathInstances+"/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
				mine := r.PathValue("id") == "i-1"
				if mine != first.before && (mine || tries.Load() == 0) {
					f.await(r, 1) // the other is over
				}
				switch {
				case !mine:
					tries.Add(1)
					httpproblem.Write(w, "", problem.New(problem.Unavailable, "followers", "2 are followed already"))
				case first.gone:
					httpproblem.Write(w, "", problem.New(problem.NotFound, "instance", "gone"))
				}
			})
			server := httptest.NewTLSServer(mux)
			defer server.Close()
			f.m = client.NewManager(ident.Address(server.Listener.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum(server.Certificate().Raw)})
			defer f.m.Close()
			ctx, end := context.WithTimeout(t.Context(), time.Minute)
			defer end()
			if err := f.follow(ctx, []string{"i-1", "i-2"}, "shop", false); problem.From(err).Rule != "followers" || ctx.Err() != nil {
				t.Errorf("%v; told: %s", err, errs.String())
			}
			if n := int(tries.Load()); n != first.tries {
				t.Errorf("i-2 was tried %d times, want %d", n, first.tries)
			}
			if told := strings.Contains(errs.String(), "the others go on"); told == first.before {
				t.Errorf("told: %s", errs.String())
			}
		})
	}
}

// TestLogsOfAnAppThatNeverRan: where there was only a pull, its output is what is to be
// read.
func TestLogsOfAnAppThatNeverRan(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(manager.InstanceList{Version: manager.Version, Instances: []manager.Instance{
			{ID: "pull-1", App: "shop", AppID: "app-1", Role: "pull", Revision: 1, State: "exited"},
		}})
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	m := client.NewManager(ident.Address(server.Listener.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum(server.Certificate().Raw)})
	defer m.Close()

	o := logsOptions{ref: "shop"}
	_, err := o.instances(t.Context(), m)
	if p := problem.From(err); p == nil || p.Rule != "logs" || !strings.Contains(p.Mend, "cupel logs shop --puller") {
		t.Errorf("%+v", err)
	}
	o.puller = true
	if ids, err := o.instances(t.Context(), m); err != nil || len(ids) != 1 {
		t.Errorf("%v, %v", ids, err)
	}
}

// TestLogsOfANameThatTwoKeysHave: the lines of one owner's app aren't mixed with another's.
func TestLogsOfANameThatTwoKeysHave(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(manager.InstanceList{Version: manager.Version, Instances: []manager.Instance{
			{ID: "i-1", App: "shop", AppID: "app-1", Role: "app", Revision: 1, State: "running"},
			{ID: "i-2", App: "shop", AppID: "app-2", Role: "app", Revision: 1, State: "running"},
		}})
	})
	mine := false // the caller has one of the two
	mux.HandleFunc("GET "+manager.PathApps+"/shop", func(w http.ResponseWriter, _ *http.Request) {
		if !mine {
			httpproblem.Write(w, "", problem.New(problem.Conflict, "app_name_ambiguous", "2 keys have an app"))
			return
		}
		_ = json.NewEncoder(w).Encode(manager.App{ID: "app-2", Name: "shop", Session: "shop"})
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	m := client.NewManager(ident.Address(server.Listener.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum(server.Certificate().Raw)})
	defer m.Close()

	look := func(ref string) ([]string, error) {
		o := logsOptions{ref: ref}
		return o.instances(t.Context(), m)
	}
	if ids, err := look("shop"); problem.KindOf(err) != problem.Conflict {
		t.Errorf("%v, %v", ids, err)
	}
	mine = true
	for ref, want := range map[string]string{"shop": "i-2", "app-1": "i-1", "i-1": "i-1"} {
		if ids, err := look(ref); err != nil || len(ids) != 1 || ids[0] != want {
			t.Errorf("%s: %v, %v; want %s", ref, ids, err, want)
		}
	}
}
