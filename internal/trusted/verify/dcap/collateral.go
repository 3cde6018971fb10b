package dcap

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Collateral is what the platform's maker published about it: the nine strings
// of Intel's sgx_ql_qve_collateral_t. Chains are PEM, revocation lists and
// signatures (r||s) lower-case hex; TCBInfo and QEIdentity are the exact texts
// that were signed.
type Collateral struct {
	PCKCRLIssuerChain     string `json:"pck_crl_issuer_chain"` // may be empty: the PCK chain's own CA
	RootCACRL             string `json:"root_ca_crl"`
	PCKCRL                string `json:"pck_crl"`
	TCBInfoIssuerChain    string `json:"tcb_info_issuer_chain"`
	TCBInfo               string `json:"tcb_info"`
	TCBInfoSignature      string `json:"tcb_info_signature"`
	QEIdentityIssuerChain string `json:"qe_identity_issuer_chain"`
	QEIdentity            string `json:"qe_identity"`
	QEIdentitySignature   string `json:"qe_identity_signature"`
}

const maxCollateralLen = 1 << 20

// ParseCollateral reads the JSON form strictly: exactly these nine names, each
// once, all but the first not empty, and nothing after.
func ParseCollateral(b []byte) (*Collateral, error) {
	if len(b) == 0 {
		return nil, malformed(ruleCollateralFormat, "the evidence carries no collateral").Want("the nine strings of a DCAP collateral")
	}
	if len(b) > maxCollateralLen {
		return nil, malformed(ruleCollateralFormat, "collateral of %d bytes", len(b)).Want("at most %d", maxCollateralLen)
	}

	c := new(Collateral)
	if err := c.read(b); err != nil {
		return nil, malformed(ruleCollateralFormat, "collateral: %w", err)
	}
	return c, nil
}

func (c *Collateral) read(b []byte) error {
	fields := map[string]*string{
		"pck_crl_issuer_chain": &c.PCKCRLIssuerChain, "root_ca_crl": &c.RootCACRL, "pck_crl": &c.PCKCRL,
		"tcb_info_issuer_chain": &c.TCBInfoIssuerChain, "tcb_info": &c.TCBInfo, "tcb_info_signature": &c.TCBInfoSignature,
		"qe_identity_issuer_chain": &c.QEIdentityIssuerChain, "qe_identity": &c.QEIdentity, "qe_identity_signature": &c.QEIdentitySignature,
	}

	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}

	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)

		field, ok := fields[name]
		if !ok {
			return fmt.Errorf("unknown name %.60q, or one that comes twice", name)
		}
		delete(fields, name)

		if t, err = d.Token(); err != nil {
			return err
		}
		if *field, ok = t.(string); !ok {
			return fmt.Errorf("%s is not a string", name)
		}
	}

	if _, err := d.Token(); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("text after the JSON object")
	}

	if len(fields) != 0 {
		return fmt.Errorf("without %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	if c.RootCACRL == "" || c.PCKCRL == "" || c.TCBInfo == "" || c.QEIdentity == "" {
		return errors.New("an empty revocation list, TCB info or QE identity")
	}
	return nil
}

// decodeHex reads lower-case hex only, so that a text has one reading and a
// reading one text.
func decodeHex(s string) ([]byte, error) {
	switch {
	case strings.Contains(s, "-----BEGIN"):
		return nil, errors.New("it is in PEM, where DER in lower-case hex digits belongs")
	case strings.HasPrefix(s, "MI"): // how base64 of a long DER sequence begins
		return nil, errors.New("it is in base64, where lower-case hex digits belong")
	case strings.ToLower(s) != s:
		return nil, errors.New("it has upper-case letters, where lower-case hex digits belong")
	}

	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("it is not in lower-case hex digits: %w", err)
	}
	return b, nil
}
