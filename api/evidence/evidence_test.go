package evidence_test

import (
	"encoding/json"
	"strings"
	"testing"

	"cupel.dev/cupel/api/evidence"
)

// stored is what a CAS keeps of an instance that was released before the fields
// of SGXFields were kept.
const stored = `{"type":"sgx","measurement":"` + digest + `","signer":"` + digest + `","product_id":1,"svn":2,` +
	`"config_id":"` + digest + digest + `","report_data":"` + digest + digest + `","debug":true,"simulated":true,"root":"` + digest + `",` +
	`"fmspc":"53494d554c41","tcb_status":"UpToDate","tcb_date":"2024-03-13T00:00:00Z","collateral_issued":"2026-11-21T11:59:00Z",` +
	`"collateral_expires":"2026-12-21T11:59:00Z","evaluation_number":17,"issued":{"tcb_info":"2026-11-21T11:59:00Z"}}`

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestStoredClaimsStayReadable: and they are written as they were, without
// fields that nobody looked at.
func TestStoredClaimsStayReadable(t *testing.T) {
	var c evidence.Claims
	if err := json.Unmarshal([]byte(stored), &c); err != nil {
		t.Fatal(err)
	}
	if c.SGX != nil || !c.Debug || c.SVN != 2 {
		t.Errorf("read as %+v", c)
	}
	if b, err := json.Marshal(c); err != nil || string(b) != stored {
		t.Errorf("written as %s, %v", b, err)
	}
}

func TestSGXFieldsText(t *testing.T) {
	c := evidence.Claims{SGX: &evidence.SGXFields{
		Attributes: 0x15,
		XFRM:       0x80000000000000e7,
		MiscSelect: 0x01020304,
	}}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	const want = `"sgx":{"attributes":"0x0000000000000015","xfrm":"0x80000000000000e7","misc_select":"0x01020304"}`
	if !strings.Contains(string(b), want) {
		t.Errorf("%s, want %s", b, want)
	}
	var again evidence.Claims
	if err := json.Unmarshal(b, &again); err != nil || *again.SGX != *c.SGX {
		t.Errorf("read as %+v, %v", again.SGX, err)
	}

	for _, text := range []string{`"0x15"`, `"0000000000000015"`, `"0x000000000000001g"`, `"0x00000000000000015"`, `"0x+00000000000001"`, `"0x_0000000000000_"`, `21`} {
		if err := json.Unmarshal([]byte(text), new(evidence.Bits64)); err == nil {
			t.Errorf("%s taken for a field of 64 bits", text)
		}
	}
}
