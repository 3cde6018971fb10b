package manager_test

import (
	"fmt"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
)

func ExampleParseMemory() {
	n, err := manager.ParseMemory("512MiB")
	fmt.Println(n, manager.FormatMemory(n), err)

	_, err = manager.ParseMemory("1K")
	fmt.Println(err)
	// Output:
	// 536870912 512M <nil>
	// memory: "1K": too small to start anything in (expected a size from 32M to 4096G); give a whole number and a unit, like 256M or 1Gi
}

// An app that nobody gave a name is called after its session.
func ExampleAppName() {
	name := manager.AppName("Acme/Web_Shop")
	fmt.Println(name, manager.ValidName(name), manager.DeployCommand("Acme/Web_Shop", ident.AppRef(name)))
	// Output: acme-web-shop true cupel deploy Acme/Web_Shop
}
