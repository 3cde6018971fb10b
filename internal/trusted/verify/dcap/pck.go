package dcap

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
)

// oidSGX is Intel's extension of PCK certificates (PCK Certificate and Certificate
// Revocation List Profile Specification); what it holds lies below it:
// .1 PPID, .2 TCB (.1 to .16 component versions, .17 PCESVN, .18 CPUSVN),
// .3 PCEID, .4 FMSPC, .5 SGX type, and with platforms of several packages .6
// instance id, .7 configuration.
var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// pckExtension is what the platform's maker certified about it.
type pckExtension struct {
	components [components]byte
	pceSVN     uint16
	pceID      [2]byte
	fmspc      [6]byte
}

func (e *pckExtension) fmspcHex() string { return hex.EncodeToString(e.fmspc[:]) }

// field is one SEQUENCE { OID, ANY }.
type field struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

func parsePCKExtension(c *x509.Certificate) (*pckExtension, error) {
	var der []byte
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSGX) {
			der = e.Value // x509 refuses an extension that comes twice
		}
	}

	if der == nil {
		return nil, malformed(rulePCKExtension, "the PCK certificate has no SGX extension")
	}

	ext, err := readPCKExtension(der)
	if err != nil {
		return nil, malformed(rulePCKExtension, "the PCK certificate's SGX extension: %w", err)
	}
	return ext, nil
}

func readPCKExtension(der []byte) (*pckExtension, error) {
	top, err := readFields(der, oidSGX)
	if err != nil {
		return nil, err
	}

	ext := new(pckExtension)
	if err := octets(top[3], ext.pceID[:], "PCEID"); err != nil {
		return nil, err
	}
	if err := octets(top[4], ext.fmspc[:], "FMSPC"); err != nil {
		return nil, err
	}

	tcb, err := readFields(top[2].FullBytes, append(oidSGX[:len(oidSGX):len(oidSGX)], 2))
	if err != nil {
		return nil, fmt.Errorf("TCB: %w", err)
	}
	for i := range ext.components {
		n, err := number(tcb[i+1], 255)
		if err != nil {
			return nil, fmt.Errorf("component %d: %w", i+1, err)
		}
		ext.components[i] = byte(n)
	}

	n, err := number(tcb[17], 65535)
	if err != nil {
		return nil, fmt.Errorf("PCESVN: %w", err)
	}
	ext.pceSVN = uint16(n)
	return ext, nil
}

// readFields reads a SEQUENCE OF field directly below base, by last arc, each
// at most once.
func readFields(der []byte, base asn1.ObjectIdentifier) (map[int]asn1.RawValue, error) {
	var list []field
	rest, err := asn1.Unmarshal(der, &list)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, errors.New("bytes after its end")
	}

	// encoding/asn1 passes over what follows the last member of a SEQUENCE.
	if again, err := asn1.Marshal(list); err != nil || !bytes.Equal(again, der) {
		return nil, errors.New("bytes that no field holds")
	}

	out := make(map[int]asn1.RawValue, len(list))
	for _, f := range list {
		last := len(f.ID) - 1
		if last != len(base) || !f.ID[:last].Equal(base) {
			return nil, fmt.Errorf("unexpected field %v", f.ID)
		}
		if _, twice := out[f.ID[last]]; twice {
			return nil, fmt.Errorf("field %v twice", f.ID)
		}
		out[f.ID[last]] = f.Value
	}
	return out, nil
}

func octets(v asn1.RawValue, dst []byte, what string) error {
	if v.Class != asn1.ClassUniversal || v.Tag != asn1.TagOctetString || v.IsCompound || len(v.Bytes) != len(dst) {
		return fmt.Errorf("%s is missing or not %d octets", what, len(dst))
	}
	copy(dst, v.Bytes)
	return nil
}

func number(v asn1.RawValue, most int) (int, error) {
	if len(v.FullBytes) == 0 {
		return 0, errors.New("missing")
	}

	var n int
	rest, err := asn1.Unmarshal(v.FullBytes, &n)
	if err != nil || len(rest) != 0 || n < 0 || n > most {
		return 0, fmt.Errorf("not a number from 0 to %d", most)
	}
	return n, nil
}
