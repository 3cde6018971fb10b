package node

import (
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// newer explains that a generation isn't here where newer ones are: nil where none is.
// What is stored goes on from one generation to the next, so it is the CAS that went back.
func (s *volumeStore) newer(id ident.Digest, asked uint64) *problem.Error {
	found, err := s.list(id)
	if err != nil || len(found) == 0 || found[0].Generation <= asked {
		return nil
	}

	return problem.New(problem.Denied, wire.RuleVolumeMissing, "the CAS asks for generation %d of volume %s, and the node has generation %d, which is newer", asked, id, found[0].Generation).
		Want("a CAS that knows the newest generation").
		Fix("the CAS, or its folder (cas/ in the state folder), was put back from an older backup: put the newer one back, if there is any. " +
			"Without it nobody can open what is stored there: put back a snapshot of that older time from a backup of the volumes, or the owner starts the volume afresh, without what it held (cupel volume reset)")
}
