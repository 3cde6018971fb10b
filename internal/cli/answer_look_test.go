package cli

import (
	"net"
	"testing"
	"time"
)

// TestLookAtWhatStarts: what closes the first connections and then answers, as a balancer
// that starts again, is judged by its answer.
func TestLookAtWhatStarts(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if n > 2 {
				_, _ = conn.Write([]byte("220 ready\r\n"))
			}
			_ = conn.Close()
		}
	}()
	g := &globals{wait: 10 * time.Second}
	if f := g.lookAt(t.Context(), &appProbe{address: ln.Addr().String(), session: "shop", now: time.Now()}); f.kind != answersOther {
		t.Errorf("%+v", f)
	}
}
