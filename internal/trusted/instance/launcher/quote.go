package launcher

import (
	"encoding/binary"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/sgxquote"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Where the launcher looks into an SGX quote. The quote is not verified here: it is the
// launcher's own, and the CAS verifies it. What matters is that a quote that the CAS
// accepts can't say another L than the one that was read.
const (
	atConfigID   = sgxquote.HeaderLen + sgxquote.AtConfigID
	atReportData = sgxquote.HeaderLen + sgxquote.AtReportData
)

// checkBinding refuses a CAS that is not the one in the instance's launch
// binding: then session or CAS are others than those that the instance was
// launched for, and nothing is sent.
func checkBinding(ev evidence.Evidence, reportData evidence.Data64, cas ident.KeyHash, config ident.ServiceRef) error {
	if ev.Type != evidence.SGX {
		return problem.New(problem.Invalid, problem.RuleEvidenceType, "%q", ev.Type).Want("%q", evidence.SGX)
	}
	q := ev.Quote
	if len(q) < sgxquote.SignedLen || binary.LittleEndian.Uint16(q[sgxquote.AtVersion:]) != sgxquote.Version {
		return problem.New(problem.Invalid, ruleEvidenceForm, "%d bytes are no SGX quote of version 3", len(q))
	}
	if evidence.Data64(q[atReportData:atReportData+64]) != reportData {
		return problem.New(problem.Denied, ruleEvidenceBinding, "the LAS's quote is for another connection").
			Fix("the node's attestation service is broken or hostile")
	}
	got, want := evidence.Data64(q[atConfigID:atConfigID+64]), wire.LaunchBinding(cas, config.Session, config.Service)
	if got != want {
		return problem.New(problem.Denied, ruleLaunchBinding,
			"this instance was launched for %.16s…; the CAS that answered is %s", got, cas.Short()).
			Want("%.16s… for %s at that CAS", want, config).
			Fix("the host pointed the instance at another CAS, session or service than it was launched for")
	}
	return nil
}
