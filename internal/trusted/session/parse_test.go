package session

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
)

var same = cmp.Options{cmp.Comparer(secret.Value.Equal), cmpopts.IgnoreFields(Session{}, "Warnings")}

const (
	m1 = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"
	m2 = "2c06dab581ba85b8373c037851255b39ee957dab0f32b34d64c9d1151d84e36c"
)

// full uses all that the subset carries.
const full = `
version: 0.3
name: /shop/web
predecessor: ` + m2 + `
secrets:
  - {name: token, kind: ascii, value: "it's \"quoted\"\nand $$SCONE::web_key$$"}
  - {name: salt, kind: binary, value: 00FF}
  - {name: generated, kind: ascii}
  - {name: key32, kind: binary, size: 32}
  - {name: ca_key, kind: private-key, key_type: P-384}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: Shop CA, export_public: true}
  - {name: web_key, kind: private-key}
  - {name: web, kind: x509, private_key: web_key, issuer: ca, dns: [shop.example, "*.shop.example", 10.0.0.1], endpoint: server, valid_for: 60 days}
  - {name: each, kind: x509, issuer: ca, dns: localhost}
volumes: [{name: data}]
images:
  - name: web:1.0
    volumes: [{name: data, path: /data, update_policy: ephemeral}]
    injection_files:
      - {path: /run/tls/web.pem, content: "$$SCONE::web:crt$$$$SCONE::web:chain$$", permission: 0o444}
      - {path: /run/tls/web.key, content: $$SCONE::web.key$$}
      - {path: /run/conf.json, content: '{"t":"$$SCONE::token|escape(json)$$"}'}
services:
  - name: web
    image_name: web:1.0
    command: serve --name "two words" --key=$$SCONE::key32:hex$$ ''
    environment: {Z: 1, A: yes, DB: "postgres://app:$$SCONE::generated$$@db", EMPTY: ""}
    pwd: /
    attestation:
      - mrenclave: [` + m1 + `, ` + m2 + `]
      - signer: {mrsigner: ` + m2 + `, isvprodid: 7, isvsvn_min: 3}
  - {name: plain, mrenclaves: [` + m1 + `]}
access_policy: {read: [CREATOR, ` + m1 + `], update: NONE}
security: {attestation: {tolerate: [outdated-tcb, debug-mode, debug-mode], ignore_advisories: ["*"], url: }}
`

func TestParseFull(t *testing.T) {
	s, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(s.Canonical())
	if err != nil {
		t.Fatalf("canonical form: %v\n%s", err, s.Canonical())
	}
	if d := cmp.Diff(s, again, same); d != "" {
		t.Errorf("canonical form parses to another session:\n%s", d)
	}
	if string(again.Canonical()) != string(s.Canonical()) {
		t.Error("the canonical form of the canonical form is another")
	}
	golden(t, "full.canonical.yml", s.Canonical())
	golden(t, "full.redacted.yml", s.Redacted())
	if strings.Contains(string(s.Redacted()), "quoted") || strings.Contains(string(s.Redacted()), "00ff") {
		t.Error("Redacted shows a value")
	}
	var argv []string
	web, _ := s.Service("web")
	for _, a := range web.Command {
		argv = append(argv, a.String())
	}
	if d := cmp.Diff([]string{"serve", "--name", "two words", "--key=$$SCONE::key32:hex$$", ""}, argv); d != "" {
		t.Errorf("command: %s", d)
	}
	if p := s.Policy(web); len(p.Identities) != 2 || len(p.Tolerate) != 2 || p.ReportData != nil {
		t.Errorf("policy: %+v", p)
	}
	if got, _ := s.Secret("token"); string(got.Value.Reveal()) != "it's \"quoted\"\nand $$SCONE::web_key$$" {
		t.Error("an explicit value was changed")
	}
}

// small is the least session; cases change it.
const small = `version: "0.3"
name: s
services:
  - name: a
    attestation: {mrenclave: ` + m1 + `}
`

