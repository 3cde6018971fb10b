// Package build makes runtime images on the operator's side: it finds out which
// packages a definition means today, downloads them, writes the lock, has
// owner/rebuild make the image, and stores image and sources.
//
// It is convenience, not authority: whatever it fetches is judged by
// owner/rebuild, and an owner repeats that judgement from the same bytes. So
// mirrors and proxies need no trust and plain HTTP is enough.
//
// It owns the cache: a folder of files named by their SHA-256, complete or
// absent, and *.partial files of downloads that were interrupted. Builds that
// share a cache wait for each other (flock); Options are for one Build at a time.
//
// Begin with Build in build.go: it locks, resolves or reads the lock, fetches, builds,
// stores. cache.go is the cache with its downloads; apt.go asks this machine's apt for
// mirrors and proxies.
package build
