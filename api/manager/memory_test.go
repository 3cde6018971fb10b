package manager

import (
	"testing"

	"cupel.dev/cupel/api/problem"
)

func TestParseMemory(t *testing.T) {
	for in, want := range map[string]uint64{
		"256M": 256 << 20, "1Gi": 1 << 30, "512MiB": 512 << 20, "33554432": 32 << 20, "64mb": 64 << 20, "2g": 2 << 30,
	} {
		if got, err := ParseMemory(in); err != nil || got != want {
			t.Errorf("ParseMemory(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "M", "lots", "-1", "1.5G", "256 M", "256X", "31M", "0", "99999999999999999999", "18446744073709551615G", "1e9",
	} {
		if got, err := ParseMemory(in); err == nil || problem.From(err).Rule != "memory" || problem.From(err).Mend == "" {
			t.Errorf("ParseMemory(%q) = %d, %v; want a refusal that shows an example", in, got, err)
		}
	}
}

func FuzzParseMemory(f *testing.F) {
	for _, s := range []string{"256M", "1Gi", "", "M", "9999999999999999G"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseMemory(s)
		if err == nil && (n < MinMemory || n > MaxMemory) {
			t.Fatalf("ParseMemory(%q) = %d: out of bounds", s, n)
		}
	})
}

func TestFormatMemory(t *testing.T) {
	for in, want := range map[uint64]string{256 << 20: "256M", 1 << 30: "1G", 3 << 29: "1.5G", 10: "10B", 2048: "2K"} {
		if got := FormatMemory(in); got != want {
			t.Errorf("FormatMemory(%d) = %q, want %q", in, got, want)
		}
	}
}
