package session

import (
	"slices"
	"sort"
	"strings"
)

// section is one kind of mapping in the language: the keys that Parse carries,
// and those that SCONE knows and Parse refuses by name.
type section struct {
	name  string
	keys  []string
	later []string
}

// The language, as the SCONE session language 0.3.12 has it. Adding support for
// a key means moving it from later to keys.
var (
	sectionSession = section{"session",
		[]string{"name", "version", "predecessor", "salt", "services", "secrets", "volumes", "images", "access_policy", "security"},
		[]string{"namespace_hash", "creator", "secret_config", "digest", "board_members", "board_policy"}}

	sectionService = section{"service",
		[]string{"name", "command", "environment", "pwd", "image_name", "mrenclaves", "attestation", "cupel"},
		[]string{"platforms", "fspf_path", "fspf_key", "fspf_tag", "fspf_update_policy",
			"one_time_password_shared_secret", "persistency", "tags"}}

	sectionServiceCupel = section{"service's cupel map", []string{"stop_signal", "on_renewal", "offline"}, nil}

	sectionAttestation = section{"attestation variant", []string{"mrenclave", "signer"}, nil}

	sectionSigner = section{"signer", []string{"mrsigner", "isvprodid", "isvsvn", "isvsvn_min", "isvsvn_max"}, nil}

	sectionSecret = section{"secret",
		[]string{"name", "kind", "value", "size", "export_public", "key_type", "private_key", "issuer", "common_name",
			"dns", "endpoint", "valid_for"},
		[]string{"export", "import", "import_akv", "migrate", "san", "tenant_id", "client_id", "application_secret",
			"certificate_thumbprint", "signer", "alg", "validity", "payload"}}

	sectionVolume = section{"volume", []string{"name"}, []string{"fspf_key", "fspf_tag", "files", "export", "import"}}

	sectionImage = section{"image",
		[]string{"name", "volumes", "injection_files"},
		[]string{"provide_secrets", "mrenclaves", "tags"}}

	sectionMount = section{"volume of an image", []string{"name", "path", "update_policy"}, nil}

	sectionFile = section{"injection file", []string{"path", "content", "permission"}, nil}

	sectionAccess = section{"access_policy", []string{"read", "update", "create_sessions", "deploy"}, []string{"list_sessions"}}

	sectionSecurity = section{"security", []string{"attestation"}, []string{"singleton_enclaves", "service_access_token"}}

	sectionSecurityAttestation = section{"security.attestation",
		[]string{"mode", "tolerate", "ignore_advisories", "url"},
		[]string{"trusted_scone_qe_pubkeys", "certificates", "min_rsa_signing_key_size", "must_be_sgx_local",
			"one_time_password_shared_secret"}}
)

// Values that the language knows and Parse does not carry, by field.
var laterValues = map[string][]string{
	"kind":          {"public-key", "aad-token", "config-fragment", "pgp-key", "jwt", "session-ca"},
	"key_type":      {"RSA-2048", "RSA-3072"},
	"update_policy": {"no_rollback_protection"},
	"mode":          {"maa"},
	"tolerate":      {"maa-managed-tcb", "local-attestation-trust-cas-tcb"},
	"format":        {"pkcs12-with-private-key"},
}

// nearest returns the up to three known words closest to what was written.
func nearest(written string, known []string) []string {
	type scored struct {
		word     string
		distance int
	}

	all := make([]scored, 0, len(known))
	for _, k := range known {
		all = append(all, scored{k, distance(strings.ToLower(written), k)})
	}

	sort.SliceStable(all, func(i, j int) bool { return all[i].distance < all[j].distance })

	var out []string
	for _, s := range all {
		if len(out) < 3 && s.distance <= max(2, len(s.word)/2) {
			out = append(out, s.word)
		}
	}

	if len(out) == 0 {
		out = slices.Sorted(slices.Values(known))
	}

	return out
}

// distance is the Levenshtein distance of a, cut to 64 bytes, and b.
func distance(a, b string) int {
	a = a[:min(len(a), 64)]

	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}

	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}

	return row[len(b)]
}
