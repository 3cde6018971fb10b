package template_test

import (
	"os/exec"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/owner/template"
)

// The kernel itself says from which size on a variable is refused.
func TestVariablesFitTheKernel(t *testing.T) {
	const name = "KEYSTORE"
	for _, size := range []int{0, 100_000, 128<<10 - 10, 128<<10 - 9, 140_000} {
		c := exec.Command("/proc/self/exe", "-test.run=^$")
		c.Env = []string{name + "=" + strings.Repeat("y", size)}
		started := c.Run()
		refused := template.CheckVariableSize(name, size)
		if (started == nil) != (refused == nil) {
			t.Errorf("%d bytes: the kernel says %v, the check %v", size, started, refused)
		}
		if refused != nil && !strings.Contains(refused.Error(), name) {
			t.Error(refused)
		}
	}
}
