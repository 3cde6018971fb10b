package castest

import (
	"bytes"
	"crypto/x509"
	"sync/atomic"
	"time"
)

type atomicDuration struct{ v atomic.Int64 }

func (d *atomicDuration) get() time.Duration  { return time.Duration(d.v.Load()) }
func (d *atomicDuration) set(x time.Duration) { d.v.Store(int64(x)) }

func certs(c ...*x509.Certificate) []*x509.Certificate { return c }

func contains(b []byte, s string) bool { return bytes.Contains(b, []byte(s)) }
