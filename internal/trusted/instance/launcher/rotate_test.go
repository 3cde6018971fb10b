package launcher

import (
	"crypto/sha256"
	"testing"

	"cupel.dev/cupel/api/owners"
)

// TestVolumeIsRekeyed: after a rotation a commit is sealed under the fresh key, and
// the one before opens it no more.
func TestVolumeIsRekeyed(t *testing.T) {
	t.Parallel()
	fresh := sha256.Sum256([]byte("fresh key"))
	first := newSandbox(t)
	first.addVolume(owners.ReadWrite)
	first.cas.reply.Volumes[0].NextKey = fresh[:]
	first.command(`echo precious > /home/app/data/f`)
	first.run(0)

	second := first.next(owners.ReadWrite)
	second.command(`cat /home/app/data/f`)
	second.refused(exitRefused, "volume_key")

	third := first.next(owners.ReadWrite)
	third.cas.reply.Volumes[0].Key = fresh[:]
	third.command(`cat /home/app/data/f`)
	third.run(0)
	third.wantOut("precious")
}
