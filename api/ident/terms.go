package ident

// AppRef names an app to a manager: by its id, or by its name.
type AppRef string

// InstanceRef names an instance to a manager, over all its restarts. It is the manager's
// own name; at the CAS an instance is known by its InstanceID.
type InstanceRef string

// AttemptID names one run of an instance on a node: its InstanceRef and which run it is.
type AttemptID string

// ImageRef names an image in a registry, as in HOST/REPOSITORY@sha256:DIGEST.
type ImageRef string

// RuntimeName names a runtime: an image that a definition makes.
type RuntimeName string

// Address is where a server listens, as HOST:PORT. Some take a host alone, or unix: and a
// path; they say so.
type Address string

// ImageName names an image within a session.
type ImageName string

// SecretName names a secret within a session.
type SecretName string

// VolumeName names a volume within a session.
type VolumeName string
