package owners

// Access says what an instance may do with a volume.
type Access string

// Accesses to a volume.
const (
	ReadWrite Access = "rw" // the one writer: it holds the lease and may commit
	ReadOnly  Access = "ro" // a private snapshot; changes end with the instance
)
