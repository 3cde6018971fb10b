package template

import (
	"fmt"
	"regexp"
	"strconv"
	"unicode/utf8"
)

// This file says which values of a file may be shown in a difference. A template
// that a person has filled in by hand holds their secrets, in whatever line they
// put them, and what is printed ends up on screens and in logs of builds. So a
// value is shown only where the language has words, digests, numbers or names,
// and only if it looks like one; of all others the length is told. The path of
// the difference, and the file, say the rest.

var (
	wordForm = regexp.MustCompile(`^(true|false|server|client|hardware|none|maa|` +
		`ascii|binary|private-key|public-key|x509|x509-ca|` +
		`rollback_protected|ephemeral|no_rollback_protection|` +
		`CREATOR|ANY|NONE|P-256|P-384|Ed25519|SIG[A-Z0-9]{1,6})$`)
	digestForm  = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	numberForm  = regexp.MustCompile(`^[0-9]{1,5}$`)
	versionForm = regexp.MustCompile(`^0\.[0-9.]{1,6}$`)
	modeForm    = regexp.MustCompile(`^0o?[0-7]{3}$`)
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_.~/-]{1,24}$`) // access tokens are longer
	pathForm    = regexp.MustCompile(`^/[A-Za-z0-9_./-]{0,127}$`)
	securityNum = regexp.MustCompile(`^(\*|INTEL-SA-[0-9]{5})$`)
	tolerance   = regexp.MustCompile(`^(simulation(:[0-9a-fA-F]{64})?|debug-mode|hyperthreading|insecure-igpu|` +
		`software-hardening-needed|insecure-configuration|outdated-tcb|aepic-leak)$`)

	// These are shown in any place: a variable of the template that is still open,
	// and references to the template's own secrets, which are names and no values.
	openVariable = regexp.MustCompile(`^\$(` + VarSession + `|` + VarToken + `|` + VarRepo + `|` + VarCA + `|` + VarUser + `|` + VarProxy + `|(` +
		EnvPrefix + `|` + SecretPrefix + `)[A-Za-z0-9_]{1,100})$`)
	references = regexp.MustCompile(`^(\$\$SCONE::(access_token|git_repo|git_ca|git_user|git_proxy|secret_[A-Za-z0-9_]{1,100}|app_ca_key|app_ca|app_cert)(:[a-z0-9:-]{1,32})?(\|escape\(json\))?\$\$)+$`)
)

// shownForms are the forms in which a value may be shown, by its keys.
var shownForms = map[string][]*regexp.Regexp{
	"name":        {nameForm},
	"version":     {versionForm},
	"predecessor": {digestForm},

	"services.name":                          {nameForm},
	"services.image_name":                    {nameForm},
	"services.pwd":                           {pathForm},
	"services.environment.CUPEL_PULL_DIR":    {pathForm},
	"services.mrenclaves":                    {digestForm},
	"services.attestation.mrenclave":         {digestForm},
	"services.attestation.signer.mrsigner":   {digestForm},
	"services.attestation.signer.isvprodid":  {numberForm},
	"services.attestation.signer.isvsvn":     {numberForm},
	"services.attestation.signer.isvsvn_min": {numberForm},
	"services.attestation.signer.isvsvn_max": {numberForm},
	"services.cupel.stop_signal":             {wordForm},
	"services.cupel.on_renewal":              {wordForm},

	"secrets.name":           {nameForm},
	"secrets.kind":           {wordForm},
	"secrets.size":           {numberForm},
	"secrets.key_type":       {wordForm},
	"secrets.private_key":    {nameForm},
	"secrets.issuer":         {nameForm},
	"secrets.endpoint":       {wordForm},
	"secrets.export_public":  {wordForm},
	"secrets.export.session": {nameForm},
	"secrets.import.session": {nameForm},
	"secrets.import.secret":  {nameForm},

	"volumes.name":           {nameForm},
	"volumes.export.session": {nameForm},
	"volumes.import.session": {nameForm},

	"images.name":                       {nameForm},
	"images.volumes.name":               {nameForm},
	"images.volumes.path":               {pathForm},
	"images.volumes.update_policy":      {wordForm},
	"images.injection_files.path":       {pathForm},
	"images.injection_files.permission": {modeForm},

	"access_policy.read":            {wordForm, digestForm},
	"access_policy.update":          {wordForm, digestForm},
	"access_policy.create_sessions": {wordForm, digestForm},
	"access_policy.deploy":          {wordForm, digestForm},

	"security.attestation.mode":              {wordForm},
	"security.attestation.tolerate":          {tolerance},
	"security.attestation.ignore_advisories": {securityNum},
}

// entryLabel is how an entry of a list is called in a path, by its name or place.
func entryLabel(v string) string {
	if nameForm.MatchString(v) || pathForm.MatchString(v) {
		return v
	}

	return fmt.Sprintf("%d characters", utf8.RuneCountInString(v))
}

var listIndex = regexp.MustCompile(`\[[^\]]*\]`)

// keysOf is a difference's path without the entries of lists, like
// services.attestation.mrenclave.
func keysOf(path string) string {
	keys := listIndex.ReplaceAllString(path, "")
	if keys != "" && keys[0] == '.' {
		keys = keys[1:]
	}
	return keys
}

// showable is a value for people: in quotes, or, where it may be a secret, by
// its length.
func showable(keys, v string) string {
	for _, form := range append(shownForms[keys], openVariable, references) {
		if form.MatchString(v) {
			return strconv.Quote(v)
		}
	}

	if n := utf8.RuneCountInString(v); n != 1 {
		return fmt.Sprintf("another text (%d characters, not shown)", n)
	}

	return "another text (1 character, not shown)"
}
