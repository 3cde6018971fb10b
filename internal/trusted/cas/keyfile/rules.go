package keyfile

import (
	"cupel.dev/cupel/api/problem"
)

// Rules of the key file, and of the rows that are sealed with it.
const (
	// ruleSealingKeyFile: the CAS's key file can't be written or read.
	// Mend: let the CAS's user own the state folder and the file, and see that the disk has room.
	ruleSealingKeyFile problem.Rule = "sealing_key_file"

	// ruleSealingKeyMissing: there is state of the CAS, but not the key file that it was sealed with.
	// Mend: put the file back from its backup; without it the state can't be read.
	ruleSealingKeyMissing problem.Rule = "sealing_key_missing"

	// ruleSealingKeyForm: what lies at the key file's place is no key file.
	// Mend: look what is there, and put the file back from its backup.
	ruleSealingKeyForm problem.Rule = "sealing_key_form"

	// ruleSealingKeyPermission: others than its owner may read the key file.
	// Mend: run chmod 600 on it, and consider who may have read it.
	ruleSealingKeyPermission problem.Rule = "sealing_key_permission"

	// ruleSealingKey: a row was sealed with another key than the one in the key file.
	// Mend: put back the key file that belongs to this state.
	ruleSealingKey problem.Rule = "sealing_key"

	// ruleRowSealed: a row is not what the CAS wrote there.
	// Mend: restore the CAS's state from its backup; someone changed it.
	ruleRowSealed problem.Rule = "row_sealed"
)
