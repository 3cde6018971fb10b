package manager

// What instances are for.
const (
	RoleApp  = "app"  // it serves
	RolePull = "pull" // it fills the volume, and ends
)

// States of an instance.
const (
	InstanceWaiting  = "waiting"  // for its next start
	InstanceStarting = "starting" // until the app itself runs
	InstanceRunning  = "running"
	InstanceStopping = "stopping" // it was asked to end
	InstanceExited   = "exited"
)

// Healths of an instance that runs and serves; others have none.
const (
	Healthy   = "healthy"   // it accepts connections
	Unhealthy = "unhealthy" // it ran, and doesn't accept them, or not any more
)

// PhaseCommitting is the phase of an instance whose app ended well, and whose volumes are
// being stored.
const PhaseCommitting = "committing"