func TestParseRefuses(t *testing.T) {
	secrets := "secrets: [{name: x, kind: ascii}, {name: b, kind: binary}, {name: k, kind: private-key}]\n"
	images := func(body string) string {
		return small + "volumes: [{name: v}, {name: w}]\nimages:\n  - name: i\n    " + body + "\n"
	}
	service := func(line string) string { return secrets + small + "    " + line + "\n" }
	for name, c := range map[string]struct {
		text string
		rule problem.Rule
		says string
	}{
		"empty":                 {"", problem.RuleSessionSyntax, "line 1 column 1: the session is empty"},
		"comment only":          {"# x\n", problem.RuleSessionSyntax, "the session is empty"},
		"list":                  {"- a\n", problem.RuleSessionSyntax, "the document is no mapping"},
		"bad indentation":       {"name: a\n  version: b\n", problem.RuleSessionSyntax, "line 2 column"},
		"open bracket":          {"name: [a", problem.RuleSessionSyntax, "line "},
		"two documents":         {small + "---\nname: b\n", problem.RuleSessionSyntax, "line 6 column 1: a second YAML document"},
		"anchor":                {"name: &a x\nversion: *a\n", problem.RuleSessionSyntax, "line 1 column 7: a YAML anchor"},
		"tag":                   {"name: !!str x\n", problem.RuleSessionSyntax, "line 1 column 7: a YAML tag"},
		"custom tag":            {"secret_config: {store_in: !akv {}}\n", problem.RuleSessionSyntax, "write a text that begins with ! in quotes"},
		"not UTF-8":             {"name: a\nversion: \xff\n", problem.RuleSessionSyntax, "line 2 column 10: not UTF-8"},
		"NUL":                   {small + "    pwd: \"a\\0b\"\n", problem.RuleSessionSyntax, "NUL"},
		"complex key":           {"? [a]\n: b\n", problem.RuleSessionSyntax, "no plain word"},
		"duplicate key":         {small + "name: t\n", problem.RuleSessionDuplicateKey, "line 6 column 1: the key \"name\" again (expected each key once; the first is at line 2)"},
		"duplicate in service":  {small + "    name: t\n", problem.RuleSessionDuplicateKey, "line 6 column 5"},
		"duplicate variable":    {service("environment: {A: 1, A: 2}"), problem.RuleSessionDuplicateKey, "\"A\" again"},
		"unknown key":           {small + "servises: []\n", ruleUnknownKey, "line 6 column 1: the unknown key \"servises\" in a session (expected one like services"},
		"unknown key in depth":  {small + "    environment2: {}\n", ruleUnknownKey, "one like environment"},
		"known, not supported":  {small + "    fspf_key: x\n", ruleUnsupported, "line 6 column 5: the key \"fspf_key\" of a service is known to the SCONE language, but not supported yet"},
		"import":                {"secrets: [{name: x, import: {session: y}}]\n" + small, ruleUnsupported, "\"import\""},
		"no version":            {"name: a\n", problem.RuleSessionVersion, "language 0.1"},
		"version 0.2":           {"name: a\nversion: \"0.2\"\n", problem.RuleSessionVersion, "line 2 column 10: language version 0.2 is not supported"},
		"newer version":         {"name: a\nversion: 0.3.13\n", problem.RuleSessionVersion, "unknown language version, a text of 6 characters"},
		"no name":               {"version: 0.3\n", ruleField, "a session without name"},
		"bad name":              {"version: 0.3\nname: a b\n", ruleField, "session name: the character ' ': want"},
		"open variable":         {"version: 0.3\nname: $SESSION\n", ruleField, "fill in the template variable that stands there"},
		"predecessor":           {small + "predecessor: abc\n", ruleField, "predecessor: digest"},
		"no attestation":        {"version: 0.3\nname: s\nservices: [{name: a}]\n", ruleField, "a service without attestation"},
		"empty attestation":     {"version: 0.3\nname: s\nservices: [{name: a, mrenclaves: []}]\n", ruleField, "a service without attestation"},
		"empty variant":         {"version: 0.3\nname: s\nservices: [{name: a, attestation: [{}]}]\n", ruleField, "variant without"},
		"bad measurement":       {"version: 0.3\nname: s\nservices: [{name: a, mrenclaves: [mrEnclave1]}]\n", ruleField, "mrenclaves: measurement of 10 characters: want 64 hex digits"},
		"both spellings":        {service("mrenclaves: [" + m1 + "]"), ruleField, "both mrenclaves and attestation"},
		"signer without id":     {"version: 0.3\nname: s\nservices: [{name: a, attestation: {signer: {mrsigner: " + m1 + "}}}]\n", ruleField, "without mrsigner and isvprodid"},
		"exact and range":       {"version: 0.3\nname: s\nservices: [{name: a, attestation: {signer: {mrsigner: " + m1 + ", isvprodid: 1, isvsvn: 1, isvsvn_min: 1}}}]\n", ruleField, "isvsvn beside"},
		"product id":            {"version: 0.3\nname: s\nservices: [{name: a, attestation: {signer: {mrsigner: " + m1 + ", isvprodid: 70000}}}]\n", ruleField, "a number from 0 to 65535"},
		"two services":          {small + "  - {name: a, mrenclaves: [" + m1 + "]}\n", ruleField, "a second service called \"a\""},
		"empty command":         {service("command: ''"), ruleField, "command is empty"},
		"open quote":            {service("command: a 'b"), ruleField, "quote ' is not closed"},
		"host argument":         {service("command: a @@3"), ruleUnsupported, "@@3"},
		"host variable":         {service(`environment: {\@\@A: ""}`), ruleUnsupported, "the host fills in"},
		"variable name":         {service(`environment: {"A=B": x}`), ruleField, "a variable's name that is empty or holds ="},
		"null value":            {service("environment: {A: }"), ruleField, "the variable \"A\" has no value"},
		"list value":            {service("environment: {A: [b]}"), ruleField, "the variable \"A\" is no single value"},
		"relative pwd":          {service("pwd: a"), ruleField, "absolute path"},
		"unknown secret":        {service("command: a $$SCONE::y$$"), ruleReference, "the reference names no secret of this session: a text of 1 character;"},
		"format of kind":        {service("command: a $$SCONE::x:hex$$"), ruleReference, "the secret x of kind ascii has no such format: \"hex\""},
		"raw in arguments":      {service("command: a $$SCONE::b$$"), ruleReference, "raw bytes"},
		"open reference":        {service("command: a $$SCONE::x"), ruleReference, "no closing $$"},
		"single colon":          {service("command: a $$SCONE:x$$"), ruleReference, "is no reference"},
		"encoding":              {service("command: a $$SCONE::x|escape(xml)$$"), ruleReference, "with another encoding than escape(json)"},
		"self":                  {service("command: a $$SCONE::self::software_identity$$"), ruleReference, "not supported yet"},
		"legacy chain":          {"secrets: [{name: k, kind: private-key}, {name: c, kind: x509-ca, private_key: k}]\n" + small + "    command: a $$SCONE::c.chain$$\n", ruleUnsupported, ".chain"},
		"two secrets":           {small + "secrets: [{name: x, kind: ascii}, {name: x, kind: binary}]\n", ruleField, "a second secret called \"x\""},
		"no kind":               {small + "secrets: [{name: x}]\n", ruleField, "a secret without kind"},
		"unknown kind":          {small + "secrets: [{name: x, kind: uuid}]\n", ruleField, "kind is a text of 4 characters"},
		"later kind":            {small + "secrets: [{name: x, kind: jwt}]\n", ruleUnsupported, "kind \"jwt\" is known"},
		"key of other kind":     {small + "secrets: [{name: x, kind: ascii, issuer: y}]\n", ruleField, "issuer does not fit"},
		"size":                  {small + "secrets: [{name: x, kind: ascii, size: 0}]\n", ruleField, "a number from 1"},
		"size of value":         {small + "secrets: [{name: x, kind: ascii, size: 3, value: abcd}]\n", ruleField, "size is not"},
		"value without hex":     {small + "secrets: [{name: x, kind: binary, value: TOPSECRET}]\n", ruleField, "is not hex"},
		"value no key":          {small + "secrets: [{name: x, kind: private-key, value: TOPSECRET}]\n", ruleField, "PKCS#8"},
		"RSA":                   {small + "secrets: [{name: x, kind: private-key, key_type: RSA-3072}]\n", ruleUnsupported, "RSA-3072"},
		"certificate value":     {small + "secrets: [{name: x, kind: x509, value: TOPSECRET}]\n", ruleUnsupported, "given as value"},
		"CA without key":        {small + "secrets: [{name: x, kind: x509-ca}]\n", ruleField, "has no private_key"},
		"wrong key":             {small + "secrets: [{name: y, kind: ascii}, {name: x, kind: x509-ca, private_key: y}]\n", ruleReference, "kind private-key"},
		"wrong issuer":          {small + "secrets: [{name: x, kind: x509, issuer: y}]\n", ruleReference, "kind x509-ca"},
		"nobody vouches":        {small + "secrets: [{name: x, kind: x509}]\n", ruleField, "neither private_key nor issuer"},
		"client with dns":       {small + "secrets: [{name: k, kind: private-key}, {name: x, kind: x509, private_key: k, endpoint: client, dns: a}]\n", ruleField, "dns names in a client's"},
		"dns":                   {small + "secrets: [{name: k, kind: private-key}, {name: x, kind: x509, private_key: k, dns: 'a b'}]\n", ruleField, "dns is a text of 3 characters"},
		"valid_for":             {small + "secrets: [{name: k, kind: private-key}, {name: x, kind: x509, private_key: k, valid_for: soon}]\n", ruleField, "no duration"},
		"export_public":         {small + "secrets: [{name: x, kind: ascii, export_public: maybe}]\n", ruleField, "export_public is a text of 5 characters"},
		"unknown volume":        {images("volumes: [{name: x, path: /a}]"), ruleReference, "name is that of no volume: a text of 1 character;"},
		"volume twice":          {images("volumes: [{name: v, path: /a}, {name: v, path: /b}]"), ruleField, "a second mount"},
		"same path":             {images("volumes: [{name: v, path: /a}, {name: w, path: /a}]"), ruleField, "collide"},
		"volume in volume":      {images("volumes: [{name: v, path: /a}, {name: w, path: /a/b}]"), ruleField, "collide"},
		"file in volume":        {images("volumes: [{name: v, path: /a}]\n    injection_files: [{path: /a/f, content: x}]"), ruleField, "collide"},
		"file below file":       {images("injection_files: [{path: /a, content: x}, {path: /a/b, content: x}]"), ruleField, "collide"},
		"volume below file":     {images("volumes: [{name: v, path: /a/b}]\n    injection_files: [{path: /a, content: x}]"), ruleField, "collide"},
		"unclean path":          {images("volumes: [{name: v, path: /a/../b}]"), ruleField, "absolute path"},
		"root":                  {images("volumes: [{name: v, path: /}]"), ruleField, "root directory"},
		"proc":                  {images("injection_files: [{path: /proc/x, content: x}]"), ruleField, "outside of /proc"},
		"update policy":         {images("volumes: [{name: v, path: /a, update_policy: no_rollback_protection}]"), ruleUnsupported, "no_rollback_protection"},
		"file from container":   {images("injection_files: [/etc/x]"), ruleUnsupported, "read from the container"},
		"file without content":  {images("injection_files: [{path: /etc/x}]"), ruleUnsupported, "without content"},
		"decimal permission":    {images("injection_files: [{path: /a, content: x, permission: 400}]"), ruleField, "octal"},
		"any and others":        {small + "access_policy: {read: [ANY, CREATOR]}\n", ruleField, "ANY in read is not alone"},
		"empty rule":            {small + "access_policy: {read: []}\n", ruleField, "read is empty"},
		"bad hash":              {small + "access_policy: {read: [bob]}\n", ruleField, "no key hash"},
		"signer rule":           {small + "access_policy: {update: [{signer: x}]}\n", ruleUnsupported, "signer"},
		"signing key":           {small + "access_policy: {update: [N2exBX7Tpyyu8g2ofoxwfMNVNbL5G4F5Zygso6MyBp78k37gr7]}\n", ruleField, "a session signing key"},
		"policy out of secret":  {secrets + small + "access_policy: $$SCONE::x$$\n", ruleUnsupported, "out of a secret"},
		"mode":                  {small + "security: {attestation: {mode: maa}}\n", ruleUnsupported, "mode \"maa\""},
		"url":                   {small + "security: {attestation: {url: https://x}}\n", ruleUnsupported, "url"},
		"tolerate":              {small + "security: {attestation: {tolerate: [debug]}}\n", ruleField, "tolerate is \"debug\""},
		"tolerate misspelt":     {small + "security: {attestation: {tolerate: [simulaton]}}\n", ruleField, "one of debug-mode, simulation:SHA256,"},
		"half a root":           {small + "security: {attestation: {tolerate: [\"simulation:abc\"]}}\n", ruleField, "without the digest of a root"},
		"no root":               {small + "security: {attestation: {tolerate: [\"simulation:\"]}}\n", ruleField, "without the digest of a root"},
		"star without debug":    {small + "security: {attestation: {ignore_advisories: \"*\"}}\n", ruleField, "without debug-mode"},
		"star list":             {small + "security: {attestation: {ignore_advisories: [\"*\"]}}\n", ruleField, "without debug-mode"},
		"advisory":              {small + "security: {attestation: {ignore_advisories: [SA-1]}}\n", ruleField, "INTEL-SA-nnnnn"},
		"long list":             {small + "volumes: [" + strings.Repeat("{},", 2001) + "]\n", ruleField, "2001 entries"},
		"long key":              {strings.Repeat("k", 201) + ": 1\n", problem.RuleSessionSyntax, "a key of 201 bytes"},
		"too large":             {"name: " + strings.Repeat("a", MaxSize), problem.RuleSessionSyntax, "bytes"},
		"too deep":              {"name: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), problem.RuleSessionSyntax, "nested more than 32"},
		"services is a mapping": {"version: 0.3\nname: s\nservices: {a: b}\n", ruleField, "services is no list"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse([]byte(c.text))
			if err == nil {
				t.Fatalf("accepted:\n%s", s.Canonical())
			}
			p := problem.From(err)
			if p.Kind != problem.Invalid || p.Rule != c.rule || !strings.Contains(p.Error(), c.says) {
				t.Errorf("got  %s %s\nwant %s … %s", p.Kind, p, c.rule, c.says)
			}
			if strings.Contains(p.Error(), "TOPSECRET") {
				t.Errorf("the refusal shows a secret: %s", p)
			}
			if len(c.text) < MaxSize && !strings.Contains(p.Error(), "line ") {
				t.Errorf("no place: %s", p)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	for name, text := range map[string]string{
		"least":             small,
		"no services":       "version: 0.3.12\nname: a/b\n",
		"mode none":         "version: 0.3\nname: s\nservices: [{name: a}]\nsecurity: {attestation: {mode: none}}\n",
		"empty sections":    small + "images:\nvolumes:\nsecrets:\naccess_policy:\nsecurity:\npredecessor: ~\n",
		"empty predecessor": small + "predecessor: \"\"\n",
		"star":              small + "security: {attestation: {tolerate: debug-mode, ignore_advisories: \"*\"}}\n",
		"simulated root":    small + "security: {attestation: {tolerate: [debug-mode, simulation:" + strings.ToUpper(m1) + "]}}\n",
		"bare simulation":   small + "security: {attestation: {tolerate: [debug-mode, simulation]}}\n",
		"byte order mark":   "\ufeff" + small,
		"empty value":       small + "secrets: [{name: x, kind: ascii, value: \"\"}]\n",
		"number as value":   small + "secrets: [{name: x, kind: ascii, value: 0123}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(s.Canonical())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(s, again, same); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestShortCertificatesAreWarnedOf(t *testing.T) {
	for valid, want := range map[string]int{"59s": 1, "1 min": 0, "24h": 0} {
		s, err := Parse([]byte(small + "secrets: [{name: k, kind: private-key}, {name: x, kind: x509, private_key: k, valid_for: " + valid + "}]\n"))
		if err != nil || len(s.Warnings) != want {
			t.Errorf("%s: %q, %v", valid, s.Warnings, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	s, err := Parse([]byte(small + "    image_name: nothere\nsecurity: {attestation: {ignore_advisories: [INTEL-SA-00161]}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Warnings) != 2 || !strings.Contains(strings.Join(s.Warnings, "\n"), "line 6 column 17: image_name matches no image") {
		t.Errorf("warnings: %q", s.Warnings)
	}
}

// TestSimulationNamesItsRoot: a bare word, of sessions of before, keeps its
// canonical form, and says that it tolerates nothing.
func TestSimulationNamesItsRoot(t *testing.T) {
	bare, err := Parse([]byte(small + "security: {attestation: {tolerate: [simulation, debug-mode]}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	const before = "    tolerate:\n      - debug-mode\n      - simulation\n"
	if !strings.Contains(string(bare.Canonical()), before) {
		t.Errorf("the canonical form of an older session changed:\n%s", bare.Canonical())
	}
	if len(bare.Warnings) != 1 || !strings.Contains(bare.Warnings[0], "line 6 column 37: tolerate: simulation names no root and so tolerates nothing: write simulation:SHA256") {
		t.Errorf("warnings: %q", bare.Warnings)
	}

	named, err := Parse([]byte(small + "security: {attestation: {tolerate: simulation:" + strings.ToUpper(m1) + "}}\n"))
	if err != nil || len(named.Warnings) != 0 {
		t.Fatalf("%v, warnings %q", err, named.Warnings)
	}
	root, err := ident.ParseDigest(m1)
	if err != nil || !slices.Equal(named.Security.Tolerate, []evidence.Tolerance{evidence.SimulationUnder(root)}) {
		t.Errorf("tolerates %q", named.Security.Tolerate)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(small))
	f.Add([]byte("version: 0.3\nname: s\nservices: [{name: a, command: ['a b', '\"']}]\nsecurity: {attestation: {mode: none}}\n"))
	f.Add([]byte("version: \"0.3\"\nname: s\nsecrets: [{name: x, kind: ascii, value: \"\\u0085\\uFEFF\\U0001F600\\x01 \"}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			if p := problem.From(err); p.Kind != problem.Invalid {
				t.Fatalf("kind %s: %v", p.Kind, err)
			}
			return
		}
		canonical := s.Canonical()
		again, err := Parse(canonical)
		if len(canonical) > MaxSize {
			return
		}
		if err != nil {
			t.Fatalf("canonical form refused: %v\n%s", err, canonical)
		}
		if d := cmp.Diff(s, again, same, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("canonical form is another session:\n%s", d)
		}
	})
}

func TestWithPredecessor(t *testing.T) {
	s, err := Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	next := s.WithPredecessor(s.Hash(ident.KeyHash{1}))
	if s.Predecessor != nil || next.Predecessor == nil || next.Hash(ident.KeyHash{1}) == s.Hash(ident.KeyHash{1}) {
		t.Error("the predecessor is not in the successor alone")
	}
	again, err := Parse(next.Canonical())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(next, again, same); d != "" {
		t.Error(d)
	}
}

// TestParseIsQuick holds texts against a machine that reads them for anybody:
// none may cost more than its length. A quadratic rule would run for minutes.
func TestParseIsQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("reads some megabytes")
	}
	fill := func(head, part, tail string) string {
		return head + strings.Repeat(part, (quickSize-len(head)-len(tail))/len(part)) + tail
	}
	for name, text := range map[string]string{
		"unknown keys":  fill("", "k: 1\n", ""),
		"long path":     fill(small+"images: [{name: i, injection_files: [{content: x, path: ", "/a", "}]}]\n"),
		"many services": fill(small, "  - {name: a, image_name: b}\n", ""),
		"many words":    fill(small+"    command: ", "a ", "\n"),
		"references":    fill(small+"    command: ", "$$SCONE::a$$", "\n"),
		"dollars":       fill(small+"    command: ", "$", "\n"),
		"brackets":      fill("", "[", ""),
		"quotes":        fill("a: ", "'", ""),
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := Parse([]byte(text)); err == nil && len(s.Canonical()) < 1000 {
				t.Error("what was read got lost")
			}
			_, _ = Variables([]byte(text))
		})
	}
}
